"""The accuracy matrix and its numbers: SPEC section 9, against the published figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmclvqa.clove.errors import DataError, TaskError
from mmclvqa.clove.manifest import Manifest, save_manifest
from mmclvqa.clove.tasks import tasks
from mmclvqa.evaluation.matrix import (
    accuracy_matrix,
    backward_transfer,
    completed,
    final_accuracies,
    forgetting,
    forward_transfer,
    learning_accuracies,
    legacy_forgetting,
    published_weights,
    summarize,
    sweep_pairs,
    val_weights,
    weighted_average,
)

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "reference_results.json").read_text())
PUBLISHED = REFERENCE["published"]
WEIGHTS = published_weights(6)


def near(value: Any) -> Any:
    return pytest.approx(value, abs=1e-9)


@pytest.fixture
def matrix() -> np.ndarray:
    return accuracy_matrix(REFERENCE["matrix"], REFERENCE["cl_setting"], REFERENCE["task_order"])


def test_rows_are_learned_tasks_and_columns_tested_ones(matrix: np.ndarray) -> None:
    assert matrix.shape == (6, 6) and matrix.dtype == np.float64
    assert (matrix[0, 1], matrix[1, 0]) == (REFERENCE["matrix"]["o2a"], REFERENCE["matrix"]["a2o"])


def test_keys_of_the_scene_setting_carry_the_hash() -> None:
    pairs = list(sweep_pairs("scene", "bdfcae"))
    assert len(pairs) == 36 and pairs[1] == ("b#2d#", 0, 1)
    assert accuracy_matrix({"b#2d#": 0.25}, "scene", "bdfcae")[0, 1] == 0.25


def test_final_accuracies_are_the_published_ones(matrix: np.ndarray) -> None:
    assert final_accuracies(matrix) == near(PUBLISHED["final"])
    average = weighted_average(final_accuracies(matrix), WEIGHTS)
    assert average == near(PUBLISHED["weighted_average_accuracy"])


def test_backward_transfer_is_the_published_one(matrix: np.ndarray) -> None:
    assert backward_transfer(matrix) == near(PUBLISHED["backward_transfer"])
    assert weighted_average(backward_transfer(matrix), WEIGHTS) == near(PUBLISHED["weighted_backward_transfer"])


def test_legacy_forgetting_is_the_published_one(matrix: np.ndarray) -> None:
    assert legacy_forgetting(matrix) == near(PUBLISHED["legacy_forgetting"])
    assert weighted_average(legacy_forgetting(matrix), WEIGHTS) == near(PUBLISHED["weighted_legacy_forgetting"])


def test_forgetting_takes_each_tasks_own_maximum(matrix: np.ndarray) -> None:
    # By hand from the reference: best of each column above the last row, minus the last row.
    assert forgetting(matrix) == near([0.5997 - 0.2963, 0.4177 - 0.3083, 0.3943 - 0.3037, 0.7153 - 0.6733,
                                       0.6813 - 0.6253])  # fmt: skip
    plain = [
        max(REFERENCE["matrix"][f"{learned}2{tested}"] for learned in "oarlk") - REFERENCE["matrix"][f"s2{tested}"]
        for tested in "oarlk"
    ]
    assert forgetting(matrix) == near(plain)
    assert weighted_average(forgetting(matrix), WEIGHTS) == near(0.12028)


def test_forgetting_sees_a_task_that_was_best_long_after_it_was_learned() -> None:
    rising = np.array([[0.2, 0.1, 0.1], [0.6, 0.5, 0.1], [0.5, 0.4, 0.3]])
    assert forgetting(rising) == near([0.1, 0.1])
    assert backward_transfer(rising) == near([0.3, -0.1])


def test_learning_accuracy_is_the_mean_of_the_diagonal(matrix: np.ndarray) -> None:
    keys = [f"{letter}2{letter}" for letter in "oarlks"]
    assert learning_accuracies(matrix) == near([REFERENCE["matrix"][key] for key in keys])
    assert summarize(matrix, WEIGHTS).average_learning == near(np.mean([REFERENCE["matrix"][key] for key in keys]))


def test_forward_transfer_is_what_a_task_gains_before_it_is_learned(matrix: np.ndarray) -> None:
    untrained = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    keys = ["o2a", "a2r", "r2l", "l2k", "k2s"]
    wanted = [REFERENCE["matrix"][key] - chance for key, chance in zip(keys, untrained[1:], strict=True)]
    assert forward_transfer(matrix, untrained) == near(wanted)
    assert summarize(matrix, WEIGHTS, untrained).average_forward == near(np.mean(wanted))
    assert summarize(matrix, WEIGHTS).forward is None


def test_averages_weigh_tasks_by_their_val_size(matrix: np.ndarray) -> None:
    assert weighted_average(np.array([0.2, 0.5]), [1000, 3000, 9]) == near(0.425)
    untrained = np.zeros(6)
    uneven = [1, 2, 3, 4, 5, 6]
    wanted = np.average(np.diagonal(matrix, 1), weights=uneven[1:])
    assert summarize(matrix, uneven, untrained).average_forward == near(wanted)


def test_val_sizes_come_from_the_manifest_or_are_the_published_ones(tmp_path: Path) -> None:
    assert val_weights(tmp_path, "functional", "soarlk").tolist() == [2422, 3000, 3000, 3000, 3000, 3000]
    sizes = {task.name: {"train": 9, "val": 7} for task in tasks("functional").values()}
    save_manifest(tmp_path, Manifest("tiny", 1, {"functional": sizes}))
    assert val_weights(tmp_path, "functional", "soarlk").tolist() == [7] * 6


def test_an_unfinished_run_is_summed_up_after_its_last_whole_task(matrix: np.ndarray) -> None:
    partial = {key: value for key, value in REFERENCE["matrix"].items() if key[0] in "oar"} | {"l2o": 0.2653}
    unfinished = accuracy_matrix(partial, "functional", "oarlks")
    assert np.isnan(unfinished).sum() == 17
    assert np.array_equal(completed(unfinished), matrix[:3, :3])
    summary = summarize(unfinished, WEIGHTS)
    assert summary.learned == 3
    assert summary.final == near([REFERENCE["matrix"][key] for key in ("r2o", "r2a", "r2r")])
    assert summary.forgotten == near([0.5997 - 0.4023, 0.4177 - 0.3713])
    assert summarize(matrix, WEIGHTS).learned == 6


def test_a_gap_is_never_passed_over(matrix: np.ndarray) -> None:
    matrix[2, 1] = math.nan
    assert np.isnan(forgetting(matrix)).tolist() == [False, True, False, False, False]
    assert math.isnan(weighted_average(forgetting(matrix), WEIGHTS))
    assert summarize(matrix, WEIGHTS).learned == 2


def test_one_learned_task_has_accuracy_but_neither_transfer_nor_forgetting() -> None:
    summary = summarize(accuracy_matrix({"o2o": 0.6, "o2a": None}, "functional", "oarlks"), WEIGHTS, np.zeros(6))
    assert (summary.learned, summary.average_accuracy) == (1, near(0.6))
    assert [len(part) for part in (summary.backward, summary.forgotten, summary.forward)] == [0, 0, 0]
    assert math.isnan(summary.average_forgotten) and math.isnan(summary.average_legacy_forgotten)


@pytest.mark.parametrize(
    ("sweep", "part"),
    [({"o2x": 0.5}, "'o2x'"), ({"a#2b#": 0.5}, "'a#2b#'"), ({"o2a": 41.7}, "41.7"), ({"o2a": "0.4"}, "'0.4'")],
)
def test_a_sweep_of_something_else_is_refused(sweep: dict[str, Any], part: str) -> None:
    with pytest.raises(DataError, match="sweep key") as caught:
        accuracy_matrix(sweep, "functional", "oarlks")
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_foreign_order_and_an_empty_sweep_are_refused() -> None:
    with pytest.raises(TaskError, match="z is no task"):
        accuracy_matrix({}, "functional", "oarlkz")
    with pytest.raises(DataError, match="nothing to sum up"):
        summarize(accuracy_matrix({}, "functional", "oarlks"), WEIGHTS)
    with pytest.raises(DataError, match="6 tasks"):
        summarize(np.zeros((6, 6)), [1, 2])
