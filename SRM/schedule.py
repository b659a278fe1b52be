"""The learning rate, as a function of the examples seen: linear warm-up, then decay (after LAMOL)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning rates of one task.

    Attributes:
        peak: the rate after warm-up.
        warm_up: examples until then.
        total: examples of all epochs.
        style: ``linear`` or ``cos`` (to 0), ``const`` or ``None`` (no decay).
    """

    peak: float
    warm_up: float
    total: int
    style: str

    def rate(self, seen: float) -> float:
        """The rate where ``seen`` examples have been seen; for an update that is the middle of its batch."""
        if seen < self.warm_up:
            return self.peak * seen / self.warm_up
        done = min(1.0, (seen - self.warm_up) / max(1.0, self.total - self.warm_up))
        if self.style == "linear":
            return self.peak * (1 - done)
        if self.style == "cos":
            return self.peak * (1 + math.cos(math.pi * done)) / 2
        return self.peak
