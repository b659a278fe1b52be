"""What a report is about: runs, with what was found beside their sweeps, and the bounds they are compared with."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmclvqa.clove.errors import DataError
from mmclvqa.evaluation import cost, history
from mmclvqa.evaluation.cost import Cost
from mmclvqa.evaluation.outcome import Sweep, read_sweep


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
        cost: what it keeps of the past, and how long it trained.
    """

    sweep: Sweep
    name: str
    curves: list[history.Curve] = field(default_factory=list)
    replays: list[history.Replays] = field(default_factory=list)
    samples: list[history.Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

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
    return Run(sweep, name, curves, replays, samples, notes, cost.of_run(sweep, folder, curves))


@dataclass(frozen=True)
class Bound:
    """What the methods lie between: the chance level, and the model that learned all tasks at once.

    Attributes:
        kind: ``chance`` or ``multitask``.
        setting: ``functional`` or ``scene``.
        accuracies: by task name, fractions of 1.
        average: weighted by val records.
        cost: as a run's.
    """

    kind: str
    setting: str
    accuracies: dict[str, float]
    average: float
    cost: Cost

    @property
    def label(self) -> str:
        """What it is."""
        return f"{self.kind}, {self.setting} setting"


def read_bound(path: str | Path) -> Bound | None:
    """The bound in a file that ``eval_os.py chance`` or ``multitask`` wrote; None where it is something else.

    Raises:
        DataError: the file says that it is one of them, but is damaged.
    """
    path = Path(path).absolute()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        kind = value["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        if kind == "chance":
            accuracies = {task["name"]: float(task["accuracy"]) for task in value["tasks"]}
            spent = cost.of_chance()
        elif kind == "multitask":
            accuracies = {name: float(number) for name, number in value["accuracies"].items()}
            spent = cost.of_multitask(path.parent)
        else:
            return None
        return Bound(kind, str(value["cl_setting"]), accuracies, float(value["weighted_average_accuracy"]), spent)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no result of `eval_os.py {kind}` ({' '.join(str(error).split())})") from None
