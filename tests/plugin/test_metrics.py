"""VQA accuracy, added up over batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmf.common.registry import registry
from mmf.common.sample import SampleList
from mmf.modules.metrics import TextVQAAccuracy
from mmf.utils.distributed import object_to_byte_tensor

from mmclvqa.clove.annotations import new_record, save_records
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.tasks import tasks
from mmclvqa.datasets.metrics import VQAAccuracy, common_answers

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


def test_common_answers_are_those_of_all_six_tasks(tmp_path) -> None:
    for number, task in enumerate(tasks("functional").values()):
        records = [new_record(answer=a, answers=[a] * 10) for a in ("yes", f"only {number}")]
        save_records(tmp_path / task.annotation_path("train"), records)
    assert common_answers(str(tmp_path), "functional") == {"yes"}
    with pytest.raises(DataError, match="cl_setting"):
        common_answers(str(tmp_path), None)
