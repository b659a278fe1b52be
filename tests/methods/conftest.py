"""Fixtures for runs of the continual-learning methods."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from method_runs import Methods  # noqa: E402

from mmclvqa.cli import forget_earlier_run  # noqa: E402
from tests.run_fixtures import fresh_logging, one_thread  # noqa: E402

__all__ = ["fresh_logging", "methods", "one_thread"]


@pytest.fixture
def methods(project: Path, clove_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Methods:
    """Return ``methods``, whose ``learn("attribute", overrides...)`` trains on clove-mini in this process."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("CLOVE_ROOT", str(clove_mini))
    return Methods(tmp_path, clove_mini)


@pytest.fixture
def build_clvqa(clove_mini: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list]]:
    """``build_clvqa(task, split, *words)`` gives the data set on clove-mini and what was logged."""
    import torch
    from mmf.common.registry import registry
    from mmf.utils.build import build_dataset
    from mmf.utils.configuration import Configuration

    monkeypatch.chdir(project)
    lines: list[str] = []

    class Writer:
        def write(self, line: Any, *args: Any, **kwargs: Any) -> None:
            lines.append(str(line))

    def build(task: str, split: str, *words: str) -> tuple[Any, list]:
        forget_earlier_run()
        config = f"config=EXP_CONFIG/mini/functional/cl_{task}_unicl_standalone.yaml"
        opts = [config, "model=unicl", "dataset=clvqa", f"env.clove_root={clove_mini}", *words]
        read = Configuration(argparse.Namespace(opts=opts, config_override=None)).get_config()
        registry.register("config", read)
        registry.register("writer", Writer())
        registry.register("seed", 7)
        registry.register("current_device", torch.device("cpu"))
        return build_dataset("clvqa", read.dataset_config.clvqa, split), lines

    return build
