"""Programs that were in a process group end as any program does, but free nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, multiprocessing, sys, time
from mmclvqa.process_exit import leave_process_group, run_program

class Held:
    def __del__(self):
        print("freed")

held = Held()
atexit.register(print, "atexit")

def main():
    if {group}:
        import torch.distributed as dist
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        {ending}
    finally:
        if {group}:
            leave_process_group()

run_program(main)
"""


def run(project: Path, ending: str, group: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(ending=ending, group=group)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        ("return None", 0, ""),
        ("return 3", 3, ""),
        ("sys.exit('error: a line')", 1, "error: a line"),
        ("raise RuntimeError('a fault')", 1, "RuntimeError: a fault"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("multiprocessing.Process(target=time.sleep, args=[600], daemon=True).start()", 0, ""),
    ],
    ids=["None", "code", "message", "fault", "interrupt", "child process"],
)
def test_a_program_that_was_in_a_group_ends_with_its_exit_code(
    project: Path, ending: str, code: int, message: str
) -> None:
    done = run(project, ending)
    assert done.returncode == code, done.stderr
    assert done.stdout == "atexit\n"
    assert done.stderr.rstrip().endswith(message)
    assert ("Traceback" in done.stderr) == ending.startswith("raise")


@pytest.mark.parametrize(
    ("ending", "code"), [("return 3", 3), ("sys.exit('error: a line')", 1), ("raise RuntimeError('a fault')", 1)]
)
def test_a_program_without_a_group_ends_through_the_interpreter(project: Path, ending: str, code: int) -> None:
    done = run(project, ending, group=False)
    assert done.returncode == code, done.stderr
    assert done.stdout == "atexit\nfreed\n"


@pytest.mark.slow
def test_a_group_that_is_left_is_not_freed_before_the_end() -> None:
    code = (
        "import weakref, torch.distributed as dist\n"
        "from mmclvqa.process_exit import leave_process_group\n"
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
        "weakref.finalize(dist.group.WORLD, print, 'freed')\n"
        "leave_process_group()\n"
        "assert not dist.is_initialized()\n"
        "print('left')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "left\nfreed\n"
