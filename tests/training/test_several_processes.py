"""Two processes (gloo, CPU) do what one does with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import MakeTiny, environment

from tests.forked_runs import RUN, many_runs

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
"""The launcher takes a free port itself; one that is looked for here may be taken in between."""


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(tiny: MakeTiny) -> None:
    words = (
        "model_config.tiny.dropout=0",
        "run_type=train_val_inference",
        "training.eval_batch_size=4",
        "training.update_frequency=2",
        "evaluation.predict=false",
    )
    config = {"evaluation": {"metrics": ["tiny_accuracy", "accuracy"]}}
    one = tiny("one", config).run(*words)
    two = tiny("two", config)
    done = two.subprocess(*words, launcher=LAUNCHER)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 processes" in two.log
    single, double = one.load("current.ckpt")["model"], two.load("current.ckpt")["model"]
    assert max(float((single[name] - double[name]).abs().max()) for name in single) < 1e-5
    for a, b in zip(one.results["evaluations"], two.results["evaluations"], strict=True):
        assert (a["update"], a["split"], a["records"]) == (b["update"], b["split"], b["records"])
        assert a["metrics"] == pytest.approx(b["metrics"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert len(two.load("current.ckpt")["random_state"]) == 2


@pytest.mark.slow
def test_two_processes_write_predictions_in_record_order(tiny: MakeTiny) -> None:
    trained = tiny("one").run("training.max_updates=5")
    words = (
        "run_type=val",
        "evaluation.predict=true",
        "training.eval_batch_size=4",
        f"checkpoint.resume_file={trained.save_dir / 'tiny_final.pth'}",
    )
    two = tiny("two")
    done = two.subprocess(*words, launcher=LAUNCHER)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (two.save_dir / "tiny_tiny_5" / "reports").iterdir()
    assert [entry["index"] for entry in json.loads(file.read_text())] == list(range(21))


@pytest.mark.slow
def test_processes_part_before_they_exit(tiny: MakeTiny, tmp_path: Path) -> None:
    """A script that calls the command line's function goes on, without a group, also after an error."""
    script = tmp_path / "run_and_look.py"
    script.write_text(
        "import sys, torch.distributed as dist\n"
        "from mmclvqa import cli\n"
        "for word in ('training.lr_ratio=wrong', 'training.max_updates=1'):\n"
        "    try:\n        cli.run([*sys.argv[1:], word])\n"
        "    except SystemExit as stopped:\n        print(stopped.code)\n"
        "    print('left' if dist.is_initialized() else 'parted')\n"
    )
    two = tiny("two")
    command = [sys.executable, *LAUNCHER, str(script), *two.opts()]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("parted") == 4 and "left" not in done.stdout
    assert done.stdout.count("error: ") == 2 and (two.save_dir / "tiny_final.pth").exists(), done.stdout[-2000:]


@pytest.mark.long
@pytest.mark.parametrize("busy", [False, True], ids=["alone", "on busy cores"])
def test_no_run_of_two_processes_hangs_or_aborts(tiny: MakeTiny, busy: bool) -> None:
    """One run in six never ended when the group was freed; PROCESS_RUNS says how many runs there are."""
    runs = int(os.environ.get("PROCESS_RUNS", "10"))
    words = ("training.max_updates=2", "training.evaluation_interval=1", "run_type=train_val")
    assert many_runs("mmf_run", runs, tiny(f"run{RUN}").opts(*words), busy) == [(0, 0)] * runs


@pytest.mark.long
def test_no_failing_run_of_two_processes_hangs_or_aborts(tiny: MakeTiny) -> None:
    """One process meets a broken record, while data loading processes are at work."""
    runs = int(os.environ.get("PROCESS_RUNS", "10"))
    words = ("training.num_workers=1", "dataset_config.tiny.broken_record=7")
    assert many_runs("mmf_run", runs, tiny(f"run{RUN}").opts(*words)) == [(1, 1)] * runs
