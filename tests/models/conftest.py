"""These tests import their oracle as ``tests.models.oracle``, however pytest was started."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# The tensors here are tiny: handing them to several threads costs more than computing them.
torch.set_num_threads(1)
