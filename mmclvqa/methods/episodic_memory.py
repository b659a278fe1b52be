"""Episodic memory: real records of earlier tasks as data sets, and gradients on them.

GEM, A-GEM and DER++ share it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmclvqa.lazy import torch
from mmclvqa.methods.replay import Record
from mmclvqa.random_state import seed_all

if TYPE_CHECKING:
    from torch import Tensor

    from mmclvqa.training.trainer import Trainer


class EpisodicMemory:
    """The episodic memory of a run.

    Args:
        trainer: the running trainer, whose data set class and processors read the records.
        records: task name -> records, in learning order; no list may be empty.

    Attributes:
        datasets: one data set per task, in learning order.
    """

    def __init__(self, trainer: Trainer, records: dict[str, list[Record]]) -> None:
        self._trainer = trainer
        self.datasets = [trainer.dataset_like(task_records) for task_records in records.values()]
        # The draws for a record, such as its answer, do not depend on which other records are stored.
        self._seeds = [[zlib.crc32(record_key(record).encode()) for record in part] for part in records.values()]

    def batch(self, keys: Sequence[tuple[int, int]]) -> Any:
        """Return a prepared batch of records, given as (index of the task, index of the record)."""
        seed = self._trainer.seed % 2**64
        drawn = [
            (self.datasets[number].draw(index)[0], np.random.default_rng((seed, self._seeds[number][index])))
            for number, index in keys
        ]
        return self._trainer.prepare(self.datasets[0].assemble(drawn), self.datasets[0])

    def record(self, task: int, index: int) -> Record:
        """Return a record by the index of its task and its own index."""
        return self.datasets[task].records[index]

    def draw(self, size: int | None, tasks: Sequence[int], purpose: str = "") -> tuple[list[tuple[int, int]], int]:
        """Draw ``size`` records of some tasks without replacement; None, or too large a size, returns all.

        The draw depends only on the seed, the update, the tasks and the purpose, so that a resumed run draws the same
        records.

        Returns:
            The keys of the records, and a seed for other random numbers of the batch.
        """
        named = () if not purpose else (zlib.crc32(purpose.encode()),)
        draws = np.random.default_rng((self._trainer.seed % 2**64, self._trainer.num_updates, *named, *tasks))
        keys = [(number, index) for number in tasks for index in range(len(self.datasets[number]))]
        if size is not None and size < len(keys):
            keys = [keys[i] for i in draws.choice(len(keys), size, replace=False)]
        return keys, int(draws.integers(2**63))

    def gradient(self, tasks: Sequence[int], size: int | None) -> Tensor:
        """Return the gradient of the mean loss on records of some tasks, of all parameters as one float32 vector.

        ``size`` is the number of records drawn from all these tasks together; None uses every record.
        """
        keys, seed = self.draw(size, tasks)
        seed_all(seed)
        parameters = self._trainer.trained_parameters()
        total = torch.zeros(sum(p.numel() for p in parameters), device=self._trainer.accelerator.device)
        for batch, share in self._batches(keys):
            with self._trainer.accelerator.autocast():
                loss = self._trainer.task_loss(self._trainer.report(batch))
            gradients = torch.autograd.grad(loss * share, parameters, allow_unused=True)
            total += flatten(
                torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)
            )
        return total

    def _batches(self, keys: list[tuple[int, int]]) -> Iterator[tuple[Any, float]]:
        """Yield prepared batches, each with its share of all records."""
        size = self._trainer.training.batch_size
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            yield self.batch(part), len(part) / len(keys)


def record_key(record: Record) -> str:
    """Return a text that identifies a record among those of all tasks, whose question ids may repeat."""
    return f"{record['stage']} {record['question_id']}"


def flatten(tensors: Iterator[Tensor]) -> Tensor:
    """Concatenate tensors into one float32 vector."""
    return torch.cat([tensor.reshape(-1).float() for tensor in tensors])
