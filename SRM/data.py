"""The input of a run: the training records of its tasks, the replays that are added to them, and the prompts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclvqa.clove.data_root import existing_annotation_file, prompts_path
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.prompts import task_prompts
from mmclvqa.clove.records import load_filled, load_records
from mmclvqa.clove.tasks import Task
from SRM.settings import DEBUG_RECORDS, GEN_DEBUG_PROMPTS, Settings
from SRM.tokens import bare

LEARNED_FIELDS = ("question", "answer", "answers", "gt_scene_graph_seq", "gt_scene_graph_mask")
"""Fields of a record that SRM is trained on; the others are dropped when a file is read."""

Record = dict[str, Any]
Prompt = tuple[str, ...]


def input_files(settings: Settings) -> list[Path]:
    """Return the files that a run reads: the training records of each task and, without ``--use_gt``, the prompts.

    Raises:
        DataError: a file of training records does not exist.
    """
    files = [existing_annotation_file(settings.root, task, "train") for task in settings.order]
    return files if settings.use_gt else [*files, settings.root / prompts_path(settings.cl_setting)]


def training_records(settings: Settings, task: Task) -> list[Record]:
    """Read the training records of a task, limited by ``--train_perc`` and ``--debug``, in file order.

    Raises:
        DataError, RecordError, UnsafePickleError: the file is missing, damaged or contains no valid records.
    """
    records = _learned(load_filled(existing_annotation_file(settings.root, task, "train")))
    if settings.debug:
        return records[:DEBUG_RECORDS]
    if settings.train_perc == 1:
        return records
    rng = random.Random(settings.named_seed("records", task.name))
    count = max(1, round(settings.train_perc * len(records)))
    return [records[i] for i in sorted(rng.sample(range(len(records)), count))]


def replay_records(settings: Settings, files: Mapping[Task, Path], current: Task) -> dict[Task, list[Record]]:
    """Select the replays that are added to the training records of a task, by the task that they replay.

    At most ``--n_replay`` records are drawn from each file; the share ``--train_perc`` of all of these is kept.

    Args:
        settings: the settings of the run.
        files: the replay file of each earlier task.
        current: the task to be trained.
    """
    drawn: list[tuple[Task, Record]] = []
    for past, path in files.items():
        records = _learned(load_records(path))
        if len(records) > settings.n_replay:
            rng = random.Random(settings.named_seed("replay", past.name, current.name))
            records = rng.sample(records, settings.n_replay)
        drawn += [(past, record) for record in records]
    if settings.train_perc != 1:
        rng = random.Random(settings.named_seed("share of replays", current.name))
        kept = sorted(rng.sample(range(len(drawn)), int(settings.train_perc * len(drawn))))
        drawn = [drawn[index] for index in kept]
    return {past: [record for task, record in drawn if task == past] for past in files}


def _learned(records: list[Record]) -> list[Record]:
    return [{name: record[name] for name in LEARNED_FIELDS} for record in records]


@dataclass(frozen=True)
class Prompts:
    """The prompts of a task.

    Attributes:
        items: the items of each prompt.
        left_out: number of real records without a related item, which yield no prompt (``--use_gt``).
    """

    items: list[Prompt]
    left_out: int = 0


def read_prompts(settings: Settings, task: Task, records: Sequence[Mapping[str, Any]]) -> Prompts:
    """Read the prompts of a task from the data root, or with ``--use_gt`` take the related items of its records.

    Raises:
        DataError: the prompt file is missing or damaged, or the task has no prompt.
    """
    if settings.use_gt:
        related = [related_items(record)[: settings.n_sg_seq] for record in records]
        items = [prompt for prompt in related if prompt]
        if not items:
            path = existing_annotation_file(settings.root, task, "train")
            raise DataError(f"{path}: no record has a related item to prompt with")
        return Prompts(items, len(related) - len(items))
    path = settings.root / prompts_path(settings.cl_setting)
    prompts = task_prompts(path, task.setting, task.name)
    return Prompts([tuple(map(bare, prompt[: task.prompt_items])) for prompt in prompts])


def related_items(record: Mapping[str, Any]) -> Prompt:
    """Return the scene-graph items with mask 1: those related to the question; in a replay, those of its prompt."""
    pairs = zip(record["gt_scene_graph_seq"], record["gt_scene_graph_mask"], strict=True)
    return tuple(bare(item) for item, related in pairs if related)


def choose_prompts(settings: Settings, prompts: Prompts, past: Task, current: Task) -> list[Prompt]:
    """Draw at most ``--n_prompts`` prompts for the replay file of ``past`` before ``current``."""
    max_prompts = min(settings.n_prompts, GEN_DEBUG_PROMPTS) if settings.gen_debug else settings.n_prompts
    rng = random.Random(settings.named_seed("prompts", past.name, current.name))
    return rng.sample(prompts.items, min(max_prompts, len(prompts.items)))
