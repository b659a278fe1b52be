"""Runs of the tiny plugin by the command line, in this process or in a separate one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmclvqa import cli
from tests.run_fixtures import one_line_error

PLUGIN = Path(__file__).parent / "tiny_plugin"
EXPERIMENT = PLUGIN / "experiment.yaml"


@dataclass
class TinyRun:
    """A run of the tiny experiment with its save_dir."""

    save_dir: Path
    config: Path = EXPERIMENT
    words: list[str] = field(default_factory=list)

    def opts(self, *words: str) -> list[str]:
        fixed = [f"config={self.config}", f"env.user_dir={PLUGIN}", f"env.save_dir={self.save_dir}"]
        return [*fixed, *self.words, *words]

    def run(self, *words: str) -> TinyRun:
        cli.run(self.opts(*words))
        return self

    def error(self, *words: str) -> str:
        """Run a command that must fail, and return its one-line error."""
        return one_line_error(self.opts(*words))

    def command(self, *words: str, launcher: tuple[str, ...] = ()) -> list[str]:
        return [sys.executable, *launcher, "-m", "mmclvqa.cli", *self.opts(*words)]

    def subprocess(self, *words: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = self.command(*words, launcher=launcher)
        return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    def load(self, name: str) -> Any:
        return torch.load(self.save_dir / name, weights_only=True)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.load("tiny_final.pth")

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.save_dir / "results.json").read_text())

    @property
    def log(self) -> str:
        return (self.save_dir / "train.log").read_text()


MakeTiny = Callable[..., TinyRun]
"""``tiny("name", config={...})``: see the fixture."""


def environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
