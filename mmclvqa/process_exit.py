"""Process groups: how long processes wait, and how a process leaves its group without torch's destructors.

Freeing a gloo process group can hang or abort a process. ``torch.distributed.destroy_process_group()`` only
drops Python's reference; the reducer of a DDP module may be the group's last owner, and its destructor joins
gloo's threads while it holds the GIL. If one of these threads is freeing the tensor of a finished collective,
it waits for the GIL, and neither ever continues. A gloo thread that asks for the GIL after the interpreter has
begun to finalize aborts the process instead. Therefore the reference to the group is kept, so that no
destructor joins its threads, and the program ends through :func:`os._exit`.

The module imports torch only when it is needed and never imports MMF, so that SRM can use it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

from mmclvqa.clove.text import INTERRUPTED

PROCESS_TIMEOUT = timedelta(days=7)
"""How long the processes of a run wait for each other; torch's 10 minutes are less than a long generation takes."""

_left_groups: list[Any] = []
"""The process groups that this process has left, kept so that no destructor frees them."""


def leave_process_group() -> None:
    """Leave torch's default process group, if this process is in one, without freeing it.

    Call it while everything that uses the group (the DDP module, the optimizer) is still referenced. The
    program should end through :func:`run_program`; in any other program the group is freed before the
    interpreter finalizes.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        if not _left_groups:
            atexit.register(_free_left_groups)
        _left_groups.append(distributed.group.WORLD)
        distributed.destroy_process_group()


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run the main function of a program and end the program with its exit code.

    A process that was never in a process group ends through :func:`sys.exit`. Any other process does what the
    interpreter does on exit (print the message of a ``SystemExit`` or a traceback, wait for threads, call the
    ``atexit`` functions, flush the standard streams), but frees nothing.

    Args:
        main: returns the exit code, None for 0; it may raise ``SystemExit``.

    Raises:
        SystemExit: the process was never in a process group.
        BaseException: what ``main`` raises in a process that was never in a process group.
    """
    code: Any
    try:
        code = main()
    except SystemExit as stopped:
        code = stopped.code
    except BaseException as error:
        if not _has_been_in_group():
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    if not _has_been_in_group():
        sys.exit(code)
    _end_process(code)


def _has_been_in_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return bool(_left_groups) or (
        distributed is not None and distributed.is_available() and distributed.is_initialized()
    )


def _end_process(code: Any) -> NoReturn:
    """End this process with ``code`` (see ``sys.exit``), like the interpreter up to where it begins to free objects."""
    status = code if isinstance(code, int) else int(code is not None)
    try:
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
        atexit.unregister(_free_left_groups)
        # As at the end of a child process of multiprocessing; atexit flushes logs, ends data loading workers and
        # removes temporary folders.
        threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        # Raised by a signal handler, for example by a second Ctrl-C.
        traceback.print_exc()
        status = status or 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                status = status or 120  # the interpreter's own exit code in this case
        os._exit(status)


def _free_left_groups() -> None:
    # Unlike a C++ destructor, dropping Python's reference releases the GIL while gloo's threads are joined.
    _left_groups.clear()
