"""A run that is killed and started again ends with the files of a run that was left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from srm_runs import Runs, file_bytes

TRAIN = Path(__file__).resolve().parents[2] / "SRM" / "train.py"
FLAGS = ("--n_train_epochs", "6", "--learning_rate", "1e-2")


def kill_when(srm: Runs, reached: Callable[[Path], bool]) -> None:
    """Start the run as a process of its own and kill it as soon as ``reached(run folder)``."""
    process = subprocess.Popen(
        [sys.executable, TRAIN, *srm.argv(*FLAGS)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    folder = srm.root / "distilgpt2_replay" / "distilgpt2_functional_oarlks"
    while not reached(folder):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_in_training_and_in_generation_it_ends_with_the_same_files(srm: Runs) -> None:
    undisturbed = file_bytes(srm(*FLAGS))
    srm.root = srm.root.with_name("killed")
    kill_when(srm, lambda folder: (folder / "unfinished" / "training.safetensors").exists())
    kill_when(
        srm,
        lambda folder: any(folder.glob("unfinished/replay_a_at_r*")) or any(folder.glob("*[[]a]_AT[[]r]*")),
    )
    kill_when(srm, lambda folder: (folder / "models" / "logical").exists())
    assert file_bytes(srm(*FLAGS)) == undisturbed


def test_what_a_kill_left_half_written_is_removed(srm: Runs) -> None:
    folder = srm("--debug")
    (folder / ".oarlks_REPLAY[o]_AT[a].npy.x.tmp").write_text("half")
    (folder / "models" / ".scenetext.tmp").mkdir()
    srm("--debug")
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_parts_of_a_replay_file_that_are_there_are_not_generated_again(
    srm: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SRM.generate import Generator

    monkeypatch.setattr("SRM.replay.PART", 3)
    real, calls, stop_at = Generator.texts, [], 0

    def texts(self: Generator, *args: object) -> object:
        calls.append(args[0])
        if len(calls) == stop_at:
            raise OSError("stopped")
        return real(self, *args)

    monkeypatch.setattr(Generator, "texts", texts)
    undisturbed = file_bytes(srm("--debug"))
    parts, stop_at = calls.copy(), 5
    assert len(parts) > 15
    calls.clear()
    srm.root = srm.root.with_name("stopped")
    assert "stopped" in srm.error("--debug")
    assert calls == parts[:5]
    stop_at = 0
    assert file_bytes(srm("--debug")) == undisturbed
    assert calls == parts[:5] + parts[4:]
