"""Fixtures for runs of the continual-learning methods."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from method_runs import Methods  # noqa: E402

from tests.run_fixtures import fresh_logging, one_thread  # noqa: E402

__all__ = ["fresh_logging", "methods", "one_thread"]


@pytest.fixture
def methods(project: Path, clove_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Methods:
    """``methods.learn("attribute", words...)`` on a small clove-mini, one thread, in this process."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("CLOVE_ROOT", str(clove_mini))
    return Methods(tmp_path, clove_mini)
