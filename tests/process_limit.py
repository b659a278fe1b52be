"""A time limit for the processes of a test, with a stack dump of each that is still running."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

LIMIT = 300.0
"""Seconds for the processes of a test."""
LONG_LIMIT = 3600.0
"""Seconds for those of a test marked ``long``."""
DUMP_SECONDS = 3.0
"""How long processes have to write their stacks."""


@contextlib.contextmanager
def process_limit(seconds: float) -> Iterator[None]:
    """Abort the processes below this one that still run after ``seconds``, and fail.

    Python processes write the stacks of all their threads to stderr (tests/conftest.py sets
    PYTHONFAULTHANDLER); the stacks of this process are written, too.
    """
    done = threading.Event()
    ended: list[str] = []

    def watch() -> None:
        pause = seconds
        while not done.wait(pause):
            ended.extend(end_processes())
            pause = DUMP_SECONDS

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()
    if ended:
        pytest.fail(f"after {seconds:g} s these processes still ran and were aborted:\n" + "\n".join(ended))


def end_processes() -> list[str]:
    """Abort all processes below this one; gives a line for each: process ID and command."""
    processes = psutil.Process().children(recursive=True)
    if processes:
        faulthandler.dump_traceback(sys.__stderr__)
    ended = []
    # Parents first: a launcher that sees one of its workers end would end the others before they write.
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            ended.append(f"{process.pid} {' '.join(process.cmdline())}"[:300])
            process.send_signal(signal.SIGABRT)
    if processes:
        # Waiting for the processes here would take their exit codes from whoever started them.
        time.sleep(DUMP_SECONDS)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return ended
