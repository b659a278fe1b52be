"""The chance level: the accuracy of always answering with the most frequent train answer of the task."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from mmclvqa.clove.data_root import existing_annotation_file
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.records import load_filled
from mmclvqa.clove.tasks import Task, find_setting
from mmclvqa.evaluation.results import AverageResult


@dataclass(frozen=True)
class TaskChance:
    """The chance level of one task.

    Attributes:
        answer: the most frequent one among the ten ``answers`` of all train records; among equally frequent answers
            the first in the file.
        train_share: fraction of the train answers that equal it.
        accuracy: VQA accuracy when every val record is answered with it, in [0, 1].
        records: number of val records.
    """

    name: str
    answer: str
    train_share: float
    accuracy: float
    records: int


@dataclass(frozen=True)
class ChanceResult(AverageResult):
    """The chance levels of all tasks of a setting, in its base order."""

    text_columns: ClassVar[int] = 2
    setting: str
    by_task: tuple[TaskChance, ...]

    @property
    def accuracies(self) -> list[float]:
        return [task.accuracy for task in self.by_task]

    @property
    def weights(self) -> list[int]:
        return [task.records for task in self.by_task]

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "chance",
            **find_setting(self.setting).reference(),
            "tasks": [vars(task) for task in self.by_task],
            "weighted_average_accuracy": self.average,
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        rows = [[t.name, t.answer, f"{t.train_share:.4f}", f"{t.accuracy:.4f}"] for t in self.by_task]
        return ["task", "most frequent train answer", "share in train", "accuracy"], rows


def chance_level(root: str | os.PathLike[str], setting: str) -> ChanceResult:
    """Compute the chance level of every task of a setting.

    Accuracy is the metric ``textvqa_accuracy``: answers are normalized as in EvalAI's VQA evaluation, and
    min(1, matches / 3) is averaged over the ten subsets that leave one reference answer out.

    Raises:
        TaskError: no such setting.
        DataError: a file is missing, damaged or empty, or no train record of a task has answers.
    """
    found = find_setting(setting)
    return ChanceResult(found.name, tuple(_task_chance(root, task) for task in found.tasks.values()))


def _task_chance(root: str | os.PathLike[str], task: Task) -> TaskChance:
    from mmf.utils.m4c_evaluators import TextVQAAccuracyEvaluator

    train, val = (load_filled(existing_annotation_file(root, task, split)) for split in ("train", "val"))
    counts = Counter(answer for record in train for answer in record["answers"])
    if not counts:
        raise DataError(f"{task.name}: no train record has answers, so that none is the most frequent")
    [(answer, count)] = counts.most_common(1)
    predictions = [{"pred_answer": answer, "gt_answers": record["answers"]} for record in val]
    accuracy = float(TextVQAAccuracyEvaluator().eval_pred_list(predictions))
    return TaskChance(task.name, answer, count / counts.total(), accuracy, len(val))
