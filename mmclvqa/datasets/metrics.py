"""VQA accuracy, added up batch by batch so that no scores of a whole split are kept.

The streaming protocol: ``start()``, ``update(batch, output)`` per batch, then ``sums()``, which the
trainer adds over processes and divides.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.modules.metrics import BaseMetric
from mmf.utils.distributed import byte_tensor_to_object
from mmf.utils.m4c_evaluators import TextVQAAccuracyEvaluator

from mmclvqa.clove.annotations import load_records
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.tasks import SETTINGS, tasks
from mmclvqa.datasets.answers import answer_words

Sums = dict[str, tuple[float, float]]


@registry.register_metric("textvqa_accuracy")
class VQAAccuracy(BaseMetric):
    """VQA accuracy after EvalAI normalisation of answers (Goyal et al. 2017; TextVQA's evaluator).

    A prediction scores the average over the ten leave-one-out subsets of min(1, matches / 3).
    """

    def __init__(self) -> None:
        super().__init__("textvqa_accuracy")
        self.required_params = ["scores", "answers", "context_tokens"]
        evaluator = TextVQAAccuracyEvaluator()
        self._normalise = evaluator.answer_processor
        self._answer_scores = lru_cache(maxsize=65536)(lambda raw: evaluator._compute_answer_scores(list(raw)))
        self.start()

    def start(self) -> None:
        """Forget what was added up."""
        self._sums: dict[str, list[float]] = {}

    def update(self, sample_list: Any, model_output: Any) -> None:
        """Add a batch: ``scores`` (B, steps, A + OCR slots) against ``answers`` and ``context_tokens``."""
        processor = registry.get(f"{sample_list.dataset_name}_answer_processor")
        for row, indices in enumerate(model_output["scores"].argmax(dim=-1).tolist()):
            tokens = byte_tensor_to_object(sample_list.context_tokens[row])
            answers = byte_tensor_to_object(sample_list.answers[row])
            predicted, _ = answer_words(indices, tokens, processor)
            score = self._answer_scores(tuple(answers)).get(self._normalise(predicted), 0.0)
            for group in self.groups(answers):
                total = self._sums.setdefault(group, [0.0, 0.0])
                total[0] += score
                total[1] += 1

    def groups(self, answers: list[str]) -> Iterable[str]:
        """The sub-names a record counts for; the empty one is the metric itself."""
        return ("",)

    def sums(self) -> Sums:
        """Sum of scores and number of records by sub-name."""
        return {group: (total, count) for group, (total, count) in self._sums.items()}

    def calculate(self, sample_list: Any, model_output: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The accuracy of one batch alone, as MMF's metrics give it."""
        kept, self._sums = self._sums, {}
        self.update(sample_list, model_output)
        (total, count), self._sums = self._sums[""], kept
        return torch.tensor(total / count)


@registry.register_metric("textvqa_accuracy_cls")
class VQAAccuracyByAnswerClass(VQAAccuracy):
    """VQA accuracy, also apart for answers that all tasks of the setting have and for the rest.

    Sub-names ``all_acc``, ``common_acc``, ``unique_acc``. The setting is ``training.CL.cl_setting``;
    an answer is common when the train records of all six tasks have it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = "textvqa_accuracy_cls"
        self._common: frozenset[str] | None = None

    def groups(self, answers: list[str]) -> Iterable[str]:
        if self._common is None:
            config = registry.get("config")
            self._common = common_answers(config.env.clove_root, config.training.CL.cl_setting)
        return "", "all_acc", "common_acc" if answers[0] in self._common else "unique_acc"


def common_answers(root: str, setting: str | None) -> frozenset[str]:
    """Answers found in the train records of every task of a setting."""
    if setting not in SETTINGS:
        raise DataError(f"textvqa_accuracy_cls needs training.CL.cl_setting, one of {', '.join(SETTINGS)}")
    by_task = [
        {record["answer"] for record in load_records(f"{root}/{task.annotation_path('train')}", check=False)}
        for task in tasks(setting).values()
    ]
    return frozenset.intersection(*map(frozenset, by_task))
