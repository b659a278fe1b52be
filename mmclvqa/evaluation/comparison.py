"""The table in which methods are compared: accuracy, transfer, forgetting, what is kept of the past, time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmclvqa.clove.table import format_table
from mmclvqa.clove.tasks import SETTINGS, tasks
from mmclvqa.evaluation.cost import Cost
from mmclvqa.evaluation.runs import Bound, Run
from mmclvqa.evaluation.sweep import clock

NONE = "–"
EVERYTHING = "all"
MEGABYTE = 10**6
HEADER = (
    "method, task order",
    "average accuracy %",
    "backward transfer %",
    "forgetting %",
    "records kept",
    "MB kept",
    "training h:mm:ss",
)


@dataclass(frozen=True)
class Row:
    """One method; numbers that do not exist are NaN.

    Attributes:
        label, short_label: its name, with the task order.
        anchor: of its section on the page, empty where it has none.
        data: what the data set is called.
        setting: ``functional`` or ``scene``.
        accuracy, backward, forgetting: weighted averages, fractions of 1.
        by_task: final accuracy by task name, fractions of 1.
        cost: what it keeps, and its training time.
    """

    label: str
    short_label: str
    anchor: str
    data: str
    setting: str
    accuracy: float
    backward: float
    forgetting: float
    by_task: dict[str, float]
    cost: Cost

    def cells(self) -> list[str]:
        """The row as text, below :data:`HEADER`."""
        shares = [percent(value) for value in (self.accuracy, self.backward, self.forgetting)]
        return [self.label, *shares, *self.kept(), self.time()]

    def kept(self) -> tuple[str, str]:
        """Records, and megabytes (10^6 bytes) that are kept of earlier tasks."""
        if self.cost.everything:
            return EVERYTHING, EVERYTHING
        records = NONE if self.cost.records is None else str(self.cost.records)
        return records, NONE if self.cost.bytes is None else f"{self.cost.bytes / MEGABYTE:.2f}"

    def time(self) -> str:
        """Training, hours and minutes and seconds."""
        return NONE if self.cost.seconds is None else clock(self.cost.seconds)

    def as_json(self) -> dict[str, Any]:
        """Plain values, null for NaN."""
        value = asdict(self)
        del value["short_label"], value["anchor"]
        numbers = {name: _plain(value[name]) for name in ("accuracy", "backward", "forgetting")}
        return value | numbers | {"by_task": {name: _plain(number) for name, number in self.by_task.items()}}


def row_of(one: Run | Bound) -> Row:
    """The row of a run, or of a bound."""
    if isinstance(one, Bound):
        nothing = math.nan
        return Row(
            one.label, one.kind, "", "", one.setting, one.average, nothing, nothing, dict(one.accuracies), one.cost
        )
    accuracy, forgotten, backward = one.figures
    summary = one.sweep.summary
    final = () if summary is None else summary.learning if one.sweep.stand_alone else summary.final
    return Row(
        label=one.label,
        short_label=one.short_label,
        anchor=one.name,
        data=one.sweep.data,
        setting=one.sweep.setting,
        accuracy=accuracy,
        backward=backward,
        forgetting=forgotten,
        by_task={task.name: float(value) for task, value in zip(one.sweep.tasks, final, strict=False)},
        cost=one.cost,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows for the console."""
    return format_table(HEADER, [row.cells() for row in rows])


def by_task(rows: Iterable[Row]) -> list[tuple[str, list[str], list[tuple[str, list[float]]]]]:
    """For each setting that has rows: its name, its tasks, and label and final accuracies of each row."""
    rows = list(rows)
    found = []
    for setting in SETTINGS:
        names = [task.name for task in tasks(setting).values()]
        lines = [
            (row.label, [row.by_task.get(name, math.nan) for name in names]) for row in rows if row.setting == setting
        ]
        if lines:
            found.append((setting, names, lines))
    return found


def percent(value: float) -> str:
    """A fraction of 1 as per cent with one decimal."""
    return NONE if math.isnan(value) else f"{100 * value:.1f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
