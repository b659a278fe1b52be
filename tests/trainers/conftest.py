"""Fixtures for runs of the tiny plugin."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import EXPERIMENT, MakeTiny, TinyRun


@pytest.fixture
def tiny(tmp_path: Path) -> MakeTiny:
    """``tiny("name", config={...})``: a run with a save_dir of that name and settings laid over the experiment's."""

    def make(name: str = "run", config: dict[str, Any] | None = None) -> TinyRun:
        if config is None:
            return TinyRun(tmp_path / name)
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps({"includes": [str(EXPERIMENT)]} | config))
        return TinyRun(tmp_path / name, path)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the runs in processes of their own have; the tiny model is slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """MMF's logger adds handlers for each run and never takes them away."""
    yield
    logging.captureWarnings(False)
    for name in ("mmf", "py.warnings"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)
