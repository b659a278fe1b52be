"""Batches: every record once an epoch, an order that depends on seed and epoch alone, shares of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmf.common.sample import Sample
from omegaconf import OmegaConf

from mmclvqa.training.loading import Split, TrainingPlan, evaluation_batches, shard, shard_weights


class Numbers(torch.utils.data.Dataset):
    """A data set whose sample is its index and the epoch it was told."""

    dataset_type = "train"

    def __init__(self, size: int, name: str = "numbers") -> None:
        self.size, self.dataset_name = size, name
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch[0] = epoch

    def __getitem__(self, index: int) -> Sample:
        self.loaded.append(index)
        return Sample({"index": torch.tensor(index), "epoch": self.epoch[0].clone()})


def split_of(*sizes: int, rank: int = 0, world_size: int = 1, **settings) -> Split:
    training = OmegaConf.create({
        "batch_size": 8, "eval_batch_size": None, "num_workers": 0, "pin_memory": False,
        "dataset_size_proportional_sampling": True, **settings,
    })
    datasets = [Numbers(size, f"numbers_{i}") for i, size in enumerate(sizes)]
    return Split("train", datasets, training, 5, rank, world_size)


def taken(split: Split, epoch: int, start: int = 0, frequency: int = 1) -> list[list[int]]:
    return [
        next(batches)[0].index.tolist()
        for weights, batches in split.updates(epoch, start, frequency)
        for _ in weights
    ]


def test_an_epoch_has_every_record_once() -> None:
    batches = TrainingPlan([50], 8, seed=1).batches(1)
    assert [len(records) for _, records in batches] == [8] * 6 + [2]
    assert sorted(np.concatenate([records for _, records in batches])) == list(range(50))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate([r for _, r in TrainingPlan([50], 8, seed).batches(epoch)]).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (1, 2)}) == 4


def test_going_on_in_an_epoch_loads_only_what_is_left() -> None:
    split = split_of(50)
    whole = taken(split_of(50), epoch=3)
    assert taken(split, epoch=3, start=5) == whole[5:]
    assert sorted(split.datasets[0].loaded) == sorted(sum(whole[5:], []))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_epoch_reaches_the_data_set_also_in_workers_that_stay(workers: int) -> None:
    split = split_of(20, num_workers=workers)
    for epoch in (1, 2):
        epochs = [next(batches)[0].epoch for _, batches in split.updates(epoch)]
        assert set(torch.cat(epochs).tolist()) == {epoch}
    split.close()


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    taken(split_of(20), epoch=1)
    list(split_of(20).evaluation_batches())
    assert torch.equal(torch.rand(2), expected)


def test_several_data_sets_are_mixed_by_batches() -> None:
    batches = TrainingPlan([50, 17], 8, seed=1).batches(1)
    assert sorted(number for number, _ in batches) == [0] * 7 + [1] * 3
    assert [number for number, _ in batches] != sorted(number for number, _ in batches)
    equal = TrainingPlan([50, 17], 8, seed=1, proportional=False).batches(1)
    assert sorted(number for number, _ in equal) == [0] * 3 + [1] * 3


def test_the_last_update_of_an_epoch_takes_the_batches_that_are_left() -> None:
    sizes = []
    for weights, batches in split_of(50).updates(1, frequency=3):
        sizes.append(sum(len(next(batches)[0].index) for _ in weights))
    assert sizes == [24, 24, 2]


def test_processes_share_each_batch_and_their_weights_average_it() -> None:
    batches = TrainingPlan([50], 8, seed=1).batches(1)
    for group in (batches[:1], batches[4:]):
        total = sum(len(records) for _, records in group)
        average = 0.0
        for rank in range(3):
            weights = shard_weights(group, rank, 3)
            for weight, (_, records) in zip(weights, group, strict=True):
                part = shard(records, rank, 3)
                if len(part):
                    average += weight * float(part.mean()) / 3
        assert average == pytest.approx(sum(float(records.sum()) for _, records in group) / total)


def test_a_process_without_a_record_of_a_small_batch_takes_part_with_weight_nought() -> None:
    split = split_of(9, rank=1, world_size=2)
    updates = [(weights, next(batches)[0].index.tolist()) for weights, batches in split.updates(1)]
    assert updates[-1][0] == [0.0] and len(updates[-1][1]) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_record_once_over_all_processes(world_size: int) -> None:
    seen: dict[int, list[int]] = {}
    for rank in range(world_size):
        split = split_of(21, rank=rank, world_size=world_size)
        batches = list(split.evaluation_batches())
        assert len(batches) == split.num_evaluation_batches()
        seen |= {number: batch.index.tolist() for number, batch, _ in batches}
    assert sum((seen[number] for number in sorted(seen)), []) == list(range(21))


def test_evaluation_batches_do_not_mix_data_sets() -> None:
    assert [(number, records.tolist()) for number, records in evaluation_batches([3, 2], 2)] == [
        (0, [0, 1]), (0, [2]), (1, [0, 1])
    ]
