"""Fixtures for runs of the continual-learning methods."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from method_runs import Methods  # noqa: E402


@pytest.fixture
def methods(project: Path, clove_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Methods:
    """``methods.learn("attribute", words...)`` on a small clove-mini, one thread, in this process."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("CLOVE_ROOT", str(clove_mini))
    return Methods(tmp_path, clove_mini)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
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
