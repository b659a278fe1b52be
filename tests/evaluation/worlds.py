"""Experiments of tiny models, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmclvqa.clove import experiments as places
from mmclvqa.evaluation.outcome import Sweep
from mmclvqa.evaluation.setup import Setup
from mmclvqa.evaluation.sweep import checkpoints, sweep
from tests.plugin.conftest import Runner

CONFIG = "EXP_CONFIG/mini"
SETTING, ORDER = "functional", "lkosra"
LIMIT = 300
"""Seconds after which a process that a test started is ended."""


@dataclass
class World:
    """Experiments of method ``ft`` along ``lkosra``.

    Attributes:
        root: ``$ROOT``.
        runner: of ``mmf_run``.
        setup: what the models are evaluated with.
    """

    root: Path
    runner: Runner
    setup: Setup

    @property
    def save(self) -> str:
        return str(self.root / places.SAVE)

    @property
    def results(self) -> Path:
        return Path(places.run_folder(SETTING, ORDER, "val_ft", self.save))

    def checkpoint(self, letter: str) -> Path:
        return checkpoints(SETTING, ORDER, "ft", self.save)[letter]

    def sweep(self, **options: Any) -> tuple[Sweep, list[str]]:
        """The sweep, and the lines it told."""
        told: list[str] = []
        return sweep(SETTING, ORDER, "ft", self.save, self.setup, tell=told.append, **options), told


def write_blurred(weights: dict[str, torch.Tensor], path: Path, seed: int) -> None:
    """The same weights with a little noise."""
    draws = torch.Generator().manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: v + 0.01 * torch.randn(v.shape, generator=draws) for k, v in weights.items()}, path)
