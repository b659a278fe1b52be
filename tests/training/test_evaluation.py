"""Evaluation without training, metrics of both kinds, prediction files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmf.common.registry import registry
from mmf.modules.metrics import BaseMetric
from tiny_runs import MakeTiny, TinyRun

from mmclvqa import cli
from mmclvqa.training.evaluation import Metrics


def metrics_of(entries, name="metric"):
    return {"evaluation": {"metrics": entries}}


@pytest.fixture
def trained(tiny: MakeTiny) -> TinyRun:
    return tiny("trained").run()


def test_run_type_val_evaluates_a_resume_file(tiny: MakeTiny, trained: TinyRun) -> None:
    path = trained.save_dir / "best.ckpt"
    run = tiny("val").run("run_type=val", f"checkpoint.resume_file={path}")
    (entry,) = run.results["evaluations"]
    best = trained.results["run"]["training"]
    assert (entry["weights"], entry["split"], entry["update"]) == (str(path), "val", best["best_update"])
    assert entry["metrics"]["tiny_accuracy"] == best["best_value"]
    assert "records: val tiny 21" in run.log and "train" not in run.log.split("records:")[1].splitlines()[0]


@pytest.mark.parametrize("words", [("checkpoint.resume=true",), ("checkpoint.resume_best=true",)])
def test_run_type_val_evaluates_what_was_trained_in_the_folder(trained: TinyRun, words: tuple[str, ...]) -> None:
    trained.run("run_type=val", *words)
    entry = trained.results["evaluations"][-1]
    assert entry["metrics"]["tiny_accuracy"] == trained.results["run"]["training"]["best_value"]
    assert len(trained.results["evaluations"]) == 4


def test_evaluating_twice_leaves_one_entry(trained: TinyRun) -> None:
    for _ in range(2):
        trained.run("run_type=test", "checkpoint.resume=true")
    assert [e["split"] for e in trained.results["evaluations"]] == ["val", "val", "val", "test"]


def test_initial_weights_are_evaluated_with_a_warning(tiny: MakeTiny) -> None:
    run = tiny().run("run_type=val")
    assert "no checkpoint is given" in run.log
    assert run.results["evaluations"][0]["weights"] == "initial weights"


def test_predict_and_inference_mean_the_test_split(tiny: MakeTiny, trained: TinyRun) -> None:
    for word in ("test", "inference", "predict"):
        run = tiny(word).run(f"run_type={word}", f"checkpoint.resume_file={trained.save_dir / 'tiny_final.pth'}")
        assert [(e["split"], e["records"]) for e in run.results["evaluations"]] == [("test", 13)]


def test_a_metric_of_mmf_agrees_with_one_added_up_by_batches(tiny: MakeTiny) -> None:
    run = tiny("both", metrics_of(["tiny_accuracy", {"type": "accuracy"}])).run(
        "run_type=val", "training.eval_batch_size=4"
    )
    metrics = run.results["evaluations"][0]["metrics"]
    assert metrics["accuracy"] == pytest.approx(metrics["tiny_accuracy"])


def test_eval_batch_size_changes_no_value(tiny: MakeTiny) -> None:
    values = [
        tiny(f"by_{size}").run("run_type=val", f"training.eval_batch_size={size}").results["evaluations"][0]
        for size in (1, 21)
    ]
    assert values[0]["metrics"] == values[1]["metrics"]
    assert values[0]["loss"] == pytest.approx(values[1]["loss"], rel=1e-5)


def test_a_metric_whose_fields_are_missing_is_left_out_and_said(tiny: MakeTiny) -> None:
    run = tiny().run("run_type=test", "dataset_config.tiny.has_targets=false")
    (entry,) = run.results["evaluations"]
    assert (entry["metrics"], entry["loss"], entry["records"]) == ({}, None, 13)
    assert "metric tiny_accuracy is skipped, the batches have no targets" in run.log


def test_only_the_fields_a_metric_needs_are_kept() -> None:
    metrics = Metrics(["accuracy"])
    metrics.start("val", "d")
    targets = torch.eye(3)
    for _ in range(2):
        metrics.update({"targets": targets, "image": torch.zeros(3, 1000)}, {"scores": targets * 2})
    assert set(metrics._kept) == {"targets", "scores"}
    assert metrics.values(lambda value: [value]) == {"accuracy": 1.0}


def test_predictions_are_written_as_mmf_writes_them(tiny: MakeTiny, trained: TinyRun) -> None:
    words = ("evaluation.predict=true", f"checkpoint.resume_file={trained.save_dir / 'tiny_final.pth'}")
    run = tiny("json").run("run_type=val_inference", *words, "training.eval_batch_size=4")
    files = sorted((run.save_dir / "tiny_tiny_5" / "reports").iterdir())
    assert [f.name.rpartition("_")[0] for f in files] == ["tiny_tiny_test", "tiny_tiny_val"]
    entries = json.loads(files[1].read_text())
    assert [entry["index"] for entry in entries] == list(range(21))
    assert set(entries[0]) == {"index", "answer"}
    assert not (run.save_dir / "results.json").exists()


def test_mmf_predict_predicts_the_splits_of_run_type_and_refuses_to_train(tiny: MakeTiny, trained: TinyRun) -> None:
    words = (f"checkpoint.resume_file={trained.save_dir / 'tiny_final.pth'}", "run_type=train")
    with pytest.raises(SystemExit, match="error: run_type=train: mmf_predict does not train; "):
        cli.predict(tiny("train").opts(*words))
    run = tiny("val")
    pairs = [part for word in run.opts(*words, "run_type=train_val") for part in word.split("=", 1)]
    cli.predict(pairs)  # MMF's other form of overrides
    (file,) = (run.save_dir / "tiny_tiny_5" / "reports").iterdir()
    assert "_val_" in file.name and not (run.save_dir / "tiny_final.pth").exists()


def test_predictions_as_csv_in_report_dir(tiny: MakeTiny, trained: TinyRun, tmp_path: Path) -> None:
    tiny("csv").run(
        "run_type=test",
        "evaluation.predict=true",
        "evaluation.predict_file_format=csv",
        f"env.report_dir={tmp_path / 'reports'}",
        f"checkpoint.resume_file={trained.save_dir / 'tiny_final.pth'}",
    )
    (file,) = (tmp_path / "reports").iterdir()
    rows = list(csv.DictReader(file.open()))
    assert len(rows) == 13 and set(rows[0]) == {"index", "answer"}


def test_an_unknown_prediction_format_is_refused(tiny: MakeTiny) -> None:
    assert "expected one of: json, csv" in tiny().error("evaluation.predict_file_format=xml")


def test_a_results_file_of_another_kind_is_not_overwritten(tiny: MakeTiny) -> None:
    run = tiny()
    run.save_dir.mkdir()
    (run.save_dir / "results.json").write_text("[1]")
    assert "is damaged or from another program; delete it" in run.error()
    assert (run.save_dir / "results.json").read_text() == "[1]"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda sample_list: "x", "returns str: expected a number, or a mapping of numbers"),
        (lambda sample_list: None, "returns NoneType: expected a number"),
        (lambda sample_list: sample_list.nothing, "nothing .*; a metric gets the fields that its required_params"),
    ],
)
def test_a_metric_that_is_not_usable_is_named(
    tiny: MakeTiny, trained: TinyRun, value: Callable[[Any], Any], message: str
) -> None:
    register_value(value)
    line = tiny().error("run_type=val", f"checkpoint.resume_file={trained.save_dir / 'tiny_final.pth'}",
                        "evaluation.metrics=[value_metric]")  # fmt: skip
    assert re.search(f"metric value_metric.*{message}", line)


def test_a_metric_may_return_a_mapping(tiny: MakeTiny, trained: TinyRun) -> None:
    register_value(lambda sample_list: {"half": 0.5, "quarter": torch.tensor(0.25)})
    run = tiny().run("run_type=val", f"checkpoint.resume_file={trained.save_dir / 'tiny_final.pth'}",
                     "evaluation.metrics=[value_metric]")  # fmt: skip
    assert run.results["evaluations"][-1]["metrics"] == {"value_metric/half": 0.5, "value_metric/quarter": 0.25}


def register_value(value: Callable[[Any], Any]) -> None:
    @registry.register_metric("value_metric")
    class ValueMetric(BaseMetric):
        def __init__(self) -> None:
            super().__init__("value_metric")
            self.required_params = ["targets"]

        def calculate(self, sample_list: Any, model_output: Any, *args: Any, **kwargs: Any) -> Any:
            return value(sample_list)


def test_a_loss_that_is_not_finite_is_warned_of(tiny: MakeTiny, trained: TinyRun, tmp_path: Path) -> None:
    weights = {name: torch.full_like(value, torch.nan) for name, value in trained.weights.items()}
    torch.save(weights, tmp_path / "nan.pth")
    run = tiny().run("run_type=val", f"checkpoint.resume_file={tmp_path / 'nan.pth'}")
    assert "val: the loss is nan: the weights or image features are not finite" in run.log
