"""The accuracy matrix of a task order and the continual-learning metrics computed from it.

``a[i, j]`` is the accuracy on task j after learning task i, both counted from 0 along the task order. The matrix of T
tasks is a T x T float64 array of fractions in [0, 1]; a pair that was not evaluated is NaN. A metric is NaN where an
accuracy it needs is NaN; :func:`completed` cuts the matrix of an unfinished run back to the tasks without gaps.

Sources: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory for Continual Learning", NIPS 2017 (backward
transfer); A. Chaudhry, P. Dokania, T. Ajanthan and P. Torr, "Riemannian Walk for Incremental Learning: Understanding
Forgetting and Intransigence", ECCV 2018 (forgetting); M. Riemer et al., "Learning to Learn without Forgetting by
Maximizing Transfer and Minimizing Interference", ICLR 2019 (learning accuracy).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from mmclvqa.clove.data_root import split_size
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.tasks import Task, parse_order


def sweep_key(learned: Task, tested: Task) -> str:
    """Return the key of one entry of the matrix: such as ``o2a`` or ``a#2b#``."""
    return f"{learned.sweep_key}2{tested.sweep_key}"


def sweep_pairs(setting: str, order: str) -> Iterator[tuple[str, int, int]]:
    """Yield key, row and column of every entry of an order's matrix, row by row.

    Raises:
        TaskError: no such setting, or an illegal task order.
    """
    order_tasks = parse_order(setting, order)
    for row, learned in enumerate(order_tasks):
        for column, tested in enumerate(order_tasks):
            yield sweep_key(learned, tested), row, column


def is_fraction(value: object) -> bool:
    """Return whether a value is a number in [0, 1]."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= 1


def accuracy_matrix(accuracies: Mapping[str, float | None], setting: str, order: str) -> np.ndarray:
    """Arrange accuracies in the T x T matrix of a task order (float64).

    Args:
        accuracies: fractions in [0, 1] by key (``o2a``, ``a#2b#``); pairs may be missing or None.

    Raises:
        TaskError: no such setting, or an illegal task order.
        DataError: a key is not a pair of this order's tasks, or a value is not a number in [0, 1].
    """
    positions = {key: (row, column) for key, row, column in sweep_pairs(setting, order)}
    count = math.isqrt(len(positions))
    matrix = np.full((count, count), np.nan)
    for key, value in accuracies.items():
        if key not in positions:
            example = next(iter(positions))
            raise DataError(f"sweep key {key!r} is not a pair of tasks of the {setting} setting (such as {example})")
        if value is None:
            continue
        if not is_fraction(value):
            raise DataError(f"sweep key {key!r}: the accuracy {value!r} is not a number from 0 to 1")
        matrix[positions[key]] = value
    return matrix


def completed(matrix: np.ndarray) -> np.ndarray:
    """Return the t x t matrix of the first t tasks for the largest t without a gap (0 x 0 where there is none)."""
    for size in range(len(matrix), 0, -1):
        if not np.isnan(matrix[:size, :size]).any():
            return matrix[:size, :size]
    return matrix[:0, :0]


def published_weights(count: int) -> np.ndarray:
    """Return the weights of the published averages (float64), equal although the val splits have different sizes."""
    return np.ones(count)


def val_weights(root: str | os.PathLike[str], setting: str, order: str) -> np.ndarray:
    """Return the val sizes of the tasks along the order (float64), from the data root's manifest or as published.

    Raises:
        TaskError: no such setting, or an illegal task order.
        DataError: the manifest is broken or lacks a task.
    """
    return np.array([split_size(root, task, "val") for task in parse_order(setting, order)], dtype=float)


def weighted_average(values: np.ndarray, weights: Sequence[float] | np.ndarray) -> float:
    """Average the values of the first n tasks, each task weighted by the size of its val split.

    Args:
        values: shape (n,).
        weights: of at least these n tasks, in the same order.

    Returns:
        NaN when ``values`` is empty or contains NaN.
    """
    if not len(values):
        return math.nan
    used = np.asarray(weights, dtype=float)[: len(values)]
    return float(np.dot(values, used) / used.sum())


def backward_transfer(matrix: np.ndarray) -> np.ndarray:
    """b_j = a[T-1, j] - a[j, j] for every task but the last (T-1): negative where later tasks lowered the accuracy.

    Lopez-Paz and Ranzato 2017, equation 3, by task; the paper averages without weights.
    """
    return matrix[-1, :-1] - np.diagonal(matrix)[:-1]


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """f_j = max over l < T-1 of a[l, j], minus a[T-1, j], for every task but the last (T-1).

    The drop from the best accuracy a task had before the last task was learned to its final accuracy; negative where
    the final accuracy is the best. Chaudhry et al. 2018, equation 3, by task; the paper averages without weights.
    """
    if len(matrix) < 2:
        return np.empty(0)
    return matrix[:-1, :-1].max(axis=0) - matrix[-1, :-1]


def legacy_forgetting(matrix: np.ndarray) -> np.ndarray:
    """Forgetting as the published code computes it (T-1), kept to compare with published numbers.

    The published code takes one maximum over all tasks but the last instead of each task's own, so that a task seems
    to forget the best accuracy of another task. Use :func:`forgetting` for everything else.
    """
    if len(matrix) < 2:
        return np.empty(0)
    return matrix[:-1, :-1].max() - matrix[-1, :-1]


@dataclass(frozen=True)
class Mean:
    """Mean of a number over runs that differ only in their seed.

    Attributes:
        value: the mean; NaN where a run has no such number.
        deviation: sample standard deviation (n - 1); NaN for a single run.
    """

    value: float
    deviation: float = math.nan

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Return the mean of at least one number."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


@dataclass(frozen=True)
class Metric:
    """One continual-learning metric.

    Attributes:
        by_task: one value per task, along the order (float64).
        average: their weighted average, NaN where ``by_task`` is empty.
    """

    by_task: np.ndarray
    average: float


@dataclass(frozen=True)
class Summary:
    """The metrics of a run after its first t tasks.

    Attributes:
        learned: t, the number of tasks of the order that are evaluated without a gap.
        accuracy: accuracy after the last of them (t values).
        backward_transfer: of all of them but the last (t-1 values).
        forgetting: of all of them but the last (t-1 values).
        legacy_forgetting: the published code's variant (t-1 values).
        learning_accuracy: accuracy just after learning (t values), Riemer et al. 2019, section 5.
    """

    learned: int
    accuracy: Metric
    backward_transfer: Metric
    forgetting: Metric
    legacy_forgetting: Metric
    learning_accuracy: Metric


def summarize(matrix: np.ndarray, weights: Sequence[float] | np.ndarray) -> Summary | None:
    """Compute all metrics of a matrix; for an unfinished run, those after the last task without a gap.

    Args:
        weights: of the T tasks; see :func:`val_weights` and :func:`published_weights`.

    Returns:
        None where not even the first task was evaluated on itself.
    """
    part = completed(matrix)
    if not len(part):
        return None

    def metric(values: np.ndarray) -> Metric:
        return Metric(values, weighted_average(values, weights))

    return Summary(
        learned=len(part),
        accuracy=metric(part[-1]),
        backward_transfer=metric(backward_transfer(part)),
        forgetting=metric(forgetting(part)),
        legacy_forgetting=metric(legacy_forgetting(part)),
        learning_accuracy=metric(np.diagonal(part)),
    )
