"""What a user sees while a run goes on: a tqdm bar on a terminal, plain log lines otherwise."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

LOGGERS = ("mmf", "py.warnings")
"""Loggers whose console lines must not tear the bar."""
POSTFIX_SECONDS = 1.0
"""Seconds between two losses shown on the bar; each costs a GPU a synchronisation."""


def on_terminal() -> bool:
    """Whether a bar can be shown."""
    return sys.stderr.isatty()


def clock(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class Progress:
    """Progress of training.

    Args:
        total: updates of the whole run.
        done: updates done before (a resumed run).
        visible: show a bar.
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
    def running(self) -> Iterator[Progress]:
        """Shows the bar inside; log lines are written above it."""
        with contextlib.ExitStack() as stack:
            if self._visible:
                stack.enter_context(logging_redirect_tqdm([logging.getLogger(name) for name in LOGGERS]))
            stack.callback(self._bar.close)
            yield self

    def advance(self, loss: Any) -> None:
        """One more update; ``loss`` is a 0-dim tensor, read only when it is shown."""
        self._bar.update()
        if self._visible and time.monotonic() - self._shown > POSTFIX_SECONDS:
            self._bar.set_postfix(loss=f"{float(loss):.4f}")
            self._shown = time.monotonic()

    def speed(self, num_updates: int) -> dict[str, str]:
        """Updates per second since the last call, and the time left with the evaluations to come."""
        elapsed = time.monotonic() - self._since
        rate = (num_updates - self._logged) / elapsed if elapsed > 0 else 0.0
        self._since, self._logged = time.monotonic(), num_updates
        left = (self._total - num_updates) / rate + self._evaluation_seconds if rate else float("nan")
        return {"ups": f"{rate:.2f}", "time left": clock(left) if rate else "?"}

    def pause(self, seconds: float, remaining_evaluations: int) -> None:
        """An evaluation took ``seconds``, which do not count as training; so many are to come."""
        self._since += seconds
        self._evaluation_seconds = seconds * remaining_evaluations


def evaluation_bar(batches: Any, total: int, split: str, visible: bool) -> Any:
    """``batches`` with a bar while they are evaluated."""
    return tqdm(
        batches, total=total, desc=split, unit="batch", leave=False, dynamic_ncols=True, disable=not visible
    )
