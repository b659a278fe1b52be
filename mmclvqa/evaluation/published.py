"""Published numbers beside ours, where a run's setting and order are those of a published one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmclvqa.evaluation import history
from mmclvqa.evaluation.matrix import published_weights, summarize
from mmclvqa.evaluation.outcome import Sweep

PUBLISHED = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Comparison:
    """Runs of one order beside the published one, every task weighing the same.

    Attributes:
        title: setting and order.
        source: of the published numbers.
        columns: the published run's name, then ours.
        rows: what, and a number (fraction of 1, NaN for none) for each column.
    """

    title: str
    source: str
    columns: list[str]
    rows: list[tuple[str, list[float]]]


def published_comparisons(runs: Sequence[Sweep]) -> list[Comparison]:
    """One for each published sweep whose setting and order some run has; stand-alone models are left out."""
    content = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    found = []
    for value in content["sweeps"]:
        setting, order = value["cl_setting"], value["task_order"]
        ours = [run for run in runs if (run.setting, run.order) == (setting, order) and not run.stand_alone]
        if not ours:
            continue
        weights = tuple(map(float, published_weights(len(order))))
        published = Sweep(setting, order, value["exp"], value["matrix"], weights, data="CLOVE")
        sweeps = [published, *ours]
        columns = [f"{history.short_name(s.experiment)} on {s.data or 'unnamed data'}" for s in sweeps]
        columns[0] = f"published: {columns[0]}"
        found.append(Comparison(f"{setting} setting, {order}", content["source"], columns, _rows(sweeps)))
    return found


def _rows(sweeps: Sequence[Sweep]) -> list[tuple[str, list[float]]]:
    numbers: list[dict[str, float]] = []
    for sweep in sweeps:
        matrix = sweep.matrix
        if math.isnan(matrix[0, 0]):
            numbers.append({})
            continue
        summary = summarize(matrix, published_weights(len(matrix)))
        finals = zip(sweep.tasks, summary.final, strict=False)
        numbers.append(
            {f"final accuracy, {task.name}": float(value) for task, value in finals}
            | {
                "average accuracy": summary.average_accuracy,
                "backward transfer": summary.average_backward,
                "forgetting": summary.average_forgotten,
                "legacy forgetting": summary.average_legacy_forgotten,
            }
        )
    return [(what, [column.get(what, math.nan) for column in numbers]) for what in numbers[0]]
