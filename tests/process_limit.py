"""A time limit for the processes of a test, with stack dumps of those that exceed it."""

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
"""Time limit for the processes of a test, in seconds."""
LONG_LIMIT = 3600.0
"""Time limit for the processes of a test marked ``long``, in seconds."""
DUMP_SECONDS = 3.0
"""Time that processes have for writing their stacks, in seconds."""


@contextlib.contextmanager
def process_limit(seconds: float) -> Iterator[None]:
    """Abort descendants of this process that run longer than ``seconds``, and fail the test.

    Python processes write the stacks of all their threads to stderr (tests/conftest.py sets PYTHONFAULTHANDLER), and
    so does this process.
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
    """Abort all descendants of this process and return a line for each: process ID and command."""
    processes = psutil.Process().children(recursive=True)
    if processes:
        faulthandler.dump_traceback(sys.__stderr__)
    ended = []
    # Parents first: a launcher that notices the end of a worker would end the others before they write their stacks.
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            ended.append(f"{process.pid} {' '.join(process.cmdline())}"[:300])
            process.send_signal(signal.SIGABRT)
    if processes:
        # Not waiting for the processes leaves their exit codes to the code that started them.
        time.sleep(DUMP_SECONDS)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return ended
