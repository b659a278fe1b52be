"""Results of ``eval_os.py``: the accuracies of a sweep or of the multitask model, as tables, JSON and CSV."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.experiment_paths import MODEL
from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import Task, find_setting, order_index, parse_order, tasks
from mmclvqa.clove.text import did_you_mean, format_table, one_line, suggestion
from mmclvqa.evaluation.matrix import (
    Mean,
    Summary,
    accuracy_matrix,
    published_weights,
    summarize,
    sweep_pairs,
    weighted_average,
)

METRIC = "textvqa_accuracy"
"""The VQA accuracy, of which every sweep has a matrix."""
SWEEP_FILE = "sweep.json"
"""Result of a sweep, in the folder ``val_<experiment>`` beside the folders of its pairs."""
PARTIAL_FILE = "partial.json"
"""Result of an unfinished run; a workflow regards an evaluation as finished when :data:`SWEEP_FILE` exists."""
MOST_SUGGESTIONS = 3
"""Number of results that the message about a missing one lists."""
AGAIN = "delete it and run `python eval_os.py`, which writes it again"


class EvaluationResult:
    """What one command of ``eval_os.py`` prints and writes.

    Subclasses have the methods ``as_json()``, which returns plain values, ``rows()``, which returns the header and the
    rows of the table as text, and ``lines()``, which returns the lines printed below the table.

    Attributes:
        text_columns: number of columns of the table, from the left, that contain text.
    """

    text_columns: ClassVar[int] = 1

    def table(self) -> str:
        """Return the table in aligned columns."""
        return format_table(*self.rows(), text_columns=self.text_columns)

    def section(self, title: str, lines: Iterable[str]) -> list[str]:
        """Return the table and the ``lines`` below it as a section with a title, after an empty line."""
        return ["", f"{title}:", *self.table().splitlines(), "", *lines]

    def csv(self) -> str:
        """Return the table as CSV (RFC 4180)."""
        header, rows = self.rows()
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`as_json` to a file."""
        write_json(path, self.as_json())


class AverageResult(EvaluationResult):
    """A result with one accuracy for each task of ``setting``, in its base order.

    Attributes:
        accuracies: fractions in [0, 1].
        weights: val sizes of the tasks.
    """

    @property
    def average(self) -> float:
        """Accuracy averaged over tasks, weighted by val size."""
        return weighted_average(np.array(self.accuracies), self.weights)

    def lines(self) -> list[str]:
        return [f"weighted average accuracy: {self.average:.4f}"]


