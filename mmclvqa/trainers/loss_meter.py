"""Training losses between two log lines, and the watch for NaN, without waiting for the GPU each time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmclvqa.trainers.errors import TrainingError
from mmclvqa.trainers.metrics import Gather

TOTAL = "train/total_loss"


class LossMeter:
    """Adds up losses on the device; only :meth:`check` and :meth:`averages` read from it.

    Args:
        device: of the losses.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # The first update whose loss or gradient was not finite; 0 for none.
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device)
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._updates = 0
        self._start_update()

    def _start_update(self) -> None:
        self.loss = torch.zeros((), device=self._device)

    def add(self, losses: Mapping[str, Tensor], total: Tensor, weight: float) -> None:
        """Add one batch: its losses, their total (0-dim), and its weight in the update."""
        self.loss = self.loss + total.detach() * weight
        for key, loss in losses.items():
            self._sums[key] = self._sums.get(key, 0.0) + loss.detach().mean() * weight

    def end_update(self, update: int, gradient_norm: Tensor | None) -> Tensor:
        """Close update number ``update``; returns its loss (0-dim, on the device)."""
        loss = self.loss
        bad = ~torch.isfinite(loss)
        if gradient_norm is not None:
            bad = bad | ~torch.isfinite(gradient_norm.to(self._device))
        self._first_bad = torch.where(bad & (self._first_bad == 0), update, self._first_bad)
        self._sums[TOTAL] = self._sums.get(TOTAL, 0.0) + loss
        self._updates += 1
        self._start_update()
        return loss

    def check(self, gather: Gather) -> None:
        """Stop the run when any process has seen a loss or gradient that is not finite.

        Raises:
            TrainingError: naming the first such update.
        """
        bad = [update for update in gather(int(self._first_bad)) if update]
        if bad:
            raise TrainingError(
                f"the loss or its gradient is NaN or infinite at update {min(bad)}; no checkpoint was "
                "written since; try a lower learning rate or look at that batch's records"
            )

    def averages(self, gather: Gather) -> dict[str, float]:
        """Mean of each loss over updates and processes since the last call."""
        parts = gather({key: float(total) / self._updates for key, total in self._sums.items()})
        self._reset()
        keys = dict.fromkeys(key for part in parts for key in part)
        return {key: sum(part.get(key, 0.0) for part in parts) / len(parts) for key in keys}
