"""Two processes (gloo, CPU) do what one does with the same global batch."""

from __future__ import annotations

import json
import socket

import pytest
from tiny_runs import MakeTiny


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


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
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}")
    two = tiny("two", config)
    done = two.subprocess(*words, launcher=launcher)
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
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}")
    two = tiny("two")
    done = two.subprocess(*words, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (two.save_dir / "tiny_tiny_5" / "reports").iterdir()
    assert [entry["index"] for entry in json.loads(file.read_text())] == list(range(21))