@dataclass(frozen=True)
class SweepResult(EvaluationResult):
    """Accuracies of the checkpoints of one experiment on all tasks.

    Attributes:
        experiment: name of the experiment's folder, which encodes the method.
        accuracies: fractions in [0, 1] by key (``o2a``); pairs that were not evaluated are absent.
        weights: val sizes of the tasks along the order.
        stand_alone: whether the checkpoints are single-task models.
        data: name of the data set.
        model: registered name of the answer model.
        metric: name of the metric that ``accuracies`` are the values of.
        further: values of other metrics, by their name and key.
    """

    setting: str
    order: str
    experiment: str
    accuracies: dict[str, float]
    weights: tuple[float, ...]
    stand_alone: bool = False
    data: str = ""
    model: str = MODEL
    metric: str = METRIC
    further: dict[str, dict[str, float]] = field(default_factory=dict)

    def of_metric(self, name: str) -> SweepResult:
        """Return the result of another metric of this sweep.

        Raises:
            DataError: the sweep has no such metric.
        """
        if name == self.metric:
            return self
        if name not in self.further:
            names = [self.metric, *self.further]
            hint = did_you_mean(name, self.further)
            hint = hint or f"; evaluate again with evaluation.metrics=[{METRIC},{name.partition('/')[0]}]"
            limit = "; a metric has a matrix if all its values are numbers from 0 to 1"
            raise DataError(f"the sweep has no metric {name}, only {', '.join(names)}{hint}{limit}")
        return replace(self, metric=name, accuracies=self.further[name], further={})

    @property
    def tasks(self) -> list[Task]:
        """The tasks along the order."""
        return parse_order(self.setting, self.order)

    @property
    def matrix(self) -> np.ndarray:
        """The T x T accuracy matrix, see :mod:`mmclvqa.evaluation.matrix`."""
        return accuracy_matrix(self.accuracies, self.setting, self.order)

    @property
    def missing(self) -> list[str]:
        """Keys of the pairs that were not evaluated."""
        return [key for key, _, _ in sweep_pairs(self.setting, self.order) if key not in self.accuracies]

    @property
    def summary(self) -> Summary | None:
        """The metrics, weighted by val size; None where not even the first task was evaluated."""
        return summarize(self.matrix, self.weights)

    def as_json(self) -> dict[str, Any]:
        """Return plain values; ``matrix`` has the format of the published sweeps."""
        return {
            "kind": "sweep",
            **find_setting(self.setting).reference(),
            "setting_idx": order_index(self.setting, self.order),
            "task_order": self.order,
            "exp": self.experiment,
            **({} if self.model == MODEL else {"model": self.model}),
            "stand_alone": self.stand_alone,
            "data": self.data,
            "metric": self.metric,
            "tasks": [task.name for task in self.tasks],
            "weights": list(self.weights),
            "matrix": dict(self.accuracies),
            "missing": self.missing,
            "summary": _summary_json(self.summary),
        } | self._further_json()

    def _further_json(self) -> dict[str, Any]:
        others = [self.of_metric(name) for name in self.further]
        content = {o.metric: {"matrix": dict(o.accuracies), "summary": _summary_json(o.summary)} for o in others}
        return {"further": content} if content else {}

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return the matrix as text, one row per learned task; cells of pairs that were not evaluated are empty."""
        header = ["learned", *(task.name for task in self.tasks)]
        cells = [[_decimal(value) for value in row] for row in self.matrix]
        return header, [[task.name, *row] for task, row in zip(self.tasks, cells, strict=True)]

    def table(self) -> str:
        """Return the matrix in aligned columns, one row per learned and one column per tested task."""
        header, rows = self.rows()
        return format_table([f"{header[0]} \\ tested", *header[1:]], rows)

    def lines(self) -> list[str]:
        """Return the metrics, one line each, then a section for each further metric.

        The lines of a finished run end with the :meth:`published_lines` of the further metrics, then of this one.
        """
        lines, others = self._metric_lines(), [self.of_metric(name) for name in self.further]
        for other in others:
            lines += other.section(other.metric, other._metric_lines())
        if self.missing:
            return lines
        closing = [line for result in (*others, self) for line in result.published_lines()]
        return [*lines, *([""] if others else []), *closing]

    def published_lines(self) -> list[str]:
        """Return the three closing lines of the published tool, for programs that parse its output.

        Averages use the published weights, the same for all tasks, and forgetting is
        :func:`mmclvqa.evaluation.matrix.legacy_forgetting`. Numbers by task are rounded to four decimals. The
        matrix must be complete.
        """
        summary = summarize(self.matrix, published_weights(len(self.tasks)))
        lines = []
        for head, what, metric in (
            ("Final acc", "weight avg acc", summary.accuracy),
            ("Backward transfer", "weighted bwt", summary.backward_transfer),
            ("Forgetting", "weighted forgetting", summary.legacy_forgetting),
        ):
            by_task = [round(float(value), 4) + 0.0 for value in metric.by_task]  # + 0.0 turns -0.0 into 0.0
            lines.append(f"==> {self.metric} | {head}: {by_task}, {what}: {float(metric.average)}")
        return lines

    def _metric_lines(self) -> list[str]:
        summary = self.summary
        if summary is None:
            return ["no summary: the first task was not evaluated"]
        names = [task.name for task in self.tasks]
        learning = summary.learning_accuracy
        if self.stand_alone:
            head = "accuracy of each stand-alone model on its own task"
            return [*_by_task(head, names, learning.by_task), f"weighted average: {learning.average:.4f}"]
        learned = names[: summary.learned]
        lines = []
        if summary.learned < len(names):
            lines.append(f"after {summary.learned} of {len(names)} tasks:")
        lines += _by_task("final accuracies", learned, summary.accuracy.by_task)
        lines.append(f"weighted average accuracy: {summary.accuracy.average:.4f}")
        for head, metric in (
            ("backward transfer", summary.backward_transfer),
            ("forgetting", summary.forgetting),
            ("legacy forgetting", summary.legacy_forgetting),
        ):
            lines += _by_task(head, learned[:-1], metric.by_task)
            lines.append(f"weighted average {head}: {_decimal(metric.average) or 'none with one task'}")
        return lines + _by_task("learning accuracies", learned, learning.by_task)


@dataclass(frozen=True)
class MultitaskResult(AverageResult):
    """Accuracies of the multitask model on each task; ``model`` is the registered name of the answer model.

    ``further`` has the values of other metrics by their name, in the order of ``accuracies``.
    """

    setting: str
    accuracies: tuple[float, ...]
    weights: tuple[float, ...]
    model: str = MODEL
    further: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        further = {name: other.values_json() for name, other in self.others().items()}
        return {
            "kind": "multitask",
            **find_setting(self.setting).reference(),
            **({} if self.model == MODEL else {"model": self.model}),
            "metric": METRIC,
            "weights": list(self.weights),
            **self.values_json(),
            **({"further": further} if further else {}),
        }

    def values_json(self) -> dict[str, Any]:
        """Return the part of :meth:`as_json` that every metric has."""
        values = dict(zip(task_names(self.setting), self.accuracies, strict=True))
        return {"accuracies": values, "weighted_average_accuracy": self.average}

    def others(self) -> dict[str, MultitaskResult]:
        """Return the results of the other metrics by their name."""
        return {name: replace(self, accuracies=values, further={}) for name, values in self.further.items()}

    def lines(self) -> list[str]:
        lines = super().lines()
        for name, other in self.others().items():
            lines += other.section(name, other.lines())
        return lines

    def rows(self) -> tuple[list[str], list[list[str]]]:
        pairs = zip(task_names(self.setting), self.accuracies, strict=True)
        return ["task", "accuracy"], [[name, _decimal(value)] for name, value in pairs]


def sweep_file(path: str | os.PathLike[str]) -> Path:
    """Return the result file of a sweep, given as the file or its folder; the partial one if there is no other."""
    path = Path(path)
    if not path.is_dir():
        return path
    complete, partial = path / SWEEP_FILE, path / PARTIAL_FILE
    return partial if partial.exists() and not complete.exists() else complete


def read_sweep(path: str | os.PathLike[str], metric: str = METRIC) -> SweepResult:
    """Read a sweep from its JSON file, or from the folder ``val_<experiment>`` that contains one.

    Raises:
        DataError: the file does not exist, is not the valid result of a sweep, or has no such metric.
    """
    file = sweep_file(path)
    try:
        text = file.read_text(encoding="utf-8")
        if not text.strip():
            raise DataError(f"{file}: is empty; {AGAIN}")
        content = json.loads(text)
        sweep = SweepResult(
            setting=setting_of_result(content),
            order=content["task_order"],
            weights=tuple(map(float, content["weights"])),
            accuracies=_numbers(content["matrix"]),
            stand_alone=bool(content.get("stand_alone")),
            data=str(content.get("data") or ""),
            experiment=str(content["exp"]),
            model=str(content.get("model", MODEL)),
            further={name: _numbers(other["matrix"]) for name, other in content.get("further", {}).items()},
        )
    except FileNotFoundError:
        hint = _result_hint(Path(path)) or "; `python eval_os.py sweep` writes one"
        raise DataError(f"{file}: no such file{'' if file.suffix == '.json' else ' or folder'}{hint}") from None
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
        raise DataError(f"{file}: not a valid result of a sweep ({reason}); correct the path, or {AGAIN}") from None
    try:
        count = len(sweep.matrix)
        sweep = sweep.of_metric(metric)
        _ = sweep.matrix
    except CloveError as error:
        raise DataError(f"{file}: {error}") from None
    if len(sweep.weights) != count or not all(weight > 0 and math.isfinite(weight) for weight in sweep.weights):
        raise DataError(f"{file}: 'weights' must be one positive number for each of the {count} tasks")
    return sweep


def _numbers(matrix: Mapping[str, float | None]) -> dict[str, float]:
    return {key: number for key, number in matrix.items() if number is not None}


def _result_hint(path: Path) -> str:
    """Return a question that names results in or beside a folder that has none, empty if there are none."""
    folder = path.parent if path.suffix == ".json" else path
    inside, beside = (
        [other.name for other in parent.glob("val_*") if sweep_file(other).is_file()]
        for parent in (folder, folder.parent)
    )
    if inside or (folder.is_dir() and folder.name.startswith("val_")):
        return suggestion(sorted(inside)[:MOST_SUGGESTIONS])
    same = f"val_{folder.name}"
    return suggestion([same] if same in beside else difflib.get_close_matches(folder.name, beside))


def setting_of_result(content: Mapping[str, Any]) -> str:
    """Return the name of the setting of a result; the file that the result names is read if it exists.

    Raises:
        KeyError: the result does not name a setting.
        TaskError: the file of the setting is not valid.
    """
    file = content.get("setting_file")
    return find_setting(file).name if file and Path(file).is_file() else str(content["cl_setting"])


def metric_label(metric: str) -> str:
    """Return the name of a metric in figures and pages."""
    return "VQA accuracy" if metric == METRIC else metric


def percent(value: float | Mean, missing: str = "–") -> str:
    """Return a fraction as a percentage with one decimal, or ``missing`` for NaN; means with their deviation."""
    if isinstance(value, Mean):
        deviation = percent(value.deviation, "")
        return percent(value.value, missing) + (f" ± {deviation}" if deviation else "")
    return missing if math.isnan(value) else f"{100 * value:.1f}"


def task_names(setting: str) -> list[str]:
    """Return the names of a setting's tasks in its base order.

    Raises:
        TaskError: no such setting.
    """
    return [task.name for task in tasks(setting).values()]


def _summary_json(summary: Summary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    content: dict[str, Any] = {"learned": summary.learned}
    for name in ("accuracy", "backward_transfer", "forgetting", "legacy_forgetting", "learning_accuracy"):
        metric = getattr(summary, name)
        content["final" if name == "accuracy" else name] = [float(value) for value in metric.by_task]
        content[f"weighted_average_{name}"] = None if math.isnan(metric.average) else metric.average
    return content


def _by_task(head: str, names: Sequence[str], values: Iterable[float]) -> list[str]:
    parts = [f"{name} {value:.4f}" for name, value in zip(names, values, strict=True)]
    return [f"{head}: {', '.join(parts)}"] if parts else []


def _decimal(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
