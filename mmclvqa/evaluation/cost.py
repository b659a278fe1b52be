"""What a method keeps of earlier tasks, and how long it trained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mmclvqa.clove import experiments as places
from mmclvqa.clove.layout import prompts_path
from mmclvqa.evaluation import history
from mmclvqa.evaluation.outcome import Sweep
from mmclvqa.evaluation.pairs import RESULTS
from mmclvqa.evaluation.setup import DEFAULT_DATA

STORED = "stored.json"
"""What a training leaves in its folder that kept something: ``{"records": n, "bytes": n, "what": text}``."""

_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (SRM )?")
_LOG_TIME = "%Y-%m-%d %H:%M:%S,%f"


@dataclass(frozen=True)
class Cost:
    """None is not known.

    Attributes:
        records: real records of earlier tasks that are kept.
        bytes: of what is kept of earlier tasks: those records with their features, importances, or SRM's language
            model and prompts.
        seconds: of training all tasks along the order, evaluations on the task's own val split included; with SRM its
            training and writing of replays as well.
        everything: nothing is thrown away, so that the first two do not apply.
    """

    records: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    everything: bool = False


def of_run(sweep: Sweep, folder: Path, curves: Sequence[history.Curve]) -> Cost:
    """The cost of a run.

    Args:
        sweep: of the run.
        folder: its ``val_<exp>``.
        curves: its trainings.
    """
    trained = {curve.task: curve.seconds for curve in curves}
    parts = [trained.get(task.name) for task in sweep.tasks]
    replays = history.replay_folder(sweep, folder)
    if replays is not None:
        parts.append(srm_seconds(replays / "log_train.txt"))
        records, size = 0, _srm_bytes(sweep, replays)
    elif sweep.stand_alone or sweep.experiment == places.FINE_TUNING:
        records, size = 0, 0
    else:
        records, size = _stored(sweep, folder)
    return Cost(records, size, None if None in parts else sum(parts))


def of_multitask(folder: Path) -> Cost:
    """The cost of learning all tasks at once; ``folder`` holds its evaluation, ``val_<name>`` beside ``<name>``."""
    file = folder.parent / folder.name.removeprefix("val_") / RESULTS
    try:
        seconds = float(json.loads(file.read_text(encoding="utf-8"))["run"]["training"]["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        seconds = None
    return Cost(seconds=seconds, everything=True)


def of_chance() -> Cost:
    """The cost of not learning."""
    return Cost(0, 0, 0.0)


def srm_seconds(log: Path) -> float | None:
    """How long SRM worked, by the times in its log: from first to last line, added up over all starts.

    None where there is no such log.
    """
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    starts: list[list[datetime]] = []
    for moment, first in _log_times(text):
        if first:
            starts.append([moment])
        elif starts:
            starts[-1].append(moment)
    return sum((times[-1] - times[0]).total_seconds() for times in starts) if starts else None


def _log_times(text: str) -> Iterator[tuple[datetime, bool]]:
    """Time of each line that has one, and whether a start begins with it."""
    for line in text.splitlines():
        match = _LOG_LINE.match(line)
        if match:
            yield datetime.strptime(match[1], _LOG_TIME), match[2] is not None


def _srm_bytes(sweep: Sweep, replays: Path) -> int | None:
    """SRM's model before the last task, and its prompts."""
    model = replays / "models" / sweep.tasks[-2].name
    prompts = Path(os.environ.get("CLOVE_ROOT") or DEFAULT_DATA, prompts_path(sweep.setting))
    if not model.is_dir() or not prompts.is_file():
        return None
    return prompts.stat().st_size + sum(file.stat().st_size for file in model.rglob("*") if file.is_file())


def _stored(sweep: Sweep, folder: Path) -> tuple[int | None, int | None]:
    """What the run's last task says that was kept; nothing is known where it does not."""
    run = places.run_folder(sweep.setting, sweep.order, sweep.experiment, str(folder.parents[2]))
    try:
        value = json.loads(Path(run, places.task_folder(sweep.tasks[-1]), STORED).read_text(encoding="utf-8"))
        return int(value["records"]), int(value["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
