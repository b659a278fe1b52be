"""HTML report that compares runs: ``python -m mmclvqa.evaluation.report RUN... [--out DIR]``.

RUN is the ``sweep.json`` of a sweep or the folder ``val_<experiment>`` that contains it, or the JSON result of
``eval_os.py multitask`` or ``chance``. The HTML report ``index.html`` has its images embedded; the images and the
numbers of the comparison (``comparison.json``) are also written beside it. Runs that differ only in their seed, in
folders ``seed_<n>``, are compared by the mean and the sample standard deviation of their numbers.
"""

from __future__ import annotations

import argparse
import base64
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.files import atomic_write, read_json, write_json
from mmclvqa.clove.tasks import find_setting
from mmclvqa.clove.text import clock, format_table, run_command
from mmclvqa.evaluation.matrix import Mean, published_weights, summarize
from mmclvqa.evaluation.results import METRIC, SWEEP_FILE, SweepResult, metric_label, percent, task_names
from mmclvqa.evaluation.runs import (
    Bound,
    Cost,
    Run,
    grouped_by_seed,
    mean_cost,
    method_label,
    read_all,
    total_acceptance,
    with_model,
    with_seeds,
)
from mmclvqa.evaluation.sweep import PUBLISHED_DATA
from mmclvqa.user_code import import_user_code

if TYPE_CHECKING:
    from mmclvqa.evaluation.figures import RenderedFigure

PAGE = "index.html"
COMPARISON_FILE = "comparison.json"
TEMPLATE = "report.html"
PUBLISHED = Path(__file__).with_name("published.json")
"""The published sweeps and their source."""
NOT_AVAILABLE = "–"
EVERYTHING = "all"
MEGABYTE = 10**6
HEADER = (
    "method, task order", "average accuracy %", "backward transfer %", "forgetting %", "records kept", "MB kept",
    "training h:mm:ss",
)  # fmt: skip


@dataclass(frozen=True)
class ComparisonRow:
    """One run or bound in the comparison, or its mean over seeds; numbers that do not exist are NaN.

    Attributes:
        label: method, task order and seeds; shortened for axes of figures in ``short_label``.
        seeds: seeds of the runs, empty for a run without one.
        anchor: of the first run's section in the HTML report, empty where it has none.
        accuracy: average accuracy, in [0, 1]; for single-task models, of each model on its own task.
        by_task: final accuracy by task name, in [0, 1].
    """

    label: str
    short_label: str
    seeds: tuple[int, ...]
    anchor: str
    data: str
    setting: str
    accuracy: Mean
    backward: Mean
    forgetting: Mean
    by_task: dict[str, Mean]
    cost: Cost

    def cells(self) -> list[str]:
        """Return the row as text, one cell for each column of :data:`HEADER`."""
        averages = [percent(value) for value in (self.accuracy, self.backward, self.forgetting)]
        records, size, seconds = self.cost.records, self.cost.bytes, self.cost.seconds
        storage = [
            NOT_AVAILABLE if records is None else str(records),
            NOT_AVAILABLE if size is None else f"{size / MEGABYTE:.2f}",
        ]
        if self.cost.everything:
            storage = [EVERYTHING, EVERYTHING]
        return [self.label, *averages, *storage, NOT_AVAILABLE if seconds is None else clock(seconds)]

    def as_json(self) -> dict[str, Any]:
        """Return plain values, null for NaN; standard deviations are under ``deviations``."""
        averages = {"accuracy": self.accuracy, "backward": self.backward, "forgetting": self.forgetting}

        def plain(means: dict[str, Mean], attribute: str) -> dict[str, float | None]:
            numbers = {name: getattr(mean, attribute) for name, mean in means.items()}
            return {name: None if math.isnan(number) else number for name, number in numbers.items()}

        values, deviations = (
            plain(averages, attribute) | {"by_task": plain(self.by_task, attribute)}
            for attribute in ("value", "deviation")
        )
        head = {"label": self.label, "seeds": list(self.seeds), "data": self.data, "setting": self.setting}
        return head | values | {"deviations": deviations, "cost": asdict(self.cost)}


