"""VQA accuracy, added up batch by batch so that no scores of a whole split are kept.

The streaming protocol: ``start()``, ``update(batch, output)`` per batch, then ``sums()``, which the
trainer adds over processes and divides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.modules.metrics import BaseMetric
from mmf.utils.distributed import byte_tensor_to_object
from mmf.utils.m4c_evaluators import TextVQAAccuracyEvaluator

from mmclvqa.datasets.answers import answer_words

Sums = dict[str, tuple[float, float]]

# fmt: off
COMMON_ANSWERS = frozenset((
    "red", "top", "yellow", "green", "gray", "blue", "black", "wood", "large", "man", "chair", "white", "woman",
    "small", "bottom", "brown", "orange", "pink", "metal", "girl", "boy",
))
# fmt: on
"""The published list of answers that the tasks have in common, normalised."""


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
            scores = self._answer_scores(tuple(answers))
            score = scores.get(self._normalise(predicted), 0.0)
            for group in self.groups(scores):
                total = self._sums.setdefault(group, [0.0, 0.0])
                total[0] += score
                total[1] += 1

    def groups(self, answers: Collection[str]) -> Iterable[str]:
        """The sub-names a record counts for; the empty one is the metric itself.

        Args:
            answers: the distinct answers among the record's ten, normalised.
        """
        return ("",)

    def sums(self) -> Sums:
        """Sum of scores and number of records by sub-name."""
        return {group: (total, count) for group, (total, count) in self._sums.items()}

    def calculate(self, sample_list: Any, model_output: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The accuracy of one batch alone, as MMF's metrics give it."""
        total, count = self._batch_sums(sample_list, model_output)[""]
        return torch.tensor(total / count)

    def _batch_sums(self, sample_list: Any, model_output: Any) -> Sums:
        """:meth:`sums` of one batch; what was added up before stays as it is."""
        kept = self._sums
        self.start()
        try:
            self.update(sample_list, model_output)
            return self.sums()
        finally:
            self._sums = kept


@registry.register_metric("textvqa_accuracy_cls")
class VQAAccuracyByAnswerClass(VQAAccuracy):
    """VQA accuracy over all records, over those with a common answer and over the rest.

    The sub-names are ``all_acc``, ``common_acc`` and ``unique_acc``. A record's answer is common when its ten answers
    are one and the same after normalisation and :data:`COMMON_ANSWERS` has it. A class without records has 0.
    """

    CLASSES = ("all_acc", "common_acc", "unique_acc")

    def __init__(self) -> None:
        super().__init__()
        self.name = "textvqa_accuracy_cls"

    def groups(self, answers: Collection[str]) -> Iterable[str]:
        common = len(answers) == 1 and COMMON_ANSWERS.issuperset(answers)
        return "", "all_acc", "common_acc" if common else "unique_acc"

    def sums(self) -> Sums:
        """Sum of scores and number of records by sub-name; classes without records are there as well."""
        return dict.fromkeys(self.CLASSES, (0.0, 0.0)) | super().sums()

    def calculate(self, sample_list: Any, model_output: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The accuracies of one batch alone by sub-name, as the published metric gives them."""
        sums = self._batch_sums(sample_list, model_output)
        return {name: torch.tensor(sums[name][0] / (sums[name][1] or 1)) for name in self.CLASSES}
