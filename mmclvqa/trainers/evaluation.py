"""Evaluating a split and writing MMF's prediction files, over any number of processes.

Each process takes every n-th batch, so that no record is padded in or counted twice.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmf.common.report import Report
from mmf.common.sample import SampleList
from torch import nn

from mmclvqa.clove.files import atomic_write
from mmclvqa.trainers.loaders import Split
from mmclvqa.trainers.metrics import Gather, Metrics
from mmclvqa.trainers.progress import evaluation_bar, on_terminal
from mmclvqa.trainers.random_state import random_state_kept
from mmclvqa.trainers.results import Evaluation


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; training mode and random state are put back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), random_state_kept():
            yield
    finally:
        model.train(training)


def prepare(batch: SampleList, dataset: Any) -> SampleList:
    """The batch on the device, as the data set prepares it."""
    prepared = dataset.prepare_batch(batch)
    return prepared if isinstance(prepared, SampleList) else SampleList(prepared)


class Evaluator:
    """Evaluates splits with one model.

    Args:
        model: not wrapped for several processes: in evaluation each works at its own pace.
        metrics: of ``evaluation.metrics``.
        gather: gives every process the objects of all.
        is_main: whether this process shows progress and writes files.
        verbose_dump: let data sets dump each report (MMF's ``training.verbose_dump``).
    """

    def __init__(
        self, model: nn.Module, metrics: Metrics, gather: Gather, is_main: bool, verbose_dump: bool = False
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._gather = gather
        self._is_main = is_main
        self._visible = is_main and on_terminal()
        self._verbose_dump = verbose_dump

    def evaluate(self, split: Split, warn: Callable[[str], None]) -> list[Evaluation]:
        """Metrics and losses of each data set of ``split``; the same in every process.

        Args:
            split: what to evaluate.
            warn: takes one line for each metric that had to be left out.
        """
        evaluations = []
        with evaluating(self._model):
            for number, dataset in enumerate(split.datasets):
                part = split.only(number)
                evaluations.append(self._evaluate(part, dataset, warn))
        return evaluations

    def _evaluate(self, part: Split, dataset: Any, warn: Callable[[str], None]) -> Evaluation:
        start = time.monotonic()
        losses: dict[str, float | torch.Tensor] = {}
        records = 0
        self._metrics.start(part.name, dataset.dataset_name)
        for _, report, size in self._reports(part):
            records += size
            for key, loss in (report.get("losses") or {}).items():
                losses[key] = losses.get(key, 0.0) + loss.mean() * size
            self._metrics.update(report, report)
            if self._verbose_dump:
                dataset.verbose_dump(report)
        for name, fields in self._metrics.without_fields.items():
            warn(f"{part.name}: metric {name} is left out, the batches have no {', '.join(fields)}")
        counts = self._gather((records, {key: float(loss) for key, loss in losses.items()}))
        total = sum(count for count, _ in counts)
        keys = dict.fromkeys(key for _, part_losses in counts for key in part_losses)
        averages = {key: sum(part_losses.get(key, 0.0) for _, part_losses in counts) / total for key in keys}
        return Evaluation(
            split=part.name,
            dataset=dataset.dataset_name,
            metrics=self._metrics.values(self._gather),
            losses=averages,
            loss=sum(averages.values()) if averages else None,
            records=total,
            seconds=time.monotonic() - start,
        )

    def predict(self, split: Split, folder: Path, experiment: str, file_format: str) -> list[Path]:
        """Write what each data set's (and the model's) ``format_for_prediction`` gives, in record order.

        Returns:
            The files ``<dataset>_<experiment>_<split>_<time>.json`` (or ``.csv``); written by the main
            process.
        """
        paths = []
        with evaluating(self._model):
            for number, dataset in enumerate(split.datasets):
                entries = self._predictions(split.only(number), dataset)
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
                stem = "_".join(filter(None, (dataset.dataset_name, experiment, split.name, stamp)))
                path = folder / f"{stem}.{'csv' if file_format == 'csv' else 'json'}"
                if self._is_main:
                    write_predictions(path, entries)
                paths.append(path)
        return paths

    def _predictions(self, part: Split, dataset: Any) -> list[dict[str, Any]]:
        mine = []
        for number, report, _ in self._reports(part):
            entries = dataset.format_for_prediction(report)
            if hasattr(self._model, "format_for_prediction"):
                entries = self._model.format_for_prediction(entries, report)
            mine.append((number, entries))
        by_batch = dict(item for theirs in self._gather(mine) for item in theirs)
        return [entry for number in sorted(by_batch) for entry in by_batch[number]]

    def _reports(self, part: Split) -> Iterator[tuple[int, Report, int]]:
        batches = evaluation_bar(
            part.evaluation_batches(), part.num_evaluation_batches(), part.name, self._visible
        )
        for number, batch, dataset in batches:
            prepared = prepare(batch, dataset)
            yield number, Report(prepared, self._model(prepared)), prepared.get_batch_size()


def write_predictions(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write prediction entries as a JSON list, or as CSV with a header where ``path`` ends in ``.csv``."""
    with atomic_write(path) as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(entries[0]) if entries else [])
            writer.writeheader()
            writer.writerows(entries)
        else:
            json.dump(entries, file)