def comparison_row(*group: Run | Bound) -> ComparisonRow:
    """Return the comparison's row of a run or a bound, or of several that differ only in their seed."""
    first, seeds = group[0], [entry.seed for entry in group]
    numbers = [_numbers(entry) for entry in group]
    is_run = isinstance(first, Run)
    return ComparisonRow(
        label=with_seeds(first.label, seeds),
        short_label=with_seeds(first.short_label, seeds),
        seeds=tuple(seed.number for seed in seeds if seed is not None),
        anchor=first.name if is_run else "",
        data=first.sweep.data if is_run else "",
        setting=first.sweep.setting if is_run else first.setting,
        accuracy=Mean.of([accuracy for accuracy, _, _, _ in numbers]),
        backward=Mean.of([backward for _, backward, _, _ in numbers]),
        forgetting=Mean.of([forgetting for _, _, forgetting, _ in numbers]),
        by_task={name: Mean.of([by_task.get(name, math.nan) for *_, by_task in numbers]) for name in numbers[0][3]},
        cost=mean_cost([entry.cost for entry in group]),
    )


def _numbers(entry: Run | Bound) -> tuple[float, float, float, dict[str, float]]:
    """Return average accuracy, backward transfer and forgetting of a run or bound, and its accuracies by task."""
    if isinstance(entry, Bound):
        return entry.average, math.nan, math.nan, entry.accuracies
    sweep, summary = entry.sweep, entry.sweep.summary
    if summary is None:
        return math.nan, math.nan, math.nan, {}
    accuracy = summary.learning_accuracy if sweep.stand_alone else summary.accuracy
    by_task = {task.name: float(value) for task, value in zip(sweep.tasks, accuracy.by_task, strict=False)}
    if sweep.stand_alone:
        return accuracy.average, math.nan, math.nan, by_task
    return accuracy.average, summary.backward_transfer.average, summary.forgetting.average, by_task


def accuracies_by_task(rows: Sequence[ComparisonRow]) -> list[tuple[str, list[str], list[tuple[str, list[Mean]]]]]:
    """Return, for each setting that has rows, its name, its task names, and label and final accuracies of each row."""
    tables = []
    for setting in sorted({row.setting for row in rows}):
        names = task_names(setting)
        accuracies = ((row.label, row.by_task) for row in rows if row.setting == setting)
        lines = [(label, [by_task.get(name, Mean(math.nan)) for name in names]) for label, by_task in accuracies]
        tables.append((setting, names, lines))
    return tables


def published_comparisons(groups: Sequence[Sequence[SweepResult]]) -> list[dict[str, Any]]:
    """Compare each published sweep with the sweeps of its setting and order, single-task models aside.

    Args:
        groups: sweeps, those that differ only in their seed together.

    Returns:
        For each published sweep with others: ``title``, ``source`` of the published numbers, ``columns``, the label of
        the published run and of the others, and ``rows``: name of a number and its mean over seeds for each column, in
        [0, 1] or NaN, with all tasks weighted equally.
    """
    own = (find_setting(sweep.setting).published for sweep, *_ in groups)
    comparisons = []
    for file in dict.fromkeys((PUBLISHED, *filter(None, own))):
        content = read_json(file)
        try:
            comparisons += _comparisons_with(content, groups)
        except CloveError as error:
            raise DataError(f"{file}: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not published results in the form of {PUBLISHED} ({error})") from None
    return comparisons


def _comparisons_with(
    published: Mapping[str, Any], groups: Sequence[Sequence[SweepResult]]
) -> Iterator[dict[str, Any]]:
    for content in published["sweeps"]:
        setting, order = content["cl_setting"], content["task_order"]
        same_order = [g for g in groups if (g[0].setting, g[0].order) == (setting, order) and not g[0].stand_alone]
        if not same_order:
            continue
        weights = tuple(map(float, published_weights(len(same_order[0][0].tasks))))
        data = content.get("data", PUBLISHED_DATA)
        compared = [[SweepResult(setting, order, content["exp"], content["matrix"], weights, data=data)], *same_order]
        labels = [method_label(sweep.experiment, short=True) + with_model(sweep.model) for sweep, *_ in compared]
        columns = [f"{label} on {s.data or 'unnamed data'}" for label, (s, *_) in zip(labels, compared, strict=True)]
        columns[0] = f"published: {columns[0]}"
        numbers = [[_equally_weighted(sweep) for sweep in group] for group in compared]
        rows = [
            (what, [Mean.of([column.get(what, math.nan) for column in group]) for group in numbers])
            for what in numbers[0][0]
        ]
        title = f"{setting} setting, {order}"
        yield {"title": title, "source": published["source"], "columns": columns, "rows": rows}


def _equally_weighted(sweep: SweepResult) -> dict[str, float]:
    summary = summarize(sweep.matrix, published_weights(len(sweep.tasks)))
    if summary is None:
        return {}
    final = zip(sweep.tasks, summary.accuracy.by_task, strict=False)
    return {f"final accuracy, {task.name}": float(value) for task, value in final} | {
        "average accuracy": summary.accuracy.average,
        "backward transfer": summary.backward_transfer.average,
        "forgetting": summary.forgetting.average,
        "legacy forgetting": summary.legacy_forgetting.average,
    }


