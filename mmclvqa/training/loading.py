"""Data loading: plans the batches of a split, distributes them to processes and loads them with workers.

The order of an epoch depends only on (seed, epoch). Therefore a resumed run continues with the next batch without
loading those before it.

``training.num_workers`` is a number of threads for data sets that have ``load_batch(indices)``, as CLOVE's have: such a
function spends its time in numpy and in the tokenizer, which run in parallel. Any other data set is loaded record by
record in that many processes. Sending a batch of region features from another process takes longer than loading it.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from mmf.common.batch_collator import BatchCollator
from mmf.common.registry import registry
from mmf.common.sample import SampleList
from mmf.utils.build import build_dataset
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmclvqa.clove.errors import CloveError, ConfigError
from mmclvqa.datasets.prepared import repeats_one_value
from mmclvqa.training.distributed import runs_on_cpu

Batch = tuple[int, np.ndarray]
"""Index of the data set, and the indices of its records."""
HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""``training.precision`` to the type in which inputs of linear layers are sent to a GPU."""
PREFETCHED = 2
"""Batches that each thread loads before they are needed; torch's default for its processes."""


class TrainingPlan:
    """The training batches of every epoch, in random order.

    Args:
        sizes: number of records of each data set.
        batch_size: records per batch over all processes; an epoch's last batch may be smaller.
        proportional: with several data sets, an epoch has all batches of each; otherwise as many batches of each as the
            smallest data set has. A batch never mixes data sets.
    """

    def __init__(self, sizes: list[int], batch_size: int, seed: int, proportional: bool = True) -> None:
        self._sizes = sizes
        self._batch_size = batch_size
        self._seed = seed % 2**64
        counts = [-(-size // batch_size) for size in sizes]
        self._counts = counts if proportional else [min(counts)] * len(counts)

    def __len__(self) -> int:
        return sum(self._counts)

    def batches(self, epoch: int) -> list[Batch]:
        """Return the batches of an epoch in order."""
        rng = np.random.default_rng((self._seed, zlib.crc32(b"training order"), epoch))
        batches: list[Batch] = []
        for number, (size, count) in enumerate(zip(self._sizes, self._counts, strict=True)):
            order = rng.permutation(size)
            batches += [(number, order[i * self._batch_size :][: self._batch_size]) for i in range(count)]
        if len(self._sizes) > 1:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches


def evaluation_batches(sizes: list[int], batch_size: int) -> list[Batch]:
    """Return batches of all records of each data set, in order."""
    return [
        (number, np.arange(start, min(start + batch_size, size)))
        for number, size in enumerate(sizes)
        for start in range(0, size, batch_size)
    ]


def shard(records: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Return the part of a training batch that a process gets; part sizes differ by at most 1 and may be 0."""
    return records[rank::world_size]


def shard_weights(batches: list[Batch], rank: int, world_size: int) -> list[float]:
    """Return the factors of a process's mean losses that make an update the average over all its records.

    Gradients are averaged over processes, hence the factor ``world_size``. With one process and one batch per
    update, the factor is 1.
    """
    total = sum(len(records) for _, records in batches)
    return [len(shard(records, rank, world_size)) * world_size / total for _, records in batches]


class _Joined(Dataset):
    """Several data sets as one, indexed by (index of the data set, index of the record), which collates its batches.

    Batches are collated by the ``collater`` or ``collate_fn`` of the data set, otherwise as MMF does. A user error is
    returned as a value, because a worker would wrap a raised exception in a traceback.
    """

    def __init__(self, datasets: list[Any]) -> None:
        self._datasets = datasets
        self._collators = [_collator(dataset) for dataset in datasets]

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[int, SampleList] | Exception:
        number = keys[0][0]
        try:
            return number, self._collators[number]([self._datasets[number][record] for _, record in keys])
        except (CloveError, OSError) as error:
            return error


def _as_it_is(loaded: Any) -> Any:
    """Return a batch that is collated already; a function of the module, because worker processes may pickle it."""
    return loaded


def _collator(dataset: Any) -> Any:
    for name in ("collater", "collate_fn"):
        if hasattr(dataset, name):
            return getattr(dataset, name)
    return BatchCollator(dataset.dataset_name, dataset.dataset_type)


class Split:
    """One split (``train``, ``val`` or ``test``) of all data sets.

    Args:
        datasets: MMF data sets that have this split.
        training: ``config.training``.
        seed: seed of the order of training records.
        sent_as: the types to which fields of a batch are converted when it is loaded.
    """

    def __init__(
        self,
        name: str,
        datasets: list[Any],
        training: Any,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        sent_as: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        self.name = name
        self.datasets = datasets
        self._training = training
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._sent_as = sent_as or {}
        self._pins = training.pin_memory and torch.cuda.is_available()
        proportional = training.dataset_size_proportional_sampling
        self.plan = TrainingPlan(self.sizes, training.batch_size, seed, proportional)
        self._evaluation = self._split_into(training.eval_batch_size or training.batch_size)
        self._loader: DataLoader | None = None

    @property
    def sizes(self) -> list[int]:
        """Return the number of records of each data set."""
        return [len(dataset) for dataset in self.datasets]

    def updates(
        self, epoch: int, start: int = 0, frequency: int = 1
    ) -> Iterator[tuple[list[float], Iterator[tuple[SampleList, Any]]]]:
        """Yield the batches of each update of an epoch, starting from batch ``start``.

        Yields:
            The weights of the batches of the update (see :func:`shard_weights`): ``frequency`` weights, fewer at the
            end of the epoch; and an iterator over (batch, data set), from which the caller must take exactly as many
            items. A process without a record in a small last batch gets another process's record with weight 0,
            because all processes must take part.
        """
        for dataset in self.datasets:
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)
        batches = self.plan.batches(epoch)[start:]
        parts = []
        for number, records in batches:
            part = shard(records, self._rank, self._world_size)
            parts.append((number, part if len(part) else records[:1]))
        loaded = self._load(parts, (self._seed + epoch) % 2**63, persistent=True)
        for first in range(0, len(batches), frequency):
            yield shard_weights(batches[first : first + frequency], self._rank, self._world_size), loaded

    def in_record_order(self, batch_size: int | None = None) -> Iterator[SampleList]:
        """Yield this process's share of all batches in record order, prepared, with the random draws of epoch 0.

        Args:
            batch_size: records per batch over all processes; None uses the evaluation batch size.
        """
        for dataset in self.datasets:
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(0)
        batches = self._evaluation if batch_size is None else self._split_into(batch_size)
        for batch, dataset in self._load(batches[self._rank :: self._world_size], self._seed):
            yield prepare(batch, dataset)

    def evaluation_batches(self) -> Iterator[tuple[int, SampleList, Any]]:
        """Yield this process's share of the evaluation batches: (number of the batch, batch, data set)."""
        numbers = self._evaluation_numbers()
        loaded = self._load([self._evaluation[i] for i in numbers], self._seed)
        for number, (batch, dataset) in zip(numbers, loaded, strict=True):
            yield number, batch, dataset

    def _split_into(self, batch_size: int) -> list[Batch]:
        return evaluation_batches(self.sizes, max(1, batch_size // self._world_size))

    def num_evaluation_batches(self) -> int:
        """Return the number of batches that :meth:`evaluation_batches` yields in this process."""
        return len(self._evaluation_numbers())

    def _evaluation_numbers(self) -> range:
        return range(self._rank, len(self._evaluation), self._world_size)

    def only(self, number: int, most_batches: int | None = None) -> Split:
        """Return the split restricted to one data set and, if it is given, to a number of batches, for evaluation."""
        dataset, place = self.datasets[number], (self._rank, self._world_size)
        part = Split(self.name, [dataset], self._training, self._seed, *place, self._sent_as)
        part._evaluation = part._evaluation[:most_batches]
        return part

    def close(self) -> None:
        """End the training processes; otherwise garbage collection would wait for them."""
        if self._loader is not None:
            _end_workers(self._loader._iterator)
        self._loader = None

    def _make_loader(self, persistent: bool) -> DataLoader:
        workers = self._training.num_workers
        return DataLoader(
            _Joined(self.datasets),
            batch_sampler=[],  # filled for each epoch
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=self._pins,
            persistent_workers=persistent and workers > 0,
            # Without this generator, every new iterator would draw from torch's global generator.
            generator=torch.Generator(),
        )

    def _load(self, batches: list[Batch], seed: int, persistent: bool = False) -> Iterator[tuple[SampleList, Any]]:
        """Yield batches with their data sets; ``persistent`` keeps the processes for the next epoch."""
        if all(hasattr(dataset, "load_batch") for dataset in self.datasets):
            return self._load_in_threads(batches)
        return self._load_in_processes(batches, seed, persistent)

    def _load_in_threads(self, batches: list[Batch]) -> Iterator[tuple[SampleList, Any]]:
        threads = self._training.num_workers
        if not threads:
            yield from (self._load_batch(*batch) for batch in batches)
            return
        pool = ThreadPoolExecutor(threads, "data loading")
        pending: deque[Future[tuple[SampleList, Any]]] = deque()
        try:
            for batch in batches:
                pending.append(pool.submit(self._load_batch, *batch))
                if len(pending) > PREFETCHED * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _load_batch(self, number: int, records: np.ndarray) -> tuple[SampleList, Any]:
        batch = self.datasets[number].load_batch(records.tolist())
        for field, value in batch.items():
            if not isinstance(value, torch.Tensor) or repeats_one_value(value):
                continue  # nothing to gain, and torch cannot pin a tensor that repeats a value
            if field in self._sent_as:
                value = value.to(self._sent_as[field])
            batch[field] = value.pin_memory() if self._pins else value
        return batch, self.datasets[number]

    def _load_in_processes(self, batches: list[Batch], seed: int, persistent: bool) -> Iterator[tuple[SampleList, Any]]:
        if not batches:
            return
        # Persistent processes avoid the start-up time in each epoch.
        if persistent and self._loader is None:
            self._loader = self._make_loader(persistent=True)
        loader = self._loader if persistent else self._make_loader(persistent=False)
        loader.batch_sampler[:] = [[(number, int(record)) for record in records] for number, records in batches]
        loader.generator.manual_seed(seed)
        iterator = iter(loader)
        try:
            for loaded in iterator:
                if isinstance(loaded, Exception):
                    raise loaded
                number, batch = loaded
                yield batch, self.datasets[number]
        finally:
            if not loader.persistent_workers:
                _end_workers(iterator)


def prepare(batch: SampleList, dataset: Any) -> SampleList:
    """Return a batch on the device, as prepared by its data set."""
    prepared = dataset.prepare_batch(batch)
    return prepared if isinstance(prepared, SampleList) else SampleList(prepared)


def _end_workers(iterator: Any) -> None:
    # The garbage collector may free the queues before the workers end. The workers then get no signal to end, and each
    # is waited for 5 seconds.
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def build_split(name: str, config: Any, seed: int, rank: int = 0, world_size: int = 1) -> Split | None:
    """Build a split of all data sets of ``config.datasets``; None if none of them has it.

    Raises:
        ConfigError: a data set is an IterableDataset.
    """
    datasets = []
    for key in (part.strip() for part in config.datasets.split(",")):
        dataset = build_dataset(key, config.dataset_config[key], name)
        if isinstance(dataset, IterableDataset):
            raise ConfigError(f"data set {key} is an IterableDataset; the trainer needs one with a length")
        if dataset is not None and len(dataset):
            datasets.append(dataset)
    if not datasets:
        return None
    half = None if runs_on_cpu(config.training) else HALF_PRECISION.get(config.training.precision)
    fields = getattr(registry.get_model_class(config.model), "LINEAR_INPUTS", ()) if half else ()
    return Split(name, datasets, config.training, seed, rank, world_size, dict.fromkeys(fields, half))
