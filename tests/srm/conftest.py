"""Fixtures of the SRM tests, which ``srm_runs.py`` defines."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from srm_runs import fresh_accelerate, shared_world, srm, trained, world  # noqa: E402

__all__ = ["fresh_accelerate", "shared_world", "srm", "trained", "world"]