def all_warnings(entries: Sequence[Run | Bound]) -> list[str]:
    """Return the warnings about some runs without duplicates, because runs may share trainings."""
    return list(dict.fromkeys(warning for entry in entries for warning in entry.warnings))


def write_report(entries: Sequence[Run | Bound], out: str | Path, metric: str = METRIC) -> Path:
    """Write the HTML report, its images and the numbers of the comparison; return the path of the HTML report.

    Args:
        metric: name of the metric of the entries; there are published numbers only of the VQA accuracy.

    Raises:
        OSError: the folder cannot be written.
    """
    import jinja2

    out = Path(out)
    runs = [entry for entry in entries if isinstance(entry, Run)]
    groups = grouped_by_seed(entries)
    rows = [comparison_row(*group) for group in groups]
    figures, comparison = _draw(runs, rows)
    sweeps = [[run.sweep for run in group] for group in groups if isinstance(group[0], Run)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "image": lambda figure: f"data:image/png;base64,{base64.b64encode(figure.png).decode()}",
    }
    text = environment.get_template(TEMPLATE).render(
        runs=runs,
        rows=rows,
        header=HEADER,
        by_task=accuracies_by_task(rows),
        description={setting: find_setting(setting).description for setting in {row.setting for row in rows}},
        figures=figures,
        comparison=comparison,
        published=published_comparisons(sweeps) if metric == METRIC else [],
        metric=metric_label(metric),
        total_acceptance=total_acceptance,
        warnings=all_warnings(entries),
    )
    for figure in [*(f for drawn in figures.values() for f in drawn), *([comparison] if comparison else [])]:
        with atomic_write(out / f"{figure.name}.png", "wb") as file:
            file.write(figure.png)
    write_json(out / COMPARISON_FILE, [row.as_json() | {"metric": metric} for row in rows])
    with atomic_write(out / PAGE) as file:
        file.write(text)
    return out / PAGE


def _draw(
    runs: Sequence[Run], rows: Sequence[ComparisonRow]
) -> tuple[dict[str, list[RenderedFigure]], RenderedFigure | None]:
    """Return the figures of each run by its name, and the comparison's, None for a single row."""
    from mmclvqa.evaluation import figures  # matplotlib takes a second to import

    by_run = {}
    for run in runs:
        heading = with_seeds(run.short_label, [run.seed])
        drawn = [figures.matrix_figure(run.name, heading, run.sweep)]
        if not run.sweep.stand_alone:
            drawn.append(figures.course_figure(run.name, heading, run.sweep))
        if run.curves:
            drawn.append(figures.training_figure(run.name, heading, run.curves, run.sweep.metric))
        by_run[run.name] = drawn
    if len(rows) < 2:
        return by_run, None
    labels, averages, forgetting = zip(*((r.short_label, r.accuracy, r.forgetting) for r in rows), strict=True)
    return by_run, figures.comparison_figure(labels, averages, forgetting)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, see :func:`mmclvqa.clove.text.run_command`."""
    parser = argparse.ArgumentParser(
        prog="python -m mmclvqa.evaluation.report", description="Write an HTML report with figures that compares runs."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help=f"a {SWEEP_FILE} or its folder val_<exp>, or the --json file of eval_os.py chance or multitask",
    )
    parser.add_argument("--out", default="report", metavar="DIR", help="folder to write into (default: report)")
    parser.add_argument("--metric", default=METRIC, metavar="NAME", help=f"metric of the sweeps (default: {METRIC})")
    parser.add_argument(
        "--user_dir", default=os.environ.get("MMF_USER_DIR"), metavar="PATH",
        help="Python file or package with custom methods, for their labels (default: $MMF_USER_DIR)",
    )  # fmt: skip
    args = parser.parse_args(argv)

    def report() -> None:
        if args.user_dir:
            import_user_code(args.user_dir)
        entries = read_all(args.runs, args.metric)
        for warning in all_warnings(entries):
            print(f"warning: {warning}", file=sys.stderr)
        page = write_report(entries, args.out, args.metric)
        if args.metric != METRIC:
            print(f"In this table, accuracy is the metric {args.metric}.")
        print(format_table(HEADER, [comparison_row(*group).cells() for group in grouped_by_seed(entries)]))
        print(f"\nreport: {page}")

    return run_command(report)


if __name__ == "__main__":
    sys.exit(main())
