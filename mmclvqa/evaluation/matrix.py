"""The accuracy matrix of a task order, and the numbers of continual learning that are read from it.

``a[i, j]`` is the accuracy on task j after learning task i, both counted from 0 along the order; T tasks give a
T x T float64 array, accuracies are fractions of 1, and a pair that was not evaluated is NaN. Every function here
that takes a matrix gives NaN where a number it needs is NaN; :func:`completed` cuts a run that is not finished
back to the tasks whose numbers are all there.

Sources: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory for Continual Learning", NIPS 2017 (backward and
forward transfer); A. Chaudhry, P. Dokania, T. Ajanthan and P. Torr, "Riemannian Walk for Incremental Learning:
Understanding Forgetting and Intransigence", ECCV 2018 (forgetting); M. Riemer et al., "Learning to Learn without
Forgetting by Maximizing Transfer and Minimizing Interference", ICLR 2019 (learning accuracy).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.manifest import sizes
from mmclvqa.clove.tasks import Task, parse_order

PUBLISHED_WEIGHT = 3000
"""What every task weighs in the published figures; scenetext, too, whose val split has 2422 records."""


def sweep_key(learned: Task, tested: Task) -> str:
    """How a sweep names the evaluation of one checkpoint on one task: ``o2a``, ``a#2b#``."""
    return f"{learned.sweep_key}2{tested.sweep_key}"


def sweep_pairs(setting: str, order: str) -> Iterator[tuple[str, int, int]]:
    """Key, row and column of every entry of an order's matrix, row by row.

    Raises:
        TaskError: no such setting, or an illegal task order.
    """
    learned = parse_order(setting, order)
    for row, task in enumerate(learned):
        for column, tested in enumerate(learned):
            yield sweep_key(task, tested), row, column


def accuracy_matrix(sweep: Mapping[str, float], setting: str, order: str) -> np.ndarray:
    """The matrix of a sweep (T x T, float64).

    Args:
        sweep: accuracy by key (``o2a``, ``a#2b#``), fractions of 1; pairs may be missing or None.
        setting: ``functional`` or ``scene``.
        order: the task order.

    Raises:
        TaskError: no such setting, or an illegal task order.
        DataError: a key is no pair of this order's tasks, or a value is no fraction of 1.
    """
    places = {key: (row, column) for key, row, column in sweep_pairs(setting, order)}
    matrix = np.full((len(order), len(order)), np.nan)
    for key, value in sweep.items():
        if key not in places:
            example = next(iter(places))
            raise DataError(f"sweep key {key!r} is no pair of tasks of the {setting} setting (such as {example})")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
            raise DataError(f"sweep key {key!r}: the accuracy {value!r} is no number from 0 to 1")
        matrix[places[key]] = value
    return matrix


def completed(matrix: np.ndarray) -> np.ndarray:
    """The t x t matrix of the first t tasks, with the largest t for which it has no gap (0 x 0 where none is)."""
    for size in range(len(matrix), 0, -1):
        if not np.isnan(matrix[:size, :size]).any():
            return matrix[:size, :size]
    return matrix[:0, :0]


def published_weights(count: int) -> np.ndarray:
    """The weights of the published figures for ``count`` tasks (float64): the same for all."""
    return np.full(count, float(PUBLISHED_WEIGHT))


def val_weights(root: str | os.PathLike[str], setting: str, order: str) -> np.ndarray:
    """The tasks' val sizes along the order (float64), from the data root's manifest or the published ones.

    Raises:
        TaskError: no such setting, or an illegal task order.
        DataError: the manifest is broken or does not have a task.
    """
    return np.array([sizes(root, setting, task)["val"] for task in parse_order(setting, order)], dtype=float)


def weighted_average(values: np.ndarray, weights: Sequence[float] | np.ndarray) -> float:
    """The average of values by task, a task weighing as many records as its val split has.

    Args:
        values: one for each of the first n tasks.
        weights: of at least these n tasks, in the same order.

    Returns:
        NaN when ``values`` is empty or has a NaN.
    """
    used = np.asarray(weights, dtype=float)[: len(values)]
    if len(values) == 0:
        return math.nan
    return float(np.dot(values, used) / used.sum())


def final_accuracies(matrix: np.ndarray) -> np.ndarray:
    """Accuracy on every task after the last one was learned (T): the last row."""
    return matrix[-1].copy()


def learning_accuracies(matrix: np.ndarray) -> np.ndarray:
    """Accuracy on every task just after it was learned (T): the diagonal.

    Its average is the learning accuracy (Riemer et al. 2019, section 5).
    """
    return np.diagonal(matrix).copy()


