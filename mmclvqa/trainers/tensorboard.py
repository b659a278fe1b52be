"""TensorBoard files of a run (``training.tensorboard``); the package is optional."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmclvqa.trainers.errors import TrainingError


class TensorBoard:
    """Writes scalars to ``env.tensorboard_logdir``, or to ``<save_dir>/logs/tensorboard_<time>``.

    Raises:
        TrainingError: the package is not installed.
    """

    def __init__(self, env: Any) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise TrainingError(
                "training.tensorboard needs the package tensorboard: pip install tensorboard, "
                "or say training.tensorboard=false"
            ) from None
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        logs = Path(env.log_dir or f"{env.save_dir}/logs")
        folder = env.tensorboard_logdir or logs / f"tensorboard_{stamp}"
        self._writer = SummaryWriter(str(folder))

    def add(self, values: Mapping[str, float], num_updates: int) -> None:
        """Add scalars at an update."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, num_updates)
        self._writer.flush()
