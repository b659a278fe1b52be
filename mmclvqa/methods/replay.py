"""Functions shared by the replay methods: position in the task order, selection of records, and their storage size.

Source: "Symbolic Replay: Scene Graph as Prompt for Continual Learning on VQA Task", AAAI 2023. The published selection
is reproduced exactly: the same files and rates give the same replays in the same order.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmclvqa.clove.data_root import annotation_file, existing_annotation_file, split_size
from mmclvqa.clove.errors import ConfigError, DataError, TaskError
from mmclvqa.clove.records import describe, load_filled
from mmclvqa.clove.tasks import Task, find_setting, has_image, task
from mmclvqa.methods.base import Method, StepContext, Stored

SELECTION_SEED = 1234
"""Seed that the published code sets before every selection."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Replays:
    """Records of earlier tasks that are added to the training records of a task.

    Attributes:
        records: the records, ordered by task in learning order.
        counts: task name -> number of records, for each earlier task.
        asked: task name -> number of records that the rate asks for; tasks without a rate are missing.
    """

    records: list[Record] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def describe(self, real: int, current: str) -> str:
        """Return a log line with the number of replays of each task and of the ``real`` records of ``current``.

        Where fewer records exist than the rate asks for, as for SRM's second task at high rates, it says so.
        """
        by_task = ", ".join(
            f"{count} of {name}"
            + (f", the rate asks for {asked}" if (asked := self.asked.get(name, 0)) > count else "")
            for name, count in self.counts.items()
        )
        total = f"{len(self.records)} replays are added to {real} real records of {current}"
        return f"{total} ({by_task})" if by_task else total

    def by_task(self) -> dict[str, list[Record]]:
        """Return task name -> records, in learning order."""
        records = iter(self.records)
        return {name: [next(records) for _ in range(count)] for name, count in self.counts.items()}


@dataclass(frozen=True)
class OrderPosition:
    """The position of the current task in ``order``, which has all tasks in learning order."""

    order: list[Task]
    current: Task

    @property
    def earlier(self) -> list[Task]:
        """The tasks before the current one, in learning order."""
        return self.order[: self.order.index(self.current)]


def order_position(settings: Mapping[str, Any], needed_by: str) -> OrderPosition:
    """Read the position from ``training.CL``; ``needed_by`` is the method or option that needs it, for messages.

    Raises:
        ConfigError: a key is missing, or the setting is unknown.
        TaskError: the order is illegal, or the task is unknown.
    """
    keys = ("cl_setting", "task_order", "cur_task")
    setting_name, order, current = (required_key(settings, key, needed_by) for key in keys)
    try:
        setting = find_setting(setting_name)
    except TaskError as error:
        raise ConfigError(f"training.CL.cl_setting={setting_name}: {error}") from None
    return OrderPosition(setting.parse_order(str(order)), task(setting.name, current))


def required_key(settings: Mapping[str, Any], name: str, needed_by: str) -> Any:
    """Return the value of a key of ``training.CL``.

    Raises:
        ConfigError: the key is missing.
    """
    value = settings.get(name)
    if value is None or value == "":
        raise ConfigError(f"training.CL.{name} is missing; {needed_by} needs it")
    return value


def choose(count: int, wanted: int) -> np.ndarray:
    """Draw ``wanted`` of the numbers below ``count`` (int64) as the published code does.

    The result equals ``numpy.random.seed(1234); numpy.random.choice(count, wanted, replace=False)``, but numpy's global
    random state is not changed.
    """
    return np.random.RandomState(SELECTION_SEED).choice(count, wanted, replace=False)


def ceilings(rate: float, sizes: Sequence[int], past: int, current: int) -> list[int]:
    """Return ceil(rate * n(j+1) / (j+1)) for j = past ... current-1; see :func:`ceiling_choice`."""
    return [math.ceil(rate * sizes[learned + 1] / (learned + 1)) for learned in range(past, current)]


