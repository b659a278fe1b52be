"""Runs of a method on a task order by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmclvqa import cli
from mmclvqa.training.callbacks import Callback, register_callback
from tests.run_fixtures import one_line_error

ORDER = "oarlks"
TINY = (
    "run_type=train",
    "model_config.unicl.text_bert.num_hidden_layers=1",
    "model_config.unicl.mmt.num_hidden_layers=1",
    "training.batch_size=16",
    "training.num_workers=0",
    "training.max_updates=6",
    "training.checkpoint_interval=null",
    "training.evaluation_interval=null",
    "training.warmup_iterations=1",
    "checkpoint.resume=True",
)
KILLER = Path(__file__).resolve().parents[1] / "training" / "tiny_plugin"


@register_callback("captured")
class Captured(Callback):
    """Stores the trainer, so that a test can inspect it."""

    trainer: Any = None

    def on_train_start(self, trainer: Any) -> None:
        Captured.trainer = trainer


@dataclass
class Methods:
    """Runs in one folder."""

    folder: Path
    data: Path

    def words(self, task: str, *words: str, name: str = "run") -> list[str]:
        return [
            f"config=EXP_CONFIG/mini/functional/cl_{task}_unicl_standalone.yaml",
            "model=unicl",
            "dataset=clvqa",
            *TINY,
            "training.CL.use_cl=True",
            f"training.CL.task_order={ORDER}",
            f"env.save_dir={self.save_dir(task, name)}",
            *words,
        ]

    def save_dir(self, task: str, name: str = "run") -> Path:
        return self.folder / name / f"unicl_{task}"

    def learn(self, task: str, *words: str, name: str = "run") -> Path:
        """Train in this process and return the folder of the run."""
        cli.run(self.words(task, *words, name=name))
        return self.save_dir(task, name)

    def error(self, task: str, *words: str) -> str:
        """Run a command that must fail, and return its one-line error."""
        return one_line_error(self.words(task, *words))

    def process(self, task: str, *words: str, name: str = "run") -> int:
        """Train in a separate process and return its exit code."""
        command = [sys.executable, "-m", "mmclvqa.cli", *self.words(task, *words, name=name)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    def weights(self, task: str, name: str = "run") -> dict[str, torch.Tensor]:
        return torch.load(self.save_dir(task, name) / "unicl_final.pth", weights_only=True)

    def stored(self, task: str, name: str = "run") -> dict[str, Any]:
        return json.loads((self.save_dir(task, name) / "stored.json").read_text())

    def resume_file(self, task: str, name: str = "run") -> str:
        return f"checkpoint.resume_file={self.save_dir(task, name) / 'unicl_final.pth'}"
