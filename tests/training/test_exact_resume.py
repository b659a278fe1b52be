"""A run that is killed and given again ends with the very weights of one that was not."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import MakeTiny, TinyRun, environment, same_weights

RESUME = "checkpoint.resume=true"


def killed_at(tiny: MakeTiny, update: int, name: str = "killed", **training: Any) -> TinyRun:
    """A run that kills itself with SIGKILL after an update, once."""
    marker = tiny(name).save_dir.with_suffix(".marker")
    callbacks = [{"type": "kill_at", "params": {"update": update, "marker": str(marker)}}]
    return tiny(name, {"training": {"callbacks": callbacks, **training}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "workers", "interval"),
    [(20, 0, 10), (15, 0, 14), (27, 2, 10)],
    ids=["before an evaluation", "after an epoch's end", "in an epoch, with workers"],
)
def test_a_killed_run_resumes_to_the_same_weights(tiny: MakeTiny, update: int, workers: int, interval: int) -> None:
    words = (
        RESUME, f"training.num_workers={workers}", f"training.checkpoint_interval={interval}", "run_type=train_val"
    )
    straight = tiny("straight").run(*words)
    run = killed_at(tiny, update)
    assert run.subprocess(*words).returncode == -signal.SIGKILL
    assert not (run.save_dir / "tiny_final.pth").exists()
    run.run(*words)
    assert same_weights(run.weights, straight.weights)
    assert same_weights(run.load("current.ckpt")["model"], straight.load("current.ckpt")["model"])
    evaluations = [
        [(e["weights"], e["update"], e["metrics"], e["loss"]) for e in each.results["evaluations"]]
        for each in (run, straight)
    ]
    assert evaluations[0] == evaluations[1]
    assert run.results["training_losses"] == straight.results["training_losses"]


@pytest.mark.slow
def test_a_new_run_in_the_folder_of_another_resumes_as_itself(tiny: MakeTiny) -> None:
    words = ("training.seed=5", "training.checkpoint_interval=5")
    straight = tiny("straight").run(*words)
    tiny("killed").run("training.seed=4")
    run = killed_at(tiny, 7)
    assert run.subprocess(*words).returncode == -signal.SIGKILL
    run.run(*words, RESUME)
    assert same_weights(run.weights, straight.weights)


@pytest.mark.slow
def test_a_run_killed_from_outside_resumes_to_the_same_weights(tiny: MakeTiny) -> None:
    words = (
        RESUME,
        "training.update_frequency=2",
        "training.max_updates=400",
        "training.evaluation_interval=100",
        "training.checkpoint_interval=50",
    )
    straight = tiny("straight").run(*words)
    run = tiny("killed")
    process = subprocess.Popen(run.command(*words), env=environment(), stdout=subprocess.DEVNULL)
    while not (run.save_dir / "current.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    run.run(*words)
    assert "resuming" in run.log
    assert same_weights(run.weights, straight.weights)


def test_callbacks_and_early_stopping_go_on_with_their_state(tiny: MakeTiny, tmp_path: Path) -> None:
    journal = {"type": "journal", "params": {"path": str(tmp_path / "journal")}}
    first = tiny("run", {"training": {"callbacks": [journal]}}).run("training.max_updates=10")
    (first.save_dir / "tiny_final.pth").unlink()
    second = tiny("run", {"training": {"callbacks": [journal]}}).run(RESUME)
    # The journal asserts that it counted every update once, also those before.
    assert second.load("current.ckpt")["callbacks"][0]["state"] == {"updates": 30}
    assert second.results["run"]["training"]["best_update"] == 10


def test_a_run_killed_after_its_last_checkpoint_only_finishes(tiny: MakeTiny) -> None:
    run = tiny().run()
    weights = run.weights
    (run.save_dir / "tiny_final.pth").unlink()
    run.run(RESUME)
    assert same_weights(run.weights, weights)
    assert [e["update"] for e in run.results["evaluations"]] == [10, 20, 30]


def test_a_finished_run_is_not_trained_again_but_evaluated(tiny: MakeTiny) -> None:
    run = tiny().run()
    before = (run.save_dir / "tiny_final.pth").stat().st_mtime_ns
    run.run(RESUME, "run_type=train_inference", "training.max_updates=60")
    assert (run.save_dir / "tiny_final.pth").stat().st_mtime_ns == before
    assert "training is finished" in run.log
    last = run.results["evaluations"][-1]
    assert (last["weights"], last["split"]) == ("tiny_final.pth", "test")


def test_resume_without_anything_to_resume_starts_from_the_beginning(tiny: MakeTiny) -> None:
    run = tiny().run(RESUME)
    assert "nothing to resume" in run.log
    assert same_weights(run.weights, tiny("plain").run().weights)


def test_resume_best_goes_on_from_the_best_checkpoint(tiny: MakeTiny) -> None:
    run = tiny().run()
    best = run.load("best.ckpt")["num_updates"]
    (run.save_dir / "tiny_final.pth").unlink()
    run.run(RESUME, "checkpoint.resume_best=true")
    assert f"best.ckpt at update {best}" in run.log


def test_resume_falls_back_on_the_other_checkpoint(tiny: MakeTiny) -> None:
    run = tiny().run()
    for name in ("tiny_final.pth", "current.ckpt"):
        (run.save_dir / name).unlink()
    run.run(RESUME)
    assert "resuming" in run.log and "best.ckpt" in run.log


def test_the_checkpoint_of_the_run_wins_over_resume_file(tiny: MakeTiny) -> None:
    other = tiny("other").run("training.seed=9")
    words = (RESUME, f"checkpoint.resume_file={other.save_dir / 'tiny_final.pth'}")
    run = tiny().run(*words, "training.max_updates=10")
    assert "starting from" in run.log and "other/tiny_final.pth" in run.log
    (run.save_dir / "tiny_final.pth").unlink()
    run.run(*words)
    assert "resuming" in run.log
    straight = tiny("straight").run(*words)
    assert same_weights(run.weights, straight.weights)


def test_a_fresh_seed_is_kept_when_the_run_is_resumed(tiny: MakeTiny) -> None:
    run = tiny().run("training.seed=-1", "training.max_updates=10")
    seed = run.results["run"]["seed"]
    (run.save_dir / "tiny_final.pth").unlink()
    run.run("training.seed=-1", RESUME)
    assert run.load("current.ckpt")["seed"] == seed != -1
    assert same_weights(run.weights, tiny("straight").run(f"training.seed={seed}").weights)


def test_another_batch_size_goes_on_at_the_same_record(tiny: MakeTiny) -> None:
    run = tiny().run("training.max_updates=10")
    (run.save_dir / "tiny_final.pth").unlink()
    state = run.load("current.ckpt")
    assert (state["current_epoch"], state["batch"]) == (2, 3)
    run.run(RESUME, "training.batch_size=4", "training.max_updates=11")
    assert "training.batch_size=4 (was 8)" in run.log and "batch_size changed" not in run.log
    assert run.load("current.ckpt")["batch"] == 7
    other = tiny("other").run(f"checkpoint.resume_file={run.save_dir / 'current.ckpt'}", "training.max_updates=12")
    assert "current.ckpt: batch_size changed from 4 to 8" in other.log
