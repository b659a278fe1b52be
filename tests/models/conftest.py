"""Makes ``tests.models.oracle`` importable, however pytest is started."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# The tensors are tiny, so that several threads cost more than they save.
torch.set_num_threads(1)
