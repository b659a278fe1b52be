"""Progress of a run: a tqdm bar on a terminal, log lines otherwise, and TensorBoard files."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mmclvqa.clove.errors import TrainingError
from mmclvqa.clove.text import clock

LOGGERS = ("mmf", "py.warnings")
"""Loggers of a run: MMF adds handlers to them, and their console lines are written above the bar."""
POSTFIX_SECONDS = 1.0
"""Seconds between updates of the loss on the bar; each requires a synchronization with the GPU."""


def on_terminal() -> bool:
    """Return whether stderr is a terminal that can show a bar."""
    return sys.stderr.isatty()


class Progress:
    """The progress bar of training.

    Args:
        total: number of updates of the whole run.
        done: number of updates before a resumed run.
        visible: whether the bar is shown.
    """

    def __init__(self, total: int, done: int, visible: bool) -> None:
        self._total = total
        self._bar = tqdm(total=total, initial=done, unit="update", dynamic_ncols=True, disable=not visible)
        self._visible = visible
        self._shown = 0.0
        self._evaluation_seconds = 0.0
        self._logged = done
        self._since = time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar inside the context; log lines are written above it."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        with logging_redirect_tqdm(loggers) if self._visible else contextlib.nullcontext(), self._bar:
            yield

    def advance(self, loss: Any) -> None:
        """Count one update; ``loss`` (a 0-dim tensor) is read only when it is shown."""
        self._bar.update()
        if self._visible and time.monotonic() - self._shown > POSTFIX_SECONDS:
            self._bar.set_postfix(loss=f"{float(loss):.4f}")
            self._shown = time.monotonic()

    def speed(self, num_updates: int) -> dict[str, str]:
        """Return the updates per second since the last call, and the remaining time including evaluations."""
        elapsed = time.monotonic() - self._since
        rate = (num_updates - self._logged) / elapsed if elapsed > 0 else 0.0
        self._since, self._logged = time.monotonic(), num_updates
        left = (self._total - num_updates) / rate + self._evaluation_seconds if rate else float("nan")
        return {"ups": f"{rate:.2f}", "time left": clock(left) if rate else "?"}

    def pause(self, seconds: float, remaining_evaluations: int) -> None:
        """Exclude an evaluation of ``seconds`` from the training speed; ``remaining_evaluations`` are expected."""
        self._since += seconds
        self._evaluation_seconds = seconds * remaining_evaluations


def evaluation_bar(batches: Any, total: int, split: str, visible: bool) -> Any:
    """Return ``batches`` with a progress bar."""
    return tqdm(batches, total=total, desc=split, unit="batch", leave=False, dynamic_ncols=True, disable=not visible)


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
                "or set training.tensorboard=false"
            ) from None
        logs = Path(env.log_dir or f"{env.save_dir}/logs")
        folder = env.tensorboard_logdir or logs / time.strftime("tensorboard_%Y-%m-%dT%H:%M:%S")
        self._writer = SummaryWriter(str(folder))

    def add(self, values: Mapping[str, float], num_updates: int) -> None:
        """Write scalars of an update."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, num_updates)
        self._writer.flush()
