"""What a user sees: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios

import pytest
from tiny_runs import MakeTiny, environment

from mmclvqa.training.progress import Progress, clock


def test_clock_says_hours_minutes_seconds() -> None:
    assert [clock(s) for s in (0, 61.4, 36000, -3)] == ["0:00:00", "0:01:01", "10:00:00", "0:00:00"]


def test_speed_counts_updates_since_the_last_line_and_not_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mmclvqa.training.progress.time.monotonic", lambda: now[0])
    progress = Progress(total=100, done=10, visible=False)
    now[0] += 5
    assert progress.speed(20) == {"ups": "2.00", "time left": "0:00:40"}
    now[0] += 25
    progress.pause(20, remaining_evaluations=3)
    # 10 updates in the 5 seconds that were not evaluation; 70 more at 2 a second, 3 evaluations of 20 s.
    assert progress.speed(30) == {"ups": "2.00", "time left": "0:01:35"}


@pytest.mark.slow
def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left(tiny: MakeTiny) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    run = tiny()
    command = run.command("training.max_updates=20", "training.log_interval=20")
    process = subprocess.Popen(command, env=environment(), stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:
        # Linux says so when the other side has closed.
        pass
    assert process.wait() == 0
    bar = next(line for line in shown.decode().split("\r") if "update/s" in line and "loss=" in line)
    assert "/20 [" in bar
    assert "update/s" not in run.log and "progress: 20/20" in run.log
