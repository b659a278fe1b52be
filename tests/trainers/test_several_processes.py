"""Two processes (gloo, CPU) do what one does with the same global batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import MakeTiny, environment

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
@pytest.mark.parametrize("word", ["training.max_updates=1", "training.lr_ratio=wrong"])
def test_processes_part_before_they_exit(tiny: MakeTiny, tmp_path: Path, word: str) -> None:
    """With the group still up, one exit in eight was an abort ("terminate called ...") on busy cores."""
    script = tmp_path / "run_and_look.py"
    script.write_text(
        "import sys, torch.distributed as dist\n"
        "from mmclvqa import cli\n"
        "try:\n    cli.run(sys.argv[1:])\n"
        "except SystemExit as stopped:\n    print(stopped.code)\n"
        "print('left' if dist.is_initialized() else 'parted')\n"
    )
    command = [sys.executable, *LAUNCHER, str(script), *tiny("two").opts(word)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("parted") == 2 and "left" not in done.stdout
    assert ("error: " in done.stdout) == (word != "training.max_updates=1"), done.stdout[-2000:]
