"""The figures of a report: PNG images, each with a title, units and an alternative text."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from mmclvqa.evaluation.matrix import Mean  # noqa: E402
from mmclvqa.evaluation.results import METRIC, SweepResult, metric_label, percent  # noqa: E402
from mmclvqa.evaluation.runs import TrainingCurve  # noqa: E402

DPI = 150
TITLE_WIDTH = 76
"""Characters per line of a title."""
LABEL_WIDTH = 34
"""Characters per line of an axis label."""
MARKERS = "osD^vPX"
# The palette of Okabe and Ito, distinguishable with any color vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")


@dataclass(frozen=True)
class RenderedFigure:
    """One figure of the HTML report: file name without ending, title, text with its main numbers, and image."""

    name: str
    title: str
    alt: str
    png: bytes


def matrix_figure(name: str, label: str, sweep: SweepResult) -> RenderedFigure:
    """Draw the accuracy matrix as a heat map with its numbers."""
    names, matrix = _axis_names(sweep), sweep.matrix * 100
    size = max(1.0, len(names) / 8)
    figure = Figure(figsize=(6.4 * size, 5.2 * size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap="viridis", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("tested task")
    axes.set_ylabel("after learning task")
    for (row, column), value in np.ndenumerate(matrix):
        text = "–" if math.isnan(value) else f"{value:.1f}"
        colour = "white" if value < 45 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(image, ax=axes, label=f"{metric_label(sweep.metric)} (%)", shrink=0.85)
    title = f"Accuracy matrix: {label}"
    learned, final = (
        ", ".join(f"{task} {percent(value, 'unknown')}" for task, value in zip(names, values, strict=True))
        for values in (np.diagonal(sweep.matrix), sweep.matrix[-1])
    )
    alt = f"Heat map, rows are learned and columns tested tasks. In %, just after learning: {learned}. "
    return _render(figure, f"{name}_matrix", title, f"{alt}After the last task: {final}.")


def course_figure(name: str, label: str, sweep: SweepResult) -> RenderedFigure:
    """Draw the accuracy of each task along the order, from the step at which it was learned."""
    names, matrix = _axis_names(sweep), sweep.matrix
    figure = Figure(figsize=(6.4 * max(1.0, len(names) / 8), 4.2), layout="constrained")
    axes = figure.subplots()
    for number, task in enumerate(names):
        _plot(axes, number, task, range(number, len(names)), matrix[number:, number])
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.set_xlabel("after learning task")
    axes.set_ylabel(f"{metric_label(sweep.metric)} (%)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    _add_legend(figure, "tested task")
    title = f"Each task along the order: {label}"
    ends = ", ".join(
        f"{task} from {percent(matrix[i, i], 'unknown')} to {percent(matrix[-1, i], 'unknown')}"
        for i, task in enumerate(names)
    )
    return _render(figure, f"{name}_course", title, f"A line for each task. From its learning to the end: {ends}.")


def training_figure(name: str, label: str, curves: Sequence[TrainingCurve], metric: str = METRIC) -> RenderedFigure:
    """Draw the training loss over the updates of each training, and below it the val accuracy on the learned task.

    A panel is left out if no training has more than one value, but accuracies are drawn if there are no losses.
    """
    with_losses = any(len(curve.losses) > 1 for curve in curves)
    with_accuracies = not with_losses or any(len(curve.updates) > 1 for curve in curves)
    panels = with_losses + with_accuracies
    figure = Figure(figsize=(6.4, 2.0 + 2.2 * panels), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    first, last = axes[0], axes[-1]
    for number, curve in enumerate(curves):
        task = axis_name(curve.task)
        if with_losses:
            style = {"color": COLOURS[number % len(COLOURS)], "label": None if with_accuracies else task}
            first.plot(curve.losses.keys(), curve.losses.values(), **style)
        if with_accuracies:
            _plot(last, number, task, curve.updates, curve.accuracies)
    if with_losses:
        first.set_yscale("log")
        first.set_ylabel("training loss")
    if with_accuracies:
        last.set_ylabel(f"val {metric_label(metric)} (%)")
        last.set_ylim(0, 100)
    for panel in axes:
        panel.grid(alpha=0.3)
    last.set_xlabel("updates")
    _add_legend(figure, "learned task")
    title = f"Training: {label}"
    ends = ", ".join(f"{axis_name(c.task)} {percent(c.accuracies[-1], '')} after {c.updates[-1]}" for c in curves)
    return _render(figure, f"{name}_training", title, f"A line for each training. Last accuracies in %: {ends}.")


def comparison_figure(labels: Sequence[str], averages: Sequence[Mean], forgetting: Sequence[Mean]) -> RenderedFigure:
    """Draw bars of average accuracy and forgetting by method, with standard deviations over seeds as error bars.

    Args:
        averages: average accuracies, in [0, 1].
        forgetting: average forgetting, in [0, 1]; NaN draws no bar.
    """
    figure = Figure(figsize=(6.4, 1.6 + 0.8 * len(labels)), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(labels))
    sides = (("average accuracy", averages, -0.2, COLOURS[0], ""), ("forgetting", forgetting, 0.2, COLOURS[4], "//"))
    for what, values, shift, colour, hatch in sides:
        widths = 100 * np.array([value.value for value in values])
        deviations = 100 * np.array([value.deviation for value in values])
        # bar_label places a label beside its error bar only if the error is a number.
        errors = None if np.isnan(deviations).all() else np.where(np.isnan(widths), np.nan, np.nan_to_num(deviations))
        style = {"label": what, "color": colour, "hatch": hatch, "capsize": 3}
        bars = axes.barh(positions + shift, np.nan_to_num(widths), 0.38, xerr=errors, **style)
        axes.bar_label(bars, [percent(value, "") for value in values], padding=3, fontsize=8)
    axes.set_yticks(positions, [textwrap.fill(label, LABEL_WIDTH) for label in labels])
    axes.invert_yaxis()
    axes.margins(x=0.25, y=0.02)  # the labels are outside of the bars
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 100])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("weighted average over tasks (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    title = "Average accuracy (more is better) and forgetting (less is better)"
    rows = zip(labels, averages, forgetting, strict=True)
    seeds = any(not math.isnan(mean.deviation) for mean in averages)
    spread = " Error bars: standard deviation over seeds." if seeds else ""
    text = "; ".join(f"{n}: accuracy {percent(a, 'unknown')}, forgetting {percent(f, 'none')}" for n, a, f in rows)
    return _render(figure, "comparison", title, f"Bars for each method, in %. {text}.{spread}")


def axis_name(task: str) -> str:
    """Return a task's name without the letter of the task, where it starts with ``<letter>#``."""
    return re.sub(r"^\w#(?=\w)", "", task)


def _axis_names(sweep: SweepResult) -> list[str]:
    return [axis_name(task.name) for task in sweep.tasks]


def _plot(axes: Axes, number: int, label: str, positions: Sequence[int], accuracies: Sequence[float]) -> None:
    # With more tasks than colors, the second round of colors has other markers.
    marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
    style = {"marker": marker, "color": COLOURS[number % len(COLOURS)], "label": label, "clip_on": False}
    axes.plot(positions, 100 * np.asarray(accuracies), **style)


def _add_legend(figure: Figure, title: str) -> None:
    figure.legend(loc="outside right center", title=title, fontsize=8, title_fontsize=8)


def _render(figure: Figure, name: str, title: str, alt: str) -> RenderedFigure:
    # The title is centered on the whole figure, because long labels make the axes narrower than the title.
    figure.suptitle(textwrap.fill(title, TITLE_WIDTH), fontsize=11)
    image = io.BytesIO()
    # Without matplotlib's version in the metadata, equal figures are equal files.
    figure.savefig(image, format="png", dpi=DPI, metadata={"Software": None})
    return RenderedFigure(name, title, alt, image.getvalue())
