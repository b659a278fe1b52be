"""What a run reads: the records of its tasks, reduced to what SRM learns from, and the prompts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclvqa.clove.annotations import load_records
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.layout import annotation_file, prompts_path
from mmclvqa.clove.prompts import task_prompts
from mmclvqa.clove.tasks import Task
from SRM.draws import named_seed
from SRM.settings import DEBUG_RECORDS, GEN_DEBUG_PROMPTS, Settings
from SRM.tokens import bare

LEARNED_FIELDS = ("question", "answer", "answers", "gt_scene_graph_seq", "gt_scene_graph_mask")
TWO_ITEM_TASKS = ("relation", "logical", "knowledge", "scenetext")
"""Tasks of the functional setting whose prompts are read up to their second item; the others up to the first."""

Record = dict[str, Any]
Prompt = tuple[str, ...]


def training_file(root: Path, task: Task) -> Path:
    """The training records of a task.

    Raises:
        DataError: there are none.
    """
    path = annotation_file(root, task, "train")
    if path is None:
        raise DataError(f"{root / task.annotation_path('train')}: there is no such file (nor .json)")
    return path


def training_records(settings: Settings, task: Task) -> list[Record]:
    """A task's training records as ``--train_perc`` and ``--debug`` choose them, in file order.

    Raises:
        DataError, RecordError, UnsafePickleError: the file is missing, broken, or holds something else.
    """
    path = training_file(settings.root, task)
    records = [{name: record[name] for name in LEARNED_FIELDS} for record in load_records(path)]
    if not records:
        raise DataError(f"{path}: holds no records")
    if settings.debug:
        return records[:DEBUG_RECORDS]
    if settings.train_perc == 1:
        return records
    rng = random.Random(named_seed(settings.seed, "records", task.name))
    count = max(1, round(settings.train_perc * len(records)))
    return [records[i] for i in sorted(rng.sample(range(len(records)), count))]


def replay_records(settings: Settings, files: Mapping[Task, Path], current: Task) -> dict[Task, list[Record]]:
    """The replays that join a task's records, by the task that they replay.

    At most ``--n_replay`` of each file are chosen at random, and of all of these the share ``--train_perc``.

    Args:
        settings: of the run.
        files: the replay file of each earlier task.
        current: the task that is about to be learned.
    """
    chosen: list[tuple[Task, Record]] = []
    for past, path in files.items():
        records = [{name: record[name] for name in LEARNED_FIELDS} for record in load_records(path)]
        if len(records) > settings.n_replay:
            rng = random.Random(named_seed(settings.seed, "replay", past.name, current.name))
            records = rng.sample(records, settings.n_replay)
        chosen += [(past, record) for record in records]
    if settings.train_perc != 1:
        rng = random.Random(named_seed(settings.seed, "share of replays", current.name))
        kept = sorted(rng.sample(range(len(chosen)), int(settings.train_perc * len(chosen))))
        chosen = [chosen[index] for index in kept]
    return {past: [record for task, record in chosen if task == past] for past in files}


def answer_counts(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How often each answer stands, most frequent first."""
    counts = Counter(record["answer"] for record in records)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


@dataclass(frozen=True)
class Prompts:
    """The prompts of a task.

    Attributes:
        items: of each prompt.
        left_out: real records without a related item, which give no prompt (``--use_gt``).
    """

    items: list[Prompt]
    left_out: int = 0


def read_prompts(settings: Settings, task: Task, records: Sequence[Mapping[str, Any]]) -> Prompts:
    """All prompts of a task: sampled ones from the data root, or its records' related items with ``--use_gt``.

    Raises:
        DataError: the file is missing or broken, or the task has no prompt.
    """
    if settings.use_gt:
        found = [_related(record, settings.n_sg_seq) for record in records]
        items = [prompt for prompt in found if prompt]
        if not items:
            raise DataError(
                f"{training_file(settings.root, task)}: no record has a related item to prompt with"
            )
        return Prompts(items, len(found) - len(items))
    path = settings.root / prompts_path(settings.cl_setting)
    length = 2 if settings.cl_setting == "functional" and task.name in TWO_ITEM_TASKS else 1
    return Prompts(
        [tuple(map(bare, prompt[:length])) for prompt in task_prompts(path, task.setting, task.name)]
    )


def _related(record: Mapping[str, Any], most: int) -> Prompt:
    pairs = zip(record["gt_scene_graph_seq"], record["gt_scene_graph_mask"], strict=True)
    return tuple(bare(item) for item, related in pairs if related)[:most]


def choose_prompts(settings: Settings, prompts: Prompts, past: Task, current: Task) -> list[Prompt]:
    """The prompts for one replay file: at most ``--n_prompts``, drawn afresh for each."""
    most = min(settings.n_prompts, GEN_DEBUG_PROMPTS) if settings.gen_debug else settings.n_prompts
    rng = random.Random(named_seed(settings.seed, "prompts", past.name, current.name))
    return rng.sample(prompts.items, min(most, len(prompts.items)))