def backward_transfer(matrix: np.ndarray) -> np.ndarray:
    """b_j = a[T-1, j] - a[j, j] for every task but the last (T-1): below 0 where later tasks did harm.

    Lopez-Paz and Ranzato 2017, equation 3, by task; the paper gives the unweighted average.
    """
    return matrix[-1, :-1] - np.diagonal(matrix)[:-1]


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """f_j = max over l < T-1 of a[l, j], minus a[T-1, j], for every task but the last (T-1).

    The distance from the best a task ever was to what is left of it; below 0 where it was never better than at the
    end. Chaudhry et al. 2018, equation 3, by task; the paper gives the unweighted average.
    """
    if len(matrix) < 2:
        return np.empty(0)
    return matrix[:-1, :-1].max(axis=0) - matrix[-1, :-1]


def legacy_forgetting(matrix: np.ndarray) -> np.ndarray:
    """What the published code calls forgetting (T-1), kept so that published figures can be compared.

    A fault: its maximum is the largest number of all rows but the last, one for all tasks, so that a task is said to
    have forgotten what another one was ever good at. Use :func:`forgetting`.
    """
    if len(matrix) < 2:
        return np.empty(0)
    return matrix[:-1].max() - matrix[-1, :-1]


def forward_transfer(matrix: np.ndarray, reference: Sequence[float] | np.ndarray) -> np.ndarray:
    """a[j-1, j] - r_j for every task but the first (T-1): what the tasks before it did for a task not yet learned.

    Args:
        matrix: the accuracy matrix.
        reference: accuracy of each of the T tasks without the earlier ones. With that of the untrained model it is
            Lopez-Paz and Ranzato 2017, equation 4, by task; with that of the stand-alone models it says how far
            knowing only earlier tasks falls short of learning the task itself.
    """
    reference = np.asarray(reference, dtype=float)[: len(matrix)]
    return np.diagonal(matrix, offset=1) - reference[1:]


@dataclass(frozen=True)
class Summary:
    """The numbers of a run; arrays are by task along the order, averages are weighted.

    Attributes:
        learned: how many tasks t of the order are evaluated without a gap; everything below is about these.
        final: accuracy after the last of them (t).
        average_accuracy: of ``final``.
        backward: backward transfer of all but the last (t-1), and its average.
        forgotten: forgetting of all but the last (t-1), and its average.
        legacy_forgotten: the published figure for it (t-1), and its average.
        learning: accuracy just after learning (t), and its average.
        forward: forward transfer of all but the first (t-1) against the reference, None without one.
    """

    learned: int
    final: np.ndarray
    average_accuracy: float
    backward: np.ndarray
    average_backward: float
    forgotten: np.ndarray
    average_forgotten: float
    legacy_forgotten: np.ndarray
    average_legacy_forgotten: float
    learning: np.ndarray
    average_learning: float
    forward: np.ndarray | None
    average_forward: float | None


def summarize(
    matrix: np.ndarray,
    weights: Sequence[float] | np.ndarray,
    reference: Sequence[float] | np.ndarray | None = None,
) -> Summary:
    """All numbers of a matrix; of a run that is not finished, those after the last task without a gap.

    Args:
        matrix: T x T.
        weights: of the T tasks; see :func:`val_weights` and :func:`published_weights`.
        reference: see :func:`forward_transfer`.

    Raises:
        DataError: there is not even the first task's accuracy on itself, or the lengths differ.
    """
    if any(values is not None and len(values) != len(matrix) for values in (weights, reference)):
        raise DataError(f"weights and reference accuracies must be those of the {len(matrix)} tasks of the matrix")
    part = completed(matrix)
    if not len(part):
        raise DataError("the sweep lacks the first task's accuracy on itself, so there is nothing to sum up")
    weights = np.asarray(weights, dtype=float)
    final, learning = final_accuracies(part), learning_accuracies(part)
    backward, forgotten, legacy = backward_transfer(part), forgetting(part), legacy_forgetting(part)
    forward = None if reference is None else forward_transfer(part, reference)
    return Summary(
        learned=len(part),
        final=final,
        average_accuracy=weighted_average(final, weights),
        backward=backward,
        average_backward=weighted_average(backward, weights),
        forgotten=forgotten,
        average_forgotten=weighted_average(forgotten, weights),
        legacy_forgotten=legacy,
        average_legacy_forgotten=weighted_average(legacy, weights),
        learning=learning,
        average_learning=weighted_average(learning, weights),
        forward=forward,
        average_forward=None if forward is None else weighted_average(forward, weights[1:]),
    )
