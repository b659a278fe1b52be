"""Random generators of their own for everything that is drawn, seeded from the run's seed and a name."""

from __future__ import annotations

import hashlib
import random

import numpy as np


def named_random(seed: int, *names: object) -> random.Random:
    """A generator for symbolic draws; equal seeds and names give equal draws."""
    return random.Random(_digest(seed, names))


def named_generator(seed: int, *names: object) -> np.random.Generator:
    """A generator for numeric draws; equal seeds and names give equal draws."""
    return np.random.Generator(np.random.PCG64(_digest(seed, names)))


def _digest(seed: int, names: tuple[object, ...]) -> int:
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
