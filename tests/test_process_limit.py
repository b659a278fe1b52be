"""Processes that a test waits for too long are ended, and say where they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.process_limit import end_processes, process_limit

INNER = "import time\ndef inner():\n    print('ready', flush=True)\n    time.sleep(600)\ninner()"
OUTER = """\
import subprocess, sys
def outer():
    with open(sys.argv[1], 'w') as inner_stderr:
        subprocess.run([sys.executable, '-c', sys.argv[2]], stderr=inner_stderr)
outer()
"""


def test_every_process_dumps_its_stack_when_it_is_ended(tmp_path: Path) -> None:
    # A file of its own for each process: both write at the same time, and their lines would mix.
    inner_stderr = tmp_path / "inner_stderr"
    command = [sys.executable, "-c", OUTER, str(inner_stderr), INNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(end_processes()) == 2
        outer_stack = process.communicate()[1]
    assert process.returncode != 0
    assert "in outer" in outer_stack
    assert "in inner" in inner_stderr.read_text()


def test_a_test_fails_that_waits_too_long_for_a_process() -> None:
    with pytest.raises(pytest.fail.Exception, match="after 0.2 s .*\n.* sleep 600"), process_limit(0.2):
        assert subprocess.run(["sleep", "600"]).returncode != 0


def test_a_test_in_time_passes() -> None:
    with process_limit(60):
        assert subprocess.run(["true"]).returncode == 0
