"""VQA accuracy, accumulated batch by batch, so that the scores of a split need not be kept in memory.

A metric is used by ``start()``, ``update(batch, output)`` for each batch, then ``sums()``, which the trainer adds up
over processes and divides.
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

from mmclvqa.clove.errors import ConfigError
from mmclvqa.datasets.answers import answer_words

Sums = dict[str, tuple[float, float]]

# fmt: off
COMMON_ANSWERS = frozenset((
    "red", "top", "yellow", "green", "gray", "blue", "black", "wood", "large", "man", "chair", "white", "woman",
    "small", "bottom", "brown", "orange", "pink", "metal", "girl", "boy",
))
# fmt: on
"""The published list of answers that occur in several tasks, normalized."""


@registry.register_metric("textvqa_accuracy")
class VQAAccuracy(BaseMetric):
    """VQA accuracy after EvalAI normalization of answers (Goyal et al. 2017; evaluator of TextVQA).

    The score of a prediction is the average of min(1, matches / 3) over the ten leave-one-out subsets of the answers.
    """

    NAME = "textvqa_accuracy"

    def __init__(self) -> None:
        super().__init__(self.NAME)
        self.required_params = ["scores", "answers", "context_tokens"]
        evaluator = TextVQAAccuracyEvaluator()
        self._normalize = evaluator.answer_processor
        self._answer_scores = lru_cache(maxsize=65536)(lambda raw: evaluator._compute_answer_scores(list(raw)))
        self.start()

    def start(self) -> None:
        """Reset the sums."""
        self._sums: dict[str, list[float]] = {}

    def update(self, sample_list: Any, model_output: Any) -> None:
        """Add a batch: ``scores`` (B, steps, A + OCR slots) compared with ``answers`` and ``context_tokens``.

        Raises:
            ConfigError: the model returns no scores of this form.
        """
        processor = registry.get(f"{sample_list.dataset_name}_answer_processor")
        outputs = model_output.get("scores")
        if outputs is None or outputs.dim() != 3:
            form = "no scores" if outputs is None else f"scores of shape {' × '.join(map(str, outputs.shape))}"
            needed = "batch × steps × (answers + OCR slots)"
            raise ConfigError(f"the model returns {form}; {self.name} needs {needed}, see docs/model.md")
        for row, indices in enumerate(outputs.argmax(dim=-1).tolist()):
            tokens = byte_tensor_to_object(sample_list.context_tokens[row])
            answers = byte_tensor_to_object(sample_list.answers[row])
            predicted, _ = answer_words(indices, tokens, processor)
            scores = self._answer_scores(tuple(answers))
            score = scores.get(self._normalize(predicted), 0.0)
            for group in self.groups(scores):
                total = self._sums.setdefault(group, [0.0, 0.0])
                total[0] += score
                total[1] += 1

    def groups(self, answers: Collection[str]) -> Iterable[str]:
        """Return the sub-names for which a record counts; the empty sub-name is the metric itself.

        Args:
            answers: the distinct answers among the record's ten, normalized.
        """
        return ("",)

    def sums(self) -> Sums:
        """Return the sum of scores and the number of records by sub-name."""
        return {group: (total, count) for group, (total, count) in self._sums.items()}

    def calculate(self, sample_list: Any, model_output: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the accuracy of a single batch, as MMF's metrics do."""
        total, count = self._batch_sums(sample_list, model_output)[""]
        return torch.tensor(total / count)

    def _batch_sums(self, sample_list: Any, model_output: Any) -> Sums:
        """Return :meth:`sums` of a single batch without changing the accumulated sums."""
        accumulated = self._sums
        self.start()
        try:
            self.update(sample_list, model_output)
            return self.sums()
        finally:
            self._sums = accumulated


@registry.register_metric("textvqa_accuracy_cls")
class VQAAccuracyByAnswerClass(VQAAccuracy):
    """VQA accuracy of all records, of those with a common answer, and of the others.

    The sub-names are ``all_acc``, ``common_acc`` and ``unique_acc``. The answer of a record is common if its ten
    answers are equal after normalization and in :data:`COMMON_ANSWERS`. A class without records has accuracy 0.
    """

    NAME = "textvqa_accuracy_cls"
    CLASSES = ("all_acc", "common_acc", "unique_acc")

    def groups(self, answers: Collection[str]) -> Iterable[str]:
        common = len(answers) == 1 and COMMON_ANSWERS.issuperset(answers)
        return "", "all_acc", "common_acc" if common else "unique_acc"

    def sums(self) -> Sums:
        """Return the sum of scores and the number of records by sub-name, including classes without records."""
        return dict.fromkeys(self.CLASSES, (0.0, 0.0)) | super().sums()

    def calculate(self, sample_list: Any, model_output: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Return the accuracies of a single batch by sub-name, as the published metric does."""
        sums = self._batch_sums(sample_list, model_output)
        return {name: torch.tensor(sums[name][0] / (sums[name][1] or 1)) for name in self.CLASSES}
