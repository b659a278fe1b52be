"""Fixtures of the SRM tests; what they are made of stands in ``srm_runs.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from srm_runs import fresh_accelerate, shared_world, srm, world  # noqa: E402

__all__ = ["fresh_accelerate", "shared_world", "srm", "world"]
