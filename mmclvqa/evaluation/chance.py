"""What an answerer that never looks at anything gets: always the most frequent train answer of the task."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np

from mmclvqa.clove.annotations import load_records
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.layout import annotation_file
from mmclvqa.clove.table import format_table
from mmclvqa.clove.tasks import Task, tasks
from mmclvqa.evaluation.matrix import weighted_average


@dataclass(frozen=True)
class TaskChance:
    """One task.

    Attributes:
        name: of the task.
        answer: the most frequent one among the ten ``answers`` of all its train records; of equally frequent ones the
            first in the file.
        train_share: how many of these answers it is, a fraction of 1.
        accuracy: VQA accuracy of giving it to every val record, a fraction of 1.
        records: val records.
    """

    name: str
    answer: str
    train_share: float
    accuracy: float
    records: int


@dataclass(frozen=True)
class Chance:
    """All tasks of a setting, in its base order."""

    setting: str
    by_task: tuple[TaskChance, ...]

    @property
    def average(self) -> float:
        """Accuracy, weighted by val records."""
        accuracies = np.array([task.accuracy for task in self.by_task])
        return weighted_average(accuracies, [task.records for task in self.by_task])

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "kind": "chance",
            "cl_setting": self.setting,
            "tasks": [vars(task) for task in self.by_task],
            "weighted_average_accuracy": self.average,
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text."""
        rows = [[t.name, t.answer, f"{t.train_share:.4f}", f"{t.accuracy:.4f}"] for t in self.by_task]
        return ["task", "most frequent train answer", "share in train", "accuracy"], rows

    def table(self) -> str:
        """The rows for people."""
        return format_table(*self.rows(), text_columns=2)

    def lines(self) -> list[str]:
        """The average."""
        return [f"weighted average accuracy: {self.average:.4f}"]


def chance(root: str | os.PathLike[str], setting: str) -> Chance:
    """The chance level of every task of a setting.

    Accuracy is that of the metric ``textvqa_accuracy``: EvalAI's normalisation of answers, then the average over the
    ten leave-one-out subsets of min(1, matches / 3).

    Args:
        root: the data root.
        setting: ``functional`` or ``scene``.

    Raises:
        TaskError: no such setting.
        DataError: a file is missing, damaged or empty.
    """
    return Chance(setting, tuple(_task_chance(root, task) for task in tasks(setting).values()))


def _task_chance(root: str | os.PathLike[str], task: Task) -> TaskChance:
    from mmf.utils.m4c_evaluators import TextVQAAccuracyEvaluator

    evaluator = TextVQAAccuracyEvaluator()
    train, val = _records(root, task, "train"), _records(root, task, "val")
    counts = Counter(answer for record in train for answer in record["answers"])
    if not counts:
        raise DataError(f"{task.name}: no train record has answers, so none is the most frequent")
    answer = max(counts, key=counts.__getitem__)
    predictions = [{"pred_answer": answer, "gt_answers": record["answers"]} for record in val]
    accuracy = float(evaluator.eval_pred_list(predictions))
    return TaskChance(task.name, answer, counts[answer] / counts.total(), accuracy, len(val))


def _records(root: str | os.PathLike[str], task: Task, split: str) -> list[dict]:
    path = annotation_file(root, task, split)
    if path is None:
        raise DataError(f"{os.path.join(root, task.annotation_path(split))}: there is no such file (nor .json)")
    records = load_records(path)
    if not records:
        raise DataError(f"{path} holds no records")
    return records
