"""What an evaluation came to, and its files: ``sweep.json``, CSV, tables to read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.files import atomic_write, write_json
from mmclvqa.clove.table import format_table
from mmclvqa.clove.tasks import Task, order_index, parse_order, tasks
from mmclvqa.evaluation.matrix import (
    Summary,
    accuracy_matrix,
    published_weights,
    summarize,
    sweep_pairs,
    weighted_average,
)
from mmclvqa.evaluation.pairs import METRIC

SWEEP_FILE = "sweep.json"
"""Beside the pairs' folders."""


@dataclass(frozen=True)
class Sweep:
    """The accuracies of a run.

    Attributes:
        setting: ``functional`` or ``scene``.
        order: the task order.
        experiment: the method, as its folder is called.
        accuracies: by key (``o2a``), fractions of 1; pairs that were not evaluated are absent.
        weights: of the tasks along the order: their val sizes.
        stand_alone: the models are those trained on each task alone.
        data: what the data set is called.
    """

    setting: str
    order: str
    experiment: str
    accuracies: dict[str, float]
    weights: tuple[float, ...]
    stand_alone: bool = False
    data: str = ""

    @property
    def tasks(self) -> list[Task]:
        """Along the order."""
        return parse_order(self.setting, self.order)

    @property
    def matrix(self) -> np.ndarray:
        """T x T, see :mod:`mmclvqa.evaluation.matrix`."""
        return accuracy_matrix(self.accuracies, self.setting, self.order)

    @property
    def missing(self) -> list[str]:
        """Keys of the pairs that were not evaluated."""
        return [key for key, _, _ in sweep_pairs(self.setting, self.order) if key not in self.accuracies]

    @property
    def summary(self) -> Summary | None:
        """The summary numbers, None where even the first task was not evaluated."""
        matrix = self.matrix
        return None if math.isnan(matrix[0, 0]) else summarize(matrix, self.weights)

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``matrix`` has the form of the published sweeps."""
        return {
            "kind": "sweep",
            "cl_setting": self.setting,
            "setting_idx": order_index(self.setting, self.order),
            "task_order": self.order,
            "exp": self.experiment,
            "stand_alone": self.stand_alone,
            "data": self.data,
            "metric": METRIC,
            "tasks": [task.name for task in self.tasks],
            "weights": list(self.weights),
            "matrix": dict(self.accuracies),
            "missing": self.missing,
            "summary": _summary_json(self.summary),
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`as_json`."""
        write_json(path, self.as_json())

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the matrix as text; an empty cell was not evaluated."""
        header = ["learned", *(task.name for task in self.tasks)]
        cells = [[_number(value) for value in row] for row in self.matrix]
        return header, [[task.name, *row] for task, row in zip(self.tasks, cells, strict=True)]

    def table(self) -> str:
        """The matrix for people: a row for each learned task, a column for each tested one."""
        header, rows = self.rows()
        return format_table([f"{header[0]} \\ tested", *header[1:]], rows)

    def lines(self) -> list[str]:
        """The summary numbers, a line each; those of a finished run end with :meth:`published_lines`."""
        return self._readable_lines() + ([] if self.missing else self.published_lines())

    def published_lines(self) -> list[str]:
        """The three lines with which the published tool ends, for those who read its output.

        They have the published weights, the same for all tasks, and the published forgetting
        (:func:`mmclvqa.evaluation.matrix.legacy_forgetting`). Numbers are rounded to four decimals.
        """
        summary = summarize(self.matrix, published_weights(len(self.order)))
        return [
            f"==> {METRIC} | {head}: {[_rounded(value) for value in values]}, {what}: {_rounded(average)}"
            for head, values, what, average in (
                ("Final acc", summary.final, "weight avg acc", summary.average_accuracy),
                ("Backward transfer", summary.backward, "weighted bwt", summary.average_backward),
                (
                    "Forgetting",
                    summary.legacy_forgotten,
                    "weighted forgetting",
                    summary.average_legacy_forgotten,
                ),
            )
        ]

    def _readable_lines(self) -> list[str]:
        summary = self.summary
        if summary is None:
            return ["no summary: the first task was not evaluated"]
        names = [task.name for task in self.tasks]
        if self.stand_alone:
            head = "accuracy of each stand-alone model on its own task"
            return [*_by_task(head, names, summary.learning), f"weighted average: {summary.average_learning:.4f}"]
        learned = names[: summary.learned]
        lines = []
        if summary.learned < len(names):
            lines.append(f"after {summary.learned} of {len(names)} tasks:")
        lines += _by_task("final accuracies", learned, summary.final)
        lines.append(f"weighted average accuracy: {summary.average_accuracy:.4f}")
        for head, values, average in (
            ("backward transfer", summary.backward, summary.average_backward),
            ("forgetting", summary.forgotten, summary.average_forgotten),
            ("legacy forgetting", summary.legacy_forgotten, summary.average_legacy_forgotten),
        ):
            lines += _by_task(head, learned[:-1], values)
            lines.append(f"weighted average {head}: {_number(average) or 'none with one task'}")
        lines += _by_task("learning accuracies", learned, summary.learning)
        return lines


@dataclass(frozen=True)
class Multitask:
    """The accuracies of the model that learned all tasks at once, in the setting's base order of tasks.

    Attributes:
        setting: ``functional`` or ``scene``.
        accuracies: by task, fractions of 1.
        weights: the tasks' val sizes.
    """

    setting: str
    accuracies: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def average(self) -> float:
        """Weighted by val size."""
        return weighted_average(np.array(self.accuracies), self.weights)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": "multitask",
            "cl_setting": self.setting,
            "metric": METRIC,
            "accuracies": dict(zip(self._names, self.accuracies, strict=True)),
            "weights": list(self.weights),
            "weighted_average_accuracy": self.average,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`as_json`."""
        write_json(path, self.as_json())

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text."""
        values = [_number(value) for value in self.accuracies]
        return ["task", "accuracy"], [list(row) for row in zip(self._names, values, strict=True)]

    def table(self) -> str:
        """The accuracies for people."""
        return format_table(*self.rows())

    def lines(self) -> list[str]:
        """The average."""
        return [f"weighted average accuracy: {self.average:.4f}"]

    @property
    def _names(self) -> list[str]:
        return [task.name for task in tasks(self.setting).values()]


def read_sweep(path: str | os.PathLike[str]) -> Sweep:
    """A sweep from its JSON file, or from the folder ``val_<exp>`` that holds one.

    Raises:
        DataError: there is none, or it is no sweep.
    """
    path = Path(path)
    file = path / SWEEP_FILE if path.is_dir() else path
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        setting, order = value["cl_setting"], value["task_order"]
        weights = tuple(map(float, value["weights"]))
        accuracies = {key: number for key, number in value["matrix"].items() if number is not None}
        stand_alone, data = bool(value.get("stand_alone")), str(value.get("data") or "")
        found = Sweep(setting, order, str(value["exp"]), accuracies, weights, stand_alone, data)
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file; `python eval_os.py sweep` makes one") from None
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: is no result of a sweep ({_reason(error)})") from None
    try:
        matrix = found.matrix
    except CloveError as error:
        raise DataError(f"{file}: {error}") from None
    if len(weights) != len(matrix) or not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise DataError(f"{file}: 'weights' is not one number above 0 for each of {len(matrix)} tasks")
    return found


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write rows as CSV (RFC 4180)."""
    with atomic_write(path) as file:
        file.write(csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()


def _summary_json(summary: Summary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    numbers = (
        ("final", summary.final, "accuracy", summary.average_accuracy),
        ("backward_transfer", summary.backward, "backward_transfer", summary.average_backward),
        ("forgetting", summary.forgotten, "forgetting", summary.average_forgotten),
        ("legacy_forgetting", summary.legacy_forgotten, "legacy_forgetting", summary.average_legacy_forgotten),
        ("learning_accuracy", summary.learning, "learning_accuracy", summary.average_learning),
    )
    value: dict[str, Any] = {"learned": summary.learned}
    for name, by_task, what, average in numbers:
        value[name] = [float(number) for number in by_task]
        value[f"weighted_average_{what}"] = None if math.isnan(average) else average
    return value


def _by_task(head: str, names: Sequence[str], values: Sequence[float] | np.ndarray) -> list[str]:
    if not len(values):
        return []
    parts = (f"{name} {value:.4f}" for name, value in zip(names, values, strict=True))
    return [f"{head}: {', '.join(parts)}"]


def _rounded(value: float) -> float:
    return round(float(value), 4) + 0.0  # no -0.0


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"it has no {text}" if isinstance(error, KeyError) else text
