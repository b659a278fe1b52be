"""Which evaluation was the best so far, and whether to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmclvqa.configuration import ConfigError


class EarlyStopping:
    """Follows one value of the val split.

    Args:
        settings: ``training.early_stop``: ``criteria`` (``<dataset>/<metric>``, ``<dataset>/<loss>`` or
            ``total_loss``; ``val/`` before it may be left out), ``minimize``, ``patience`` in updates,
            ``enabled``.
    """

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        criteria = settings.criteria
        self.criteria = criteria if criteria.startswith("val/") else f"val/{criteria}"
        self.reset()

    def reset(self) -> None:
        """Forget all evaluations."""
        self.best_value: float | None = None
        self.best_update = 0
        self.stopped = False

    def update(self, num_updates: int, values: Mapping[str, float]) -> bool:
        """Take in an evaluation; True when it is the best so far.

        Raises:
            ConfigError: ``training.early_stop.criteria`` is none of the values.
        """
        if self.criteria not in values:
            raise ConfigError(
                f"training.early_stop.criteria={self._settings.criteria} is not evaluated on the val split; "
                f"there are {', '.join(values) or 'no values'}"
            )
        value = values[self.criteria]
        if not math.isnan(value) and self._is_better(value):
            self.best_value, self.best_update = value, num_updates
            return True
        self.stopped = self._settings.enabled and num_updates > self.best_update + self._settings.patience
        return False

    def _is_better(self, value: float) -> bool:
        if self.best_value is None:
            return True
        return value < self.best_value if self._settings.minimize else value > self.best_value

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"best_value": self.best_value, "best_update": self.best_update, "stopped": self.stopped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self.best_value, self.best_update = state["best_value"], state["best_update"]
        self.stopped = state["stopped"]