def ceiling_choice(count: int, rate: float, sizes: Sequence[int], past: int, current: int) -> np.ndarray:
    """Select the replays of an earlier task to use when a later task is trained.

    For each j = past ... current-1 in turn, at most ceil(rate * n(j+1) / (j+1)) of the remaining replays are kept: when
    task j+1 is learned, the budget rate * n(j+1) is divided among the j+1 tasks before it.

    Args:
        count: number of replays to select from.
        rate: replays of all earlier tasks together per real record.
        sizes: numbers of train records n(t) in learning order, where ``past`` and ``current`` are positions.

    Returns:
        Indices of the selected replays, int64, in the order in which they are used.
    """
    left = np.arange(count)
    for budget in ceilings(rate, sizes, past, current):
        if budget < len(left):
            left = left[choose(len(left), budget)]
    return left


def choose_by_ceiling(
    root: str | os.PathLike[str], position: OrderPosition, rate: float, read: Callable[[int], list[Record]]
) -> Replays:
    """Apply :func:`ceiling_choice` to the records of every earlier task.

    Args:
        root: the data root, whose manifest (if present) gives the numbers of train records n(t).
        rate: replays of all earlier tasks together per real record.
        read: function that returns the records of the task at a position of the order.
    """
    sizes = [split_size(root, one, "train") for one in position.order]
    replays, current = Replays(), len(position.earlier)
    for past, past_task in enumerate(position.earlier):
        records = read(past)
        selected = ceiling_choice(len(records), rate, sizes, past, current)
        replays.asked[past_task.name] = min(ceilings(rate, sizes, past, current))
        replays.records.extend(records[index] for index in selected)
        replays.counts[past_task.name] = len(selected)
    return replays


def choose_real_records(root: str | os.PathLike[str], position: OrderPosition, rate: float) -> Replays:
    """Select real train records of every earlier task by :func:`ceiling_choice`.

    Raises:
        DataError: an annotation file does not exist or is empty.
    """
    return choose_by_ceiling(root, position, rate, lambda past: real_records(root, position.order[past]))


def real_record_files(root: str | os.PathLike[str], tasks: Sequence[Task]) -> list[Path]:
    """Return the train annotation file of each task; the ``.npy`` path if no file exists."""
    return [annotation_file(root, one, "train") or Path(root) / one.annotation_path("train") for one in tasks]


def real_records(root: str | os.PathLike[str], source: Task) -> list[Record]:
    """Read the real train records of a task.

    Raises:
        DataError: its annotation file does not exist or is empty.
    """
    return load_filled(existing_annotation_file(root, source, "train"))


def replayed_task(record: Record, where: str, setting_name: str, expected: Sequence[Task]) -> Task:
    """Return the task that a record replays.

    Raises:
        DataError: it is not one of ``expected``.
    """
    try:
        source = task(setting_name, record["stage"])
    except TaskError:
        source = None
    if source not in expected:
        names = " or ".join(one.name for one in expected)
        raise DataError(f"{describe(record, where)}: its stage is {record['stage']}, but it should replay {names}")
    return source


def stored_records(records: list[Record], features: Any, what: str) -> Stored:
    """Return number and size of stored records; ``features`` is ``dataset_config.clvqa``.

    An image takes ``max_features`` regions of ``feature_dim`` float32 numbers, twice that if it has OCR tokens, and
    nothing if its features are masked according to the stage.
    """
    region_bytes = 4 * features.max_features * features.feature_dim
    images = sum(1 + bool(record.get("ocr_tokens")) for record in records if has_image(record["stage"]))
    size = sum(len(pickle.dumps(record, protocol=4)) for record in records)
    return Stored(len(records), size + images * region_bytes, what)


class ReplayMethod(Method):
    """Base of the methods that add records to the training records.

    Attributes:
        replay_method: value of ``training.CL.replay_method`` in :meth:`overrides`.
    """

    replay_method: str

    @property
    def position(self) -> OrderPosition:
        """The position of the current task in the task order.

        Raises:
            ConfigError, TaskError: the configuration does not specify it.
        """
        return order_position(self.config.training.CL, "replay")

    @classmethod
    def replay_overrides(cls, step: StepContext) -> list[str]:
        """Return the published overrides that enable replay."""
        return [
            "training.CL.use_cl=True",
            "training.CL.use_callback=False",
            "training.CL.use_replay=True",
            f"training.CL.replay_method={cls.replay_method}",
            f"training.CL.task_order={step.order}",
        ]
