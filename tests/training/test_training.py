"""The loop: what an update is, what an evaluation changes, what becomes the final weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from mmf.common.registry import registry
from tiny_runs import MakeTiny, same_weights


def difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_the_same_command_twice_gives_the_same_weights(tiny: MakeTiny) -> None:
    assert same_weights(tiny("one").run().weights, tiny("two").run().weights)


def test_another_seed_gives_other_weights(tiny: MakeTiny) -> None:
    assert not same_weights(tiny("one").run().weights, tiny("two").run("training.seed=6").weights)


def test_evaluating_and_loading_in_workers_do_not_change_what_is_learned(tiny: MakeTiny) -> None:
    seldom = tiny("one").run("training.evaluation_interval=30")
    often = tiny("two").run(
        "training.evaluation_interval=7", "training.num_workers=2", "training.evaluate_metrics=true"
    )
    assert same_weights(seldom.load("current.ckpt")["model"], often.load("current.ckpt")["model"])


def test_batches_accumulated_into_an_update_are_one_larger_batch(tiny: MakeTiny) -> None:
    # 50 records: 6 batches of 8 and one of 2; the last update of an epoch has fewer batches, and smaller ones.
    words = ("model_config.tiny.dropout=0", "training.max_updates=21")
    whole = tiny("one").run(*words, "training.batch_size=8")
    for size, frequency in ((4, 2), (2, 4)):
        parts = tiny(f"by_{size}").run(
            *words, f"training.batch_size={size}", f"training.update_frequency={frequency}"
        )
        assert difference(whole.load("current.ckpt")["model"], parts.load("current.ckpt")["model"]) < 1e-5


def test_the_best_weights_become_the_final_ones_without_early_stopping(tiny: MakeTiny) -> None:
    run = tiny().run()
    best = max(run.results["evaluations"], key=lambda e: e["metrics"]["tiny_accuracy"])
    state = run.load("best.ckpt")
    assert state["num_updates"] == best["update"] < 30
    assert same_weights(run.weights, state["model"])
    assert not same_weights(run.weights, run.load("current.ckpt")["model"])


def test_early_stopping_ends_the_run_after_patience_updates(tiny: MakeTiny) -> None:
    run = tiny().run(
        "training.early_stop.enabled=true", "training.early_stop.patience=4", "training.evaluation_interval=1",
        "training.early_stop.criteria=total_loss", "training.early_stop.minimize=false",
    )
    training = run.results["run"]["training"]
    # The loss falls, so that with minimize=false the first evaluation stays the best.
    assert (training["best_update"], training["updates"]) == (1, 6)
    assert "Early stopping" in run.log


@pytest.mark.parametrize("criteria", ["tiny/vqa", "tiny/accuracy", "tini/tiny_accuracy", "tiny/loss", "total_los"])
def test_criteria_that_is_not_evaluated_is_refused_before_training(tiny: MakeTiny, criteria: str) -> None:
    run = tiny()
    line = run.error(f"training.early_stop.criteria={criteria}")
    assert f"early_stop.criteria={criteria}" in line and "val/tiny/tiny_accuracy, val/tiny/tiny_accuracy/cl" in line
    assert "Starting training" not in run.log and not (run.save_dir / "config.yaml").exists()


@pytest.mark.parametrize("criteria", ["val/tiny/logit_bce", "tiny/tiny_accuracy/class_0", "total_loss"])
def test_losses_and_values_of_records_that_the_first_batch_lacks_are_criteria(tiny: MakeTiny, criteria: str) -> None:
    run = tiny().run(f"training.early_stop.criteria={criteria}", "training.eval_batch_size=1", "training.max_updates=2")
    assert f"best_val/{criteria.removeprefix('val/')}: " in run.log


def test_max_epochs_counts_epochs_and_goes_before_max_updates(tiny: MakeTiny) -> None:
    run = tiny().run("training.max_epochs=2", "training.max_updates=3")
    assert run.results["run"]["training"]["updates"] == 14


def test_a_last_update_between_evaluations_is_evaluated(tiny: MakeTiny) -> None:
    run = tiny().run("training.max_updates=13")
    assert [e["update"] for e in run.results["evaluations"]] == [10, 13]


def test_without_a_val_split_the_last_weights_are_final(tiny: MakeTiny) -> None:
    run = tiny().run("dataset_config.tiny.records.val=0")
    assert same_weights(run.weights, run.load("current.ckpt")["model"])
    assert "no data set has a val split" in run.log


def test_results_list_every_evaluation(tiny: MakeTiny) -> None:
    run = tiny().run("run_type=train_val_inference")
    results = run.results
    made = [(e["weights"], e["split"], e["update"], e["records"]) for e in results["evaluations"]]
    best = results["run"]["training"]["best_update"]
    assert made == [
        ("training", "val", 10, 21),
        ("training", "val", 20, 21),
        ("training", "val", 30, 21),
        ("tiny_final.pth", "val", best, 21),
        ("tiny_final.pth", "test", best, 13),
    ]
    first = results["evaluations"][0]
    assert set(first["metrics"]) == {"tiny_accuracy", "tiny_accuracy/class_0"}
    assert first["loss"] > 0 and first["dataset"] == "tiny"


def test_results_list_the_training_losses(tiny: MakeTiny) -> None:
    run = tiny().run()
    losses = run.results["training_losses"]
    assert [update for update, _ in losses] == [5, 10, 15, 20, 25, 30]
    assert losses[0][1] > losses[-1][1] > 0
    assert f"progress: 30/30, train/tiny/logit_bce: {losses[-1][1]:.4f}" in run.log


def test_the_final_weights_are_evaluated_once(tiny: MakeTiny) -> None:
    run = tiny().run("run_type=train_val_inference")
    best = run.results["run"]["training"]["best_update"]
    assert f"Reusing the validation of these weights (update {best})" in run.log
    evaluations = [e for e in run.results["evaluations"] if (e["split"], e["update"]) == ("val", best)]
    values = {e["weights"]: e["metrics"] for e in evaluations}
    assert values["training"] == values["tiny_final.pth"]
    again = tiny("again").run("run_type=val", f"checkpoint.resume_file={run.save_dir / 'tiny_final.pth'}")
    assert again.results["evaluations"][0]["metrics"] == values["tiny_final.pth"]


def test_weights_that_a_callback_changes_at_the_end_are_evaluated_again(tiny: MakeTiny) -> None:
    run = tiny("run", {"training": {"callbacks": [{"type": "zero_weights"}]}}).run("run_type=train_val")
    assert "Reusing" not in run.log
    assert [e["weights"] for e in run.results["evaluations"]][-1] == "tiny_final.pth"
    assert run.results["evaluations"][-1]["loss"] != min(e["loss"] for e in run.results["evaluations"][:-1])


def test_a_new_run_in_an_old_folder_starts_its_results_anew(tiny: MakeTiny) -> None:
    tiny().run()
    run = tiny().run("training.max_updates=10")
    assert [e["update"] for e in run.results["evaluations"]] == [10]


def test_log_says_what_is_trained_and_how_far_it_is(tiny: MakeTiny) -> None:
    log = tiny().run().log
    for words in (
        "device: cpu, precision: fp32",
        "records: train tiny 50; val tiny 21",
        "parameters: 131, trained: 131",
        "batch size: 8, updates: 30, seed: 5",
        "progress: 5/30, train/tiny/logit_bce: ",
        "time left: ",
    ):
        assert words in log
    assert "Linear(" not in log


def test_nan_loss_stops_the_run_at_its_update_and_no_nan_is_saved(tiny: MakeTiny) -> None:
    # The model answers NaN as soon as its head's weights have grown.
    run = tiny()
    run.run("training.max_updates=10", "training.log_interval=1000")
    norm = float(run.weights["head.weight"].norm())
    line = tiny("nan").error(
        "training.log_interval=1000", "training.checkpoint_interval=1", f"model_config.tiny.nan_above={norm}"
    )
    update = int(line.partition("at update ")[2].partition(";")[0])
    assert 1 < update < 30
    state = tiny("nan").load("current.ckpt")
    assert state["num_updates"] == update - 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


def test_weights_that_became_nan_unseen_are_not_saved(tiny: MakeTiny) -> None:
    line = tiny().error("optimizer.params.lr=1e30", "training.clip_gradients=false", "training.max_updates=1")
    assert "NaN" in line and not list(tiny().save_dir.glob("*.ckpt"))


@pytest.mark.parametrize("name", ["SGD", "weight_reg_sgd"])
def test_an_optimizer_without_a_parameter_of_the_default_one_trains(tiny: MakeTiny, name: str) -> None:
    run = tiny().run(f"optimizer.type={name}", "optimizer.params.momentum=0.9", "training.max_updates=2")
    assert run.load("current.ckpt")["optimizer"]["param_groups"][0]["momentum"] == 0.9


def test_bf16_trains(tiny: MakeTiny) -> None:
    run = tiny().run("training.precision=bf16")
    assert all(tensor.dtype == torch.float32 for tensor in run.weights.values())
    assert "precision: bf16" in run.log


def test_two_data_sets_are_trained_together_and_evaluated_apart(tiny: MakeTiny) -> None:
    run = tiny().run("datasets=tiny,tiny_two", "training.max_epochs=2")
    # 7 batches of one and 3 of the other in an epoch.
    assert run.results["run"]["training"]["updates"] == 20
    last = run.results["evaluations"][-2:]
    assert [(e["dataset"], e["records"]) for e in last] == [("tiny", 21), ("tiny_two", 8)]


def test_callbacks_are_called_in_order_with_their_state_kept(tiny: MakeTiny, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = {"type": "journal", "params": {"path": str(path)}}
    tiny("run", {"training": {"callbacks": [journal]}}).run("training.max_updates=20")
    assert path.read_text().splitlines() == [
        "train_start 0", "validation_end 1 10", "validation_end 1 20", "train_end 20"
    ]


def test_an_unknown_callback_is_refused_with_the_known_ones(tiny: MakeTiny) -> None:
    line = tiny("run", {"training": {"callbacks": [{"type": "jurnal"}]}}).error()
    assert "'jurnal'" in line and "did you mean journal?" in line and "kill_at" in line


def test_wrong_callback_params_are_refused(tiny: MakeTiny) -> None:
    line = tiny("run", {"training": {"callbacks": [{"type": "journal", "params": {"file": "x"}}]}}).error()
    assert "params of journal" in line


def test_a_schedule_without_what_it_needs_is_refused(tiny: MakeTiny) -> None:
    assert "no effect on the schedule pythia" in tiny("pythia").error("scheduler.params.num_warmup_steps=2")
    registry.register_scheduler("plateau")(torch.optim.lr_scheduler.ReduceLROnPlateau)
    assert "needs a metric at each step" in tiny("plateau").error("scheduler.type=plateau")


def test_another_optimizer_does_not_resume_a_run(tiny: MakeTiny) -> None:
    words = ("training.max_updates=4", "training.checkpoint_interval=2")
    run = tiny("resumed").run(*words)
    (run.save_dir / "tiny_final.pth").unlink()
    line = tiny("resumed").error(*words, "checkpoint.resume=True", "optimizer.type=SGD")
    assert "optimizer.type=SGD: the run in" in line and "was started with Adam" in line


def test_bad_settings_are_refused_in_one_line(tiny: MakeTiny) -> None:
    cases = {
        "run_type=trian": "trian is not one of train, val",
        "training.precision=fp64": "expected one of: fp32, bf16, fp16",
        "training.precision=fp16": "needs a GPU",
        "training.clip_norm_mode=question": "only all",
        "training.batch_size=0": "at least 1",
        "training.batch_size=null": "it must be a number",
        "training.eval_batch_size=0": "at least 1",
        "training.update_frequency=0": "at least 1",
        "training.max_updates=null": "training.max_updates and training.max_epochs",
        "training.callbacks=[{'type':[7]}]": "no callback named [7]",
        "model_config.tiny.losses=[{'type':'m4c_decoding_bce'}]": "did you mean m4c_decoding_bce_with_mask",
        "optimizer.type=Adamm": "did you mean Adam",
        "scheduler.type=pythea": "did you mean pythia",
        "dataset_config.tiny.records.train=0": "no data set of tiny has a train split",
        "dataset_config.tiny.broken_record=3": "record 3: it is broken",
    }
    for word, words in cases.items():
        assert words in tiny("bad").error(word), word
    assert "did you mean tiny_accuracy" in tiny("metric", {"evaluation": {"metrics": ["tiny_acuracy"]}}).error()
    for name in ("7", "[7]"):
        assert f"no metric named {name}" in tiny("number").error(f"evaluation.metrics=[{name}]")
    assert "no metric named 'foo'; there are " in tiny("foo").error("evaluation.metrics=[foo]")
    assert "optimizer.params do not fit SGD" in tiny("sgd").error("optimizer.type=SGD", "optimizer.params.eps=0.1")
    assert "optimizer.params do not fit Adam" in tiny("optim", {"optimizer": {"params": {"rate": 1}}}).error()
    assert not list(tiny("bad").save_dir.glob("*.ckpt"))


def test_a_broken_record_is_one_line_from_a_worker_too(tiny: MakeTiny) -> None:
    assert tiny().error("dataset_config.tiny.broken_record=3", "training.num_workers=2") == (
        "error: record 3: it is broken"
    )


def test_a_save_dir_that_cannot_be_written_is_one_line(tiny: MakeTiny) -> None:
    run = tiny()
    run.save_dir.write_text("a file")
    assert str(run.save_dir) in run.error()


@pytest.mark.slow
def test_tensorboard_gets_losses_rates_and_metrics(tiny: MakeTiny) -> None:
    run = tiny().run("training.tensorboard=true")
    files = list(run.save_dir.glob("logs/tensorboard_*/events*"))
    content = b"".join(file.read_bytes() for file in files)
    assert b"train/total_loss" in content and b"val/tiny/tiny_accuracy" in content


def test_results_hold_only_json_numbers(tiny: MakeTiny) -> None:
    # Class 0 has no record in a split of one: its accuracy is not a number, which JSON cannot say.
    run = tiny().run("dataset_config.tiny.records.val=1")

    def refuse(word):
        raise AssertionError(word)

    content = json.loads((run.save_dir / "results.json").read_text(), parse_constant=refuse)
    values = [v for e in content["evaluations"] for v in e["metrics"].values() if v is not None]
    assert all(math.isfinite(value) for value in values)
