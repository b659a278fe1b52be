"""Which records of earlier tasks join a task's real train records (``training.CL.*``).

``restore_with_prob`` and ``restore_with_number`` take SRM's replay files, ``random`` and ``kmeans`` keep real
records, ``gem`` mixes nothing: its memories are read by the trainer.

Source: "Symbolic Replay: Scene Graph as Prompt for Continual Learning on VQA Task", AAAI 2023. Its choice of
replays is kept to the record: equal files and rates give the same replays in the same order.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmclvqa.clove.annotations import describe, load_records
from mmclvqa.clove.errors import CloveError, DataError, TaskError
from mmclvqa.clove.experiments import replay_file
from mmclvqa.clove.layout import annotation_file
from mmclvqa.clove.manifest import train_size
from mmclvqa.clove.tasks import SETTINGS, Task, parse_order, task

SELECTION_SEED = 1234
"""The published code seeds anew with this before every choice."""

REPLAY_SUFFIX = "_replay"
"""Ends the stage of a real record that is shown again."""
WITHHELD_SUFFIX = "_##"
"""Ends the stage of a replay whose image is withheld (``replay_mask_img``)."""
KMEANS_FILE = "kmeans_replay.npy"
"""What the callback ``kmeans_store`` leaves in ``replay_dir``."""

_REPLAY_NAME = re.compile(r"(?P<order>[a-z]+)_REPLAY\[(?P<past>[a-z])\]_AT\[(?P<current>[a-z])\]")

Record = dict[str, Any]


class ReplayError(CloveError):
    """A key of ``training.CL`` that does not say where in an order the learner stands, or what shall be replayed."""


@dataclass(frozen=True)
class ReplayMix:
    """What joins the real records of a task.

    Attributes:
        records: the replays, task by task in learning order.
        counts: how many there are of each earlier task, by its name.
    """

    records: list[Record] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def describe(self, real: int, current: str) -> str:
        """One line for the log: how many replays of which task join ``real`` records of task ``current``."""
        by_task = ", ".join(f"{count} of {name}" for name, count in self.counts.items())
        total = f"{len(self.records)} replays join {real} real records of {current}"
        return f"{total} ({by_task})" if by_task else total


@dataclass(frozen=True)
class _Moment:
    """Where in a task order the learner stands."""

    root: Path
    settings: Mapping[str, Any]
    order: list[Task]
    current: Task

    @property
    def earlier(self) -> list[Task]:
        return self.order[: self.order.index(self.current)]

    def key(self, name: str) -> Any:
        """A key of ``training.CL`` that the replay method cannot do without."""
        value = self.settings.get(name)
        if value is None or value == "":
            method = self.settings["replay_method"]
            raise ReplayError(f"training.CL.{name} is missing; replay_method={method} needs it")
        return value

    def rate(self, name: str) -> float:
        value = self.key(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ReplayError(f"training.CL.{name}={value}: it is a number above 0 (replays per real record)")
        return float(value)


def select_replays(root: str | os.PathLike[str], settings: Mapping[str, Any]) -> ReplayMix:
    """The replays for the task that ``settings`` say is learned; none where replay is off.

    Args:
        root: the data root; its manifest, where it has one, tells the train sizes n(t).
        settings: ``training.CL``.

    Raises:
        ReplayError: a key is missing, unknown, or contradicts another one.
        TaskError: no such setting or task, or an illegal task order.
        DataError: a replay file is missing, empty, or of another order or task.
        RecordError, UnsafePickleError: a replay file holds something that is no record.
    """
    if not settings.get("use_replay"):
        return ReplayMix()
    if not settings.get("use_cl"):
        raise ReplayError("training.CL.use_replay=True needs training.CL.use_cl=True")
    method = settings.get("replay_method")
    if method not in METHODS:
        raise ReplayError(f"training.CL.replay_method={method}: {_legal(method)}")
    return METHODS[method](_moment(root, settings))


def source_files(root: str | os.PathLike[str], settings: Mapping[str, Any]) -> list[Path]:
    """The files that the replays (or GEM's memories) of a task are read from; they need not exist.

    Args:
        root: the data root.
        settings: ``training.CL``.

    Returns:
        One file for each earlier task, in learning order; of k-means one in all; none where replay is off.

    Raises:
        ReplayError, TaskError, DataError: as :func:`select_replays`, for what the names alone tell.
    """
    if not settings.get("use_replay"):
        return []
    at, method = _moment(root, settings), settings.get("replay_method")
    if method not in METHODS:
        raise ReplayError(f"training.CL.replay_method={method}: {_legal(method)}")
    if method == "kmeans":
        return [_kmeans_file(at)] if at.earlier else []
    if method.startswith("restore_"):
        return _replay_files(at)
    return [annotation_file(root, past, "train") or at.root / past.annotation_path("train") for past in at.earlier]


def choose(count: int, wanted: int) -> np.ndarray:
    """``wanted`` of the numbers below ``count`` (int64), as the published code chooses them.

    The same as ``numpy.random.seed(1234)`` and ``numpy.random.choice(count, wanted, replace=False)``, without
    touching numpy's global state.
    """
    return np.random.RandomState(SELECTION_SEED).choice(count, wanted, replace=False)


def restored(count: int, rate: float, sizes: Sequence[int], past: int, current: int) -> np.ndarray:
    """Which of a task's ``count`` replays are left when a later task is learned, by the ceiling rule.

    For j = past ... current-1 at most ceil(rate * n(j+1) / (j+1)) are left of those that were left before: with
    every task learned the same budget is shared by one task more.

    Args:
        count: replays in the file.
        rate: replays per real record, all earlier tasks together.
        sizes: train sizes n(t) in learning order.
        past: position of the replayed task in the order.
        current: position of the task that is learned.

    Returns:
        Positions in the file, int64, in the order in which they are used.
    """
    left = np.arange(count)
    for learned in range(past, current):
        most = math.ceil(rate * sizes[learned + 1] / (learned + 1))
        if most < len(left):
            left = left[choose(len(left), most)]
    return left


def order_and_task(settings: Mapping[str, Any], method: str) -> tuple[list[Task], Task]:
    """The tasks in learning order, and the one that is learned.

    Args:
        settings: ``training.CL``.
        method: what needs to know, for messages.

    Raises:
        ReplayError: a key is missing, or no setting.
        TaskError: an illegal order, or no such task.
    """
    named = {}
    for name in ("cl_setting", "task_order", "cur_task"):
        named[name] = settings.get(name)
        if not named[name]:
            raise ReplayError(f"training.CL.{name} is missing; {method} needs it")
    if named["cl_setting"] not in SETTINGS:
        raise ReplayError(f"training.CL.cl_setting={named['cl_setting']}: it is one of {', '.join(SETTINGS)}")
    order = parse_order(named["cl_setting"], str(named["task_order"]))
    return order, task(named["cl_setting"], named["cur_task"])


def tasks_before(settings: Mapping[str, Any], method: str) -> list[Task]:
    """The tasks that were learned before the one that is learned; see :func:`order_and_task`."""
    order, current = order_and_task(settings, method)
    return order[: order.index(current)]


def _moment(root: str | os.PathLike[str], settings: Mapping[str, Any]) -> _Moment:
    return _Moment(Path(root), settings, *order_and_task(settings, "replay"))


def _legal(method: Any) -> str:
    close = difflib.get_close_matches(str(method), METHODS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"legal are {', '.join(METHODS)}{hint}"


def _by_ceiling(at: _Moment, rate: float, read: Callable[[int], list[Record]]) -> ReplayMix:
    """Each earlier task's share of the records that ``read`` gives for its position in the order."""
    sizes = [train_size(at.root, known.setting, known) for known in at.order]
    current = len(at.earlier)
    mix = ReplayMix()
    for past, known in enumerate(at.earlier):
        records = read(past)
        kept = restored(len(records), rate, sizes, past, current)
        mix.records.extend(records[index] for index in kept)
        mix.counts[known.name] = len(kept)
    return mix


def _restore_with_prob(at: _Moment) -> ReplayMix:
    files = _replay_files(at)
    return _by_ceiling(at, at.rate("restore_rate"), lambda past: _read_replays(at, files[past], at.earlier[past]))


def _restore_with_number(at: _Moment) -> ReplayMix:
    most = at.key("max_restore_per_stage")
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise ReplayError(f"training.CL.max_restore_per_stage={most}: it is a whole number of records")
    mix = ReplayMix()
    for path, past in zip(_replay_files(at), at.earlier, strict=True):
        records = _read_replays(at, path, past)
        if most < len(records):
            records = [records[index] for index in choose(len(records), most)]
        mix.records.extend(records)
        mix.counts[past.name] = len(records)
    return mix


def _random(at: _Moment) -> ReplayMix:
    suffix = REPLAY_SUFFIX + (WITHHELD_SUFFIX if at.settings.get("replay_mask_img") else "")
    mix = _by_ceiling(at, at.rate("replay_rate"), lambda past: _real_records(at, past))
    return ReplayMix([record | {"stage": record["stage"] + suffix} for record in mix.records], mix.counts)


def choose_memories(root: str | os.PathLike[str], settings: Mapping[str, Any]) -> dict[str, list[Record]]:
    """GEM's memories: of each earlier task, in learning order, the real records that ``random`` would replay.

    Args:
        root: the data root.
        settings: ``training.CL``; ``replay_rate`` says how many.

    Returns:
        Task name -> records, none of them empty.

    Raises:
        CloveError: as :func:`select_replays`.
    """
    at = _moment(root, settings)
    mix = _by_ceiling(at, at.rate("replay_rate"), lambda past: _real_records(at, past))
    kept = iter(mix.records)
    return {name: [next(kept) for _ in range(count)] for name, count in mix.counts.items()}


def _real_records(at: _Moment, past: int) -> list[Record]:
    known = at.earlier[past]
    path = annotation_file(at.root, known, "train")
    if path is None:
        raise DataError(f"{at.root / known.annotation_path('train')}: there is no such file (nor .json)")
    return _filled(path)


def _kmeans_file(at: _Moment) -> Path:
    return Path(at.key("replay_dir"), KMEANS_FILE)


def _kmeans(at: _Moment) -> ReplayMix:
    if not at.earlier:
        return ReplayMix()
    path = _kmeans_file(at)
    mix = ReplayMix(counts={known.name: 0 for known in at.earlier})
    for index, record in enumerate(_filled(path)):
        past = _task_of(at, record, f"{path}: record {index}", at.earlier)
        mix.records.append(record | {"stage": past.name + REPLAY_SUFFIX})
        mix.counts[past.name] += 1
    return mix


METHODS: dict[str, Callable[[_Moment], ReplayMix]] = {
    "restore_with_prob": _restore_with_prob,
    "restore_with_number": _restore_with_number,
    "random": _random,
    "kmeans": _kmeans,
    "gem": lambda _: ReplayMix(),
}
"""Legal values of ``training.CL.replay_method``."""


def _replay_files(at: _Moment) -> list[Path]:
    """The files of ``restore_paths``, one for each earlier task."""
    given = at.settings.get("restore_paths") or ""
    names = [name.strip() for name in (given.split(",") if isinstance(given, str) else given)]
    names = [name for name in names if name]
    if len(names) != len(at.earlier):
        earlier = " ".join(known.letter for known in at.earlier) or "none"
        raise ReplayError(
            f"training.CL.restore_paths names {len(names)} files, but before {at.current.name} the order "
            f"{at.settings['task_order']} has {len(at.earlier)} tasks ({earlier}): one file each, in this order"
        )
    if not names:
        return []
    folder = Path(at.key("restore_dir"))
    for name, past in zip(names, at.earlier, strict=True):
        _check_name(at, folder / name, past)
    return [folder / name for name in names]


def _check_name(at: _Moment, path: Path, past: Task) -> None:
    """A name of SRM's form tells order and tasks; they must be these. Other names are free."""
    match = _REPLAY_NAME.fullmatch(path.stem)
    if match is None:
        return
    order = str(at.settings["task_order"])
    wanted = {"order": order, "past": past.letter, "current": at.current.letter}
    what = {"order": "task order", "past": "replayed task", "current": "task about to be learned"}
    for name, value in wanted.items():
        if match[name] != value:
            expected = replay_file(order, past, at.current)
            raise DataError(f"{path}: its {what[name]} is {match[name]} instead of {value}; wanted is {expected}")


def _read_replays(at: _Moment, path: Path, past: Task) -> list[Record]:
    records = _filled(path)
    for index, record in enumerate(records):
        _task_of(at, record, f"{path}: record {index}", [past])
    return records


def _filled(path: Path) -> list[Record]:
    records = load_records(path)
    if not records:
        raise DataError(f"{path}: holds no records")
    return records


def _task_of(at: _Moment, record: Record, where: str, expected: Sequence[Task]) -> Task:
    """The task a record replays, which must be one of ``expected``."""
    try:
        found = task(at.current.setting, record["stage"])
    except TaskError:
        found = None
    if found not in expected:
        names = " or ".join(known.name for known in expected)
        raise DataError(f"{describe(record, where)}: its stage is {record['stage']}, but it shall replay {names}")
    return found
