"""Processes that a test waits for too long are ended, and say where they were."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.process_limit import end_processes, process_limit

INNER = "import time\ndef inner():\n    print('ready', flush=True)\n    time.sleep(600)\ninner()"
OUTER = f"import subprocess, sys\ndef outer():\n    subprocess.run([sys.executable, '-c', {INNER!r}])\nouter()"


def test_every_process_dumps_its_stack_when_it_is_ended() -> None:
    command = [sys.executable, "-c", OUTER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(end_processes()) == 2
        stacks = process.communicate()[1]
    assert process.returncode != 0
    assert "in inner" in stacks and "in outer" in stacks


def test_a_test_fails_that_waits_too_long_for_a_process() -> None:
    with pytest.raises(pytest.fail.Exception, match="after 0.2 s .*\n.* sleep 600"), process_limit(0.2):
        assert subprocess.run(["sleep", "600"]).returncode != 0


def test_a_test_in_time_passes() -> None:
    with process_limit(60):
        assert subprocess.run(["true"]).returncode == 0
