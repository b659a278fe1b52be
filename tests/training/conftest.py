"""Fixtures for runs of the tiny plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import EXPERIMENT, MakeTiny, TinyRun

from tests.run_fixtures import fresh_logging, one_thread

__all__ = ["fresh_logging", "one_thread", "tiny"]


@pytest.fixture
def tiny(tmp_path: Path) -> MakeTiny:
    """Return ``tiny("name", config={...})``: a run with a save_dir of that name and additional configuration."""

    def make(name: str = "run", config: dict[str, Any] | None = None) -> TinyRun:
        if config is None:
            return TinyRun(tmp_path / name)
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps({"includes": [str(EXPERIMENT)]} | config))
        return TinyRun(tmp_path / name, path)

    return make
