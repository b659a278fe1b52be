"""The data set `clvqa` on clove-mini's files, for the tests of samples and batches."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmf.common.registry import registry
from mmf.utils.build import build_dataset
from mmf.utils.configuration import Configuration

from mmclvqa.cli import forget_earlier_run

REGIONS, WIDTH, SLOTS, STEPS = 16, 64, 10, 12


class Quiet:
    """In place of MMF's Logger: keeps what was written."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: Any, *args: Any, **kwargs: Any) -> None:
        self.lines.append(str(line))


Build = Callable[..., Any]


@pytest.fixture
def build(clove_mini: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """``build(task, split, *words, root=...)`` gives the data set as mmf_run would build it."""
    monkeypatch.chdir(project)

    def build(task: str, split: str, *words: str, root: Path = clove_mini) -> Any:
        forget_earlier_run()
        words = (
            f"config=EXP_CONFIG/mini/functional/cl_{task}_unicl_standalone.yaml",
            "model=unicl",
            "dataset=clvqa",
            f"env.clove_root={root}",
            f"dataset_config.clvqa.max_features={REGIONS}",
            f"dataset_config.clvqa.feature_dim={WIDTH}",
            f"dataset_config.clvqa.ocr_max_num={SLOTS}",
            f"dataset_config.clvqa.processors.answer_processor.params.max_copy_steps={STEPS}",
            *words,
        )
        config = Configuration(argparse.Namespace(opts=list(words), config_override=None)).get_config()
        registry.register("config", config)
        registry.register("writer", Quiet())
        registry.register("seed", 7)
        registry.register("current_device", torch.device("cpu"))
        return build_dataset("clvqa", config.dataset_config.clvqa, split)

    return build
