"""Fixture that runs the console script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.dataset_builds import build as build  # a fixture

OBJECT_TASK = "EXP_CONFIG/mini/functional/cl_object_unicl_standalone.yaml"
TINY = (
    "model_config.unicl.text_bert.num_hidden_layers=1",
    "model_config.unicl.mmt.num_hidden_layers=1",
    "training.batch_size=16",
    "training.num_workers=1",
    "training.log_interval=1",
)
"""Overrides with which a run on clove-mini takes seconds."""


class Runner:
    """Runs ``mmf_run`` in the project's folder, as a user does."""

    def __init__(self, project: Path, data: Path, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.environment = {**os.environ, "CLOVE_ROOT": str(data), "ROOT": str(folder), "HF_HUB_OFFLINE": "1"}

    def overrides(
        self, *words: str, config: str | Path = OBJECT_TASK, model: str = "unicl", tiny: bool = True
    ) -> list[str]:
        return [f"config={config}", f"model={model}", "dataset=clvqa", *(TINY if tiny else ()), *words]

    def command(self, *words: str, **kwargs: Any) -> list[str]:
        return [sys.executable, "-m", "mmclvqa.cli", *self.overrides(*words, **kwargs)]

    def __call__(self, *words: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, **kwargs), cwd=self.project, env=self.environment, capture_output=True, text=True
        )

    def results(self, save_dir: Path) -> list[dict[str, Any]]:
        found = json.loads((save_dir / "results.json").read_text())
        return found["evaluations"] if isinstance(found, dict) else found

    def killed_when(self, arrived: Callable[[], bool], *words: str) -> None:
        """Start a run, wait until ``arrived``, then kill it and its data loading workers with SIGKILL."""
        process = subprocess.Popen(
            self.command(*words),
            cwd=self.project,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not arrived():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def mmf_run(project: Path, clove_mini: Path, tmp_path: Path) -> Runner:
    """Return ``mmf_run(override, ...)``, which runs on clove-mini with experiments in the folder of the test."""
    return Runner(project, clove_mini, tmp_path / "experiments")
