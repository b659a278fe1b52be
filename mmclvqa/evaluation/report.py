"""One page about one or more runs: ``python -m mmclvqa.evaluation.report RUN... [--out DIR]``.

RUN is the ``sweep.json`` of a sweep or the folder ``val_<exp>`` that holds one. The page is one HTML file with its
images inside; the images are written beside it as well.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.table import format_table
from mmclvqa.evaluation import history
from mmclvqa.evaluation.cli import one_line
from mmclvqa.evaluation.matrix import published_weights, summarize
from mmclvqa.evaluation.outcome import SWEEP_FILE, Sweep, read_sweep

PAGE = "index.html"
PUBLISHED = Path(__file__).with_name("published.json")
TEMPLATE = "report.html"
NONE = "–"


@dataclass(frozen=True)
class Run:
    """A sweep and what was found beside it.

    Attributes:
        sweep: its numbers.
        name: for file names and anchors; no two runs of a page have the same.
        curves: trainings.
        replays: sidecars of replay files.
        samples: of replays.
        notes: what was looked for and not found, for the page.
    """

    sweep: Sweep
    name: str
    curves: list[history.Curve] = field(default_factory=list)
    replays: list[history.Replays] = field(default_factory=list)
    samples: list[history.Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Method and task order."""
        return f"{history.method_name(self.sweep.experiment)}, {self.sweep.order}"

    @property
    def short_label(self) -> str:
        """As :attr:`label`, for titles and axes of figures."""
        return f"{history.short_name(self.sweep.experiment)}, {self.sweep.order}"

    @property
    def figures(self) -> tuple[float, float, float]:
        """Weighted average accuracy, forgetting and backward transfer; NaN where there is none.

        Of stand-alone models the accuracy is that of each on its own task, and nothing is forgotten.
        """
        summary = self.sweep.summary
        if summary is None:
            return math.nan, math.nan, math.nan
        if self.sweep.stand_alone:
            return summary.average_learning, math.nan, math.nan
        return summary.average_accuracy, summary.average_forgotten, summary.average_backward


def read_run(path: str | Path, taken: Sequence[str] = ()) -> Run:
    """A run from its sweep's file or folder, with what lies beside it in the places of SPEC section 1.

    Args:
        path: see :func:`mmclvqa.evaluation.outcome.read_sweep`.
        taken: names that other runs have.

    Raises:
        DataError: there is no sweep.
    """
    path = Path(path).absolute()
    sweep = read_sweep(path)
    folder = path if path.is_dir() else path.parent
    base = re.sub(r"[^A-Za-z0-9.]+", "_", f"{sweep.setting}_{sweep.order}_{sweep.experiment}")
    name = next(n for n in (base, *(f"{base}_{i}" for i in range(2, len(taken) + 3))) if n not in taken)
    if folder.name != f"val_{sweep.experiment}" or len(folder.parents) < 3:
        return Run(sweep, name, notes=[f"The sweep does not lie in its run's folder val_{sweep.experiment}, so "
                                       "trainings and replays were not looked for."])  # fmt: skip
    curves, notes = history.curves(sweep, folder), []
    untold = [task.name for task in sweep.tasks if task.name not in {curve.task for curve in curves}]
    if untold:
        notes.append(f"No evaluations made during training were found of: {', '.join(untold)}.")
    replays: list[history.Replays] = []
    samples: list[history.Sample] = []
    source = history.replay_folder(sweep, folder)
    if source is not None:
        replays, samples = history.replays(sweep, source), history.samples(sweep, source)
        expected = len(sweep.tasks) * (len(sweep.tasks) - 1) // 2
        if len(replays) < expected:
            notes.append(f"Figures of {len(replays)} of {expected} replay files were found.")
    return Run(sweep, name, curves, replays, samples, notes)


def write_report(runs: Sequence[Run], out: str | Path) -> Path:
    """Write the page and its images.

    Args:
        runs: at least one.
        out: folder to write into.

    Returns:
        The page.

    Raises:
        OSError: the folder cannot be written.
    """
    import jinja2

    from mmclvqa.evaluation import figures

    out = Path(out)
    pictures: dict[str, list[figures.Picture]] = {}
    for run in runs:
        drawn = [figures.matrix_picture(run.name, run.short_label, run.sweep)]
        if not run.sweep.stand_alone:
            drawn.append(figures.course_picture(run.name, run.short_label, run.sweep))
        if run.curves:
            drawn.append(figures.training_picture(run.name, run.short_label, run.curves))
        pictures[run.name] = drawn
    comparison = None
    if len(runs) > 1:
        averages, forgotten, _ = zip(*(run.figures for run in runs), strict=True)
        comparison = figures.comparison_picture([run.short_label for run in runs], averages, forgotten)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda value: figures.percent(value) or NONE,
        "image": lambda picture: f"data:image/png;base64,{base64.b64encode(picture.png).decode()}",
    }
    text = environment.get_template(TEMPLATE).render(
        runs=runs,
        pictures=pictures,
        comparison=comparison,
        published=published_comparisons(runs),
        average_share=average_share,
    )
    for picture in [*(p for drawn in pictures.values() for p in drawn), *([comparison] if comparison else [])]:
        with atomic_write(out / f"{picture.name}.png", "wb") as file:
            file.write(picture.png)
    page = out / PAGE
    with atomic_write(page) as file:
        file.write(text)
    return page


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


def published_comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """One for each published sweep whose setting and order some run has."""
    content = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    found = []
    for value in content["sweeps"]:
        setting, order = value["cl_setting"], value["task_order"]
        ours = [r.sweep for r in runs if (r.sweep.setting, r.sweep.order) == (setting, order)]
        ours = [sweep for sweep in ours if not sweep.stand_alone]
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


def summary_table(runs: Sequence[Run]) -> str:
    """A row for each run, in per cent, for the console."""

    def text(value: float) -> str:
        return NONE if math.isnan(value) else f"{100 * value:.1f}"

    rows = [[run.label, *map(text, run.figures)] for run in runs]
    return format_table(["method, task order", "average accuracy %", "forgetting %", "backward transfer %"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit code: 0, or 1 when something a user can mend is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mmclvqa.evaluation.report", description="Write one HTML page, and its images, about runs."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"a {SWEEP_FILE}, or the folder val_<exp> it lies in")
    parser.add_argument("--out", default="report", metavar="DIR", help="folder to write into (default: report)")
    args = parser.parse_args(argv)
    runs: list[Run] = []
    try:
        for path in args.runs:
            runs.append(read_run(path, [run.name for run in runs]))
        page = write_report(runs, args.out)
    except (CloveError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(summary_table(runs))
    print(f"\npage: {page}")
    return 0


def average_share(replays: Sequence[history.Replays]) -> dict[str, Any]:
    """Figures of all replay files together, for the page's one-line account.

    Returns:
        ``prompts``, ``accepted`` and their ``acceptance``; ``truth``, the share of accepted replays whose answer
        follows from the prompt, None where no sidecar tells it.
    """
    prompts = sum(r.figures["prompts"] for r in replays)
    accepted = sum(r.figures["accepted"] for r in replays)
    judged = [r for r in replays if isinstance(r.figures.get("truth"), dict)]
    true = sum(r.figures["truth"]["true"] for r in judged)
    whole = sum(r.figures["accepted"] for r in judged)
    return {
        "prompts": prompts,
        "accepted": accepted,
        "acceptance": accepted / prompts if prompts else math.nan,
        "truth": true / whole if whole else None,
    }


if __name__ == "__main__":
    sys.exit(main())
