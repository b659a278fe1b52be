"""The figures of a report: PNG images with a title, units and a text that says what they show."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from mmclvqa.evaluation.history import Curve  # noqa: E402
from mmclvqa.evaluation.outcome import Sweep  # noqa: E402

DPI = 150
TITLE_WIDTH = 76
LABEL_WIDTH = 34
"""Characters on a line."""
ACCURACY = "VQA accuracy (%)"
MARKERS = "osD^vPX"
# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: of its file, without ending.
        title: what it is.
        alt: what it shows, for those who do not see it.
        png: the image.
    """

    name: str
    title: str
    alt: str
    png: bytes


def short(name: str) -> str:
    """A task's name for an axis: without the letter of the scene setting."""
    return name.partition("#")[2] or name


def percent(value: float) -> str:
    """A fraction of 1 as per cent with one decimal; nothing for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.1f}"


def matrix_picture(name: str, label: str, sweep: Sweep) -> Picture:
    """The accuracy matrix as a heat map with its numbers."""
    names, matrix = [short(task.name) for task in sweep.tasks], sweep.matrix * 100
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
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
    figure.colorbar(image, ax=axes, label=ACCURACY, shrink=0.85)
    title = f"Accuracy matrix: {label}"
    learned = ", ".join(f"{n} {percent(v)}" for n, v in zip(names, np.diagonal(sweep.matrix), strict=True))
    final = ", ".join(f"{n} {percent(v)}" for n, v in zip(names, sweep.matrix[-1], strict=True))
    alt = f"Heat map, rows are learned and columns tested tasks. In per cent, just after learning: {learned}. "
    return _finish(figure, f"{name}_matrix", title, f"{alt}After the last task: {final}.")


def course_picture(name: str, label: str, sweep: Sweep) -> Picture:
    """The accuracy of each task along the order, from the moment it was learned."""
    names, matrix = [short(task.name) for task in sweep.tasks], sweep.matrix * 100
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, task in enumerate(names):
        steps = range(number, len(names))
        style = {"marker": MARKERS[number], "color": COLOURS[number], "label": task, "clip_on": False}
        axes.plot(steps, matrix[number:, number], **style)
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.set_xlabel("after learning task")
    axes.set_ylabel(ACCURACY)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", title="tested task", fontsize=8, title_fontsize=8)
    title = f"Each task along the order: {label}"
    ends = ", ".join(
        f"{task} from {percent(sweep.matrix[i, i]) or 'unknown'} to {percent(sweep.matrix[-1, i]) or 'unknown'}"
        for i, task in enumerate(names)
    )
    return _finish(figure, f"{name}_course", title, f"A line for each task. From its learning to the end: {ends}.")


def comparison_picture(labels: Sequence[str], averages: Sequence[float], forgetting: Sequence[float]) -> Picture:
    """Bars of average accuracy and forgetting by method.

    Args:
        labels: of the methods.
        averages: weighted average accuracies, fractions of 1.
        forgetting: weighted average forgetting, fractions of 1; NaN draws no bar.
    """
    figure = Figure(figsize=(6.4, 1.6 + 0.8 * len(labels)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(labels))
    sides = (("average accuracy", averages, -0.2, COLOURS[0], ""), ("forgetting", forgetting, 0.2, COLOURS[4], "//"))
    for what, values, shift, colour, hatch in sides:
        widths = 100 * np.array(values, dtype=float)
        bars = axes.barh(places + shift, np.nan_to_num(widths), 0.38, label=what, color=colour, hatch=hatch)
        axes.bar_label(bars, [percent(value) for value in values], padding=3, fontsize=8)
    axes.set_yticks(places, [textwrap.fill(label, LABEL_WIDTH) for label in labels])
    axes.invert_yaxis()
    axes.margins(x=0.2, y=0.02)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("weighted average over tasks (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    title = "Average accuracy (more is better) and forgetting (less is better)"
    rows = zip(labels, averages, forgetting, strict=True)
    text = "; ".join(f"{n}: accuracy {percent(a)}, forgetting {percent(f) or 'none'}" for n, a, f in rows)
    return _finish(figure, "comparison", title, f"Bars for each method, in per cent. {text}.")


def training_picture(name: str, label: str, curves: Sequence[Curve]) -> Picture:
    """Val accuracy on the task that is learned, over the updates of each training."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        style = {"marker": MARKERS[number], "color": COLOURS[number], "label": short(curve.task), "clip_on": False}
        axes.plot(curve.updates, 100 * np.array(curve.accuracies), **style)
    axes.set_xlabel("updates")
    axes.set_ylabel(f"val {ACCURACY}")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", title="learned task", fontsize=8, title_fontsize=8)
    title = f"Training: {label}"
    ends = ", ".join(f"{short(c.task)} {percent(c.accuracies[-1])} after {c.updates[-1]}" for c in curves)
    return _finish(figure, f"{name}_training", title, f"A line for each training. Last accuracies in per cent: {ends}.")


def _finish(figure: Figure, name: str, title: str, alt: str) -> Picture:
    # Over the whole figure: beside long labels the axes are narrower than the title.
    figure.suptitle(textwrap.fill(title, TITLE_WIDTH), fontsize=11)
    image = io.BytesIO()
    # Without the program's version in it, equal figures are equal files.
    figure.savefig(image, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(name, title, alt, image.getvalue())
