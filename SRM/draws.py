"""Seeds of random draws: each draw has its own, made of the run's seed and what is drawn."""

from __future__ import annotations

import hashlib


def named_seed(seed: int, *names: str | int) -> int:
    """A seed of 63 bits that depends on every name."""
    text = "\0".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
