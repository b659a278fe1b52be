"""The accuracy matrix and its metrics, against the published numbers and values computed by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmclvqa.clove.data_root import Manifest, save_manifest
from mmclvqa.clove.errors import DataError, TaskError
from mmclvqa.clove.tasks import tasks
from mmclvqa.evaluation.matrix import (
    Metric,
    Summary,
    accuracy_matrix,
    backward_transfer,
    forgetting,
    legacy_forgetting,
    published_weights,
    summarize,
    sweep_pairs,
    val_weights,
    weighted_average,
)
from mmclvqa.evaluation.results import SweepResult

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "reference_results.json").read_text())
ACCURACIES, PUBLISHED = REFERENCE["matrix"], REFERENCE["published"]
WEIGHTS = published_weights(6)


def near(value: Any) -> Any:
    return pytest.approx(value, abs=1e-9)


@pytest.fixture
def matrix() -> np.ndarray:
    return accuracy_matrix(ACCURACIES, REFERENCE["cl_setting"], REFERENCE["task_order"])


@pytest.fixture
def summary(matrix: np.ndarray) -> Summary:
    return summarize(matrix, WEIGHTS)


def test_rows_are_learned_tasks_and_columns_tested_ones(matrix: np.ndarray) -> None:
    assert matrix.shape == (6, 6) and matrix.dtype == np.float64
    assert (matrix[0, 1], matrix[1, 0]) == (ACCURACIES["o2a"], ACCURACIES["a2o"])


def test_keys_of_the_scene_setting_carry_the_hash() -> None:
    pairs = list(sweep_pairs("scene", "bdfcae"))
    assert len(pairs) == 36 and pairs[1] == ("b#2d#", 0, 1)
    assert accuracy_matrix({"b#2d#": 0.25}, "scene", "bdfcae")[0, 1] == 0.25


@pytest.mark.parametrize(
    ("metric", "by_task", "average"),
    [
        ("accuracy", "final", "weighted_average_accuracy"),
        ("backward_transfer", "backward_transfer", "weighted_backward_transfer"),
        ("legacy_forgetting", "legacy_forgetting", "weighted_legacy_forgetting"),
    ],
)
def test_a_metric_equals_the_published_one(summary: Summary, metric: str, by_task: str, average: str) -> None:
    computed: Metric = getattr(summary, metric)
    assert computed.by_task == near(PUBLISHED[by_task]) and computed.average == near(PUBLISHED[average])


def test_forgetting_takes_the_maximum_of_each_task(summary: Summary) -> None:
    # By hand: best of each column above the last row, minus the last row.
    assert summary.forgetting.by_task == near([0.5997 - 0.2963, 0.4177 - 0.3083, 0.3943 - 0.3037, 0.7153 - 0.6733,
                                               0.6813 - 0.6253])  # fmt: skip
    assert summary.forgetting.average == near(0.12028)


def test_forgetting_sees_a_task_that_was_best_long_after_it_was_learned() -> None:
    rising = np.array([[0.2, 0.1, 0.1], [0.6, 0.5, 0.1], [0.5, 0.4, 0.3]])
    assert forgetting(rising) == near([0.1, 0.1])
    assert backward_transfer(rising) == near([0.3, -0.1])


def test_learning_accuracy_is_the_mean_of_the_diagonal(summary: Summary) -> None:
    diagonal = [ACCURACIES[f"{letter}2{letter}"] for letter in "oarlks"]
    assert summary.learning_accuracy.by_task == near(diagonal)
    assert summary.learning_accuracy.average == near(np.mean(diagonal))


def test_averages_weight_tasks_by_their_val_size() -> None:
    assert weighted_average(np.array([0.2, 0.5]), [1000, 3000, 9]) == near(0.425)


def test_val_sizes_come_from_the_manifest_or_are_the_published_ones(tmp_path: Path) -> None:
    assert val_weights(tmp_path, "functional", "soarlk").tolist() == [2422, 3000, 3000, 3000, 3000, 3000]
    sizes = {task.name: {"train": 9, "val": 7} for task in tasks("functional").values()}
    save_manifest(tmp_path, Manifest("tiny", 1, {"functional": sizes}))
    assert val_weights(tmp_path, "functional", "soarlk").tolist() == [7] * 6


def test_an_unfinished_run_is_summarized_after_its_last_task_without_a_gap() -> None:
    partial = {key: value for key, value in ACCURACIES.items() if key[0] in "oar"} | {"l2o": 0.2653, "l2a": None}
    unfinished = accuracy_matrix(partial, "functional", "oarlks")
    assert np.isnan(unfinished).sum() == 17
    summary = summarize(unfinished, WEIGHTS)
    assert summary.learned == 3
    assert summary.accuracy.by_task == near([ACCURACIES[key] for key in ("r2o", "r2a", "r2r")])
    assert summary.forgetting.by_task == near([0.5997 - 0.4023, 0.4177 - 0.3713])


def test_a_gap_is_never_skipped(matrix: np.ndarray) -> None:
    matrix[2, 1] = math.nan
    assert np.isnan(forgetting(matrix)).tolist() == [False, True, False, False, False]
    assert math.isnan(weighted_average(forgetting(matrix), WEIGHTS))
    assert summarize(matrix, WEIGHTS).learned == 2


def test_one_learned_task_has_accuracy_but_neither_transfer_nor_forgetting() -> None:
    summary = summarize(accuracy_matrix({"o2o": 0.6}, "functional", "oarlks"), WEIGHTS)
    assert (summary.learned, summary.accuracy.average) == (1, near(0.6))
    for metric in (summary.backward_transfer, summary.forgetting, summary.legacy_forgetting):
        assert len(metric.by_task) == 0 and math.isnan(metric.average)


def test_an_empty_sweep_has_no_summary() -> None:
    assert summarize(accuracy_matrix({}, "functional", "oarlks"), WEIGHTS) is None


@pytest.mark.parametrize(
    ("accuracies", "part"),
    [({"o2x": 0.5}, "'o2x'"), ({"a#2b#": 0.5}, "'a#2b#'"), ({"o2a": 41.7}, "41.7"), ({"o2a": "0.4"}, "'0.4'")],
)
def test_accuracies_of_something_else_are_refused(accuracies: dict[str, Any], part: str) -> None:
    with pytest.raises(DataError, match="sweep key") as caught:
        accuracy_matrix(accuracies, "functional", "oarlks")
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_an_illegal_order_is_refused() -> None:
    with pytest.raises(TaskError, match="z is not a task"):
        accuracy_matrix({}, "functional", "oarlkz")


def test_the_printed_metrics_are_the_published_numbers(published: SweepResult) -> None:
    lines = published.lines()
    assert "weighted average accuracy: 0.4597" in lines
    assert "weighted average backward transfer: -0.1203" in lines
    assert "weighted average legacy forgetting: 0.2739" in lines
    assert lines[0].startswith("final accuracies: object 0.2963, attribute 0.3083")


def test_a_sweep_ends_with_the_published_closing_lines(published: SweepResult) -> None:
    parts = [line.rpartition(": ") for line in published.lines()[-3:]]
    assert [head for head, _, _ in parts] == [
        "==> textvqa_accuracy | Final acc: [0.2963, 0.3083, 0.3037, 0.6733, 0.6253, 0.5511], weight avg acc",
        "==> textvqa_accuracy | Backward transfer: [-0.3034, -0.1094, -0.0906, -0.042, -0.056], weighted bwt",
        "==> textvqa_accuracy | Forgetting: [0.419, 0.407, 0.4116, 0.042, 0.09], weighted forgetting",
    ]
    assert [float(average) for _, _, average in parts] == near([0.45966666666666667, -0.12028, 0.27392])


def test_legacy_forgetting_has_one_maximum_over_all_tasks_but_the_last() -> None:
    matrix = np.array([[0.5, 0.1, 0.7], [0.4, 0.6, 0.2], [0.3, 0.5, 0.8]])
    assert legacy_forgetting(matrix) == near([0.3, 0.1]) and forgetting(matrix) == near([0.2, 0.1])


def test_the_closing_lines_weight_all_tasks_equally(published: SweepResult) -> None:
    uneven = dataclasses.replace(published, weights=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert uneven.lines()[-3:] == published.lines()[-3:]
    assert uneven.lines()[1] != published.lines()[1]


def test_an_unfinished_run_has_no_closing_lines(published: SweepResult) -> None:
    accuracies = {key: value for key, value in published.accuracies.items() if key[0] != "s"}
    assert not [line for line in dataclasses.replace(published, accuracies=accuracies).lines() if "==>" in line]
