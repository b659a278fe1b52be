"""VQA accuracy, added up over batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmf.common.registry import registry
from mmf.common.sample import SampleList
from mmf.modules.metrics import TextVQAAccuracy
from mmf.utils.distributed import object_to_byte_tensor
from mmf.utils.m4c_evaluators import TextVQAAccuracyEvaluator

from mmclvqa.datasets.answers import answer_words
from mmclvqa.datasets.metrics import COMMON_ANSWERS, VQAAccuracy, VQAAccuracyByAnswerClass
from mmclvqa.training.evaluation import Metrics

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "red", "two", "cup", "'s"]


class Answers:
    """The part of an answer processor that metrics read."""

    EOS_IDX = 2

    class answer_vocab:
        idx2word = staticmethod(lambda index: WORDS[index])

    @staticmethod
    def get_true_vocab_size() -> int:
        return len(WORDS)


@pytest.fixture
def batches() -> list[tuple[SampleList, dict[str, torch.Tensor]]]:
    registry.register("clvqa_answer_processor", Answers())
    generator = torch.Generator().manual_seed(5)
    answers = [["red"] * 10, ["red"] * 2 + ["cup"] * 8, ["2"] * 10, ["kiosk"] * 9 + ["red"]]
    made = []
    for count in (4, 3):
        batch = SampleList({"context_tokens": torch.stack([object_to_byte_tensor(["kiosk", "stop"])] * count)})
        batch.answers = torch.stack([object_to_byte_tensor(answers[i]) for i in range(count)])
        batch.dataset_name, batch.dataset_type = "clvqa", "val"
        scores = torch.rand(count, 3, len(WORDS) + 2, generator=generator)
        scores[:, 0, 4 + torch.arange(count)] += 2
        scores[:, 1, 2] += 2
        made.append((batch, {"scores": scores}))
    return made


def test_an_apostrophe_of_an_answer_follows_its_word() -> None:
    words = ["Joe's", "red cup"]
    assert answer_words([6, 7, 4, 2, 5], words, Answers()) == ("cup's red", ["VOCAB"] * 3)
    assert answer_words([8, 2], words, Answers()) == answer_words([8, 2], ["joe 's"], Answers()) == ("joe's", ["OCR"])


def test_streaming_equals_mmfs_metric_over_the_whole_split(batches) -> None:
    metric = VQAAccuracy()
    oracle = [TextVQAAccuracy().calculate(batch, output).item() for batch, output in batches]
    for batch, output in batches:
        metric.update(batch, output)
    total, count = metric.sums()[""]
    assert count == 7
    assert total / count == pytest.approx(np.average(oracle, weights=[4, 3]))
    assert metric.calculate(*batches[0]).item() == pytest.approx(oracle[0])
    assert metric.sums()[""] == (total, count)


def test_start_forgets(batches) -> None:
    metric = VQAAccuracy()
    metric.update(*batches[0])
    metric.start()
    assert metric.sums() == {}


def answered(*records: list[str]) -> tuple[SampleList, dict[str, torch.Tensor]]:
    """A batch of records with these ``answers``; "red" is predicted for each."""
    registry.register("clvqa_answer_processor", Answers())
    batch = SampleList({"context_tokens": torch.stack([object_to_byte_tensor(["kiosk"])] * len(records))})
    batch.answers = torch.stack([object_to_byte_tensor(answers) for answers in records])
    batch.dataset_name, batch.dataset_type = "clvqa", "val"
    scores = torch.zeros(len(records), 2, len(WORDS) + 1)
    scores[:, 0, WORDS.index("red")] = scores[:, 1, Answers.EOS_IDX] = 1
    return batch, {"scores": scores}


def test_the_common_answers_are_their_own_normal_form() -> None:
    assert len(COMMON_ANSWERS) == 21 and {"red", "wood", "girl"} <= COMMON_ANSWERS
    assert {TextVQAAccuracyEvaluator().answer_processor(answer) for answer in COMMON_ANSWERS} == COMMON_ANSWERS


@pytest.mark.parametrize(
    ("answers", "answer_class"),
    [
        (["red"] * 10, "common_acc"),
        (["The Red"] * 5 + ["red."] * 5, "common_acc"),  # one answer after normalization
        (["red"] * 9 + ["blue"], "unique_acc"),  # both are in the list, but they are two
        (["cup"] * 10, "unique_acc"),
        (["yes"] * 10, "unique_acc"),
    ],
)
def test_an_answer_is_common_when_all_ten_are_one_of_the_list(answers: list[str], answer_class: str) -> None:
    metric = VQAAccuracyByAnswerClass()
    metric.update(*answered(answers))
    counts = {name: count for name, (_, count) in metric.sums().items()}
    other = ({"common_acc", "unique_acc"} - {answer_class}).pop()
    assert counts == {"": 1, "all_acc": 1, answer_class: 1, other: 0}


def test_accuracies_by_answer_class_are_those_of_its_records() -> None:
    first, second = answered(["red"] * 10, ["blue"] * 10), answered(["red"] * 2 + ["cup"] * 8)
    metrics = Metrics(["textvqa_accuracy_cls"])
    metrics.start("val", "clvqa")
    for batch, output in (first, second):
        metrics.update(batch, output)
    # Two of ten: leaving one of the two out leaves 1/3, leaving one of the others out 2/3.
    two_of_ten = (2 * 1 / 3 + 8 * 2 / 3) / 10
    assert metrics.values(lambda value: [value]) == pytest.approx(
        {
            "textvqa_accuracy_cls": (1 + two_of_ten) / 3,
            "textvqa_accuracy_cls/all_acc": (1 + two_of_ten) / 3,
            "textvqa_accuracy_cls/common_acc": 1 / 2,
            "textvqa_accuracy_cls/unique_acc": two_of_ten,
        }
    )


def test_an_answer_class_without_records_has_accuracy_0() -> None:
    metrics = Metrics(["textvqa_accuracy_cls"])
    metrics.start("val", "clvqa")
    metrics.update(*answered(["red"] * 10))
    values = metrics.values(lambda value: [value])
    assert (values["textvqa_accuracy_cls/common_acc"], values["textvqa_accuracy_cls/unique_acc"]) == (1, 0)


def test_one_batch_alone_has_its_three_accuracies() -> None:
    metric = VQAAccuracyByAnswerClass()
    metric.update(*answered(["cup"] * 10))
    before = metric.sums()
    found = metric.calculate(*answered(["red"] * 10, ["blue"] * 10))
    assert {name: value.item() for name, value in found.items()} == {
        "all_acc": 0.5, "common_acc": 0.5, "unique_acc": 0
    }  # fmt: skip
    assert metric.sums() == before
