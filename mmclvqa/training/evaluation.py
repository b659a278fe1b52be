"""Evaluation of splits: metrics accumulated batch by batch, MMF's prediction files, and ``results.json``.

Each of n processes evaluates every n-th batch, so that no record is counted twice.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.common.report import Report
from mmf.common.sample import SampleList
from torch import nn

from mmclvqa.clove.errors import ConfigError, DataError
from mmclvqa.clove.experiment_paths import RESULTS_FILE
from mmclvqa.clove.files import atomic_write, write_json
from mmclvqa.clove.text import one_line
from mmclvqa.random_state import random_state_kept
from mmclvqa.training.distributed import Gather
from mmclvqa.training.loading import Split, prepare
from mmclvqa.training.progress import evaluation_bar, on_terminal
from mmclvqa.value_kinds import require_registered

TRAINING = "training"
"""``weights`` of evaluations during training; otherwise ``weights`` is the file whose weights were evaluated."""


@dataclass
class Evaluation:
    """One evaluation of one data set of a split.

    Attributes:
        update: number of updates of the weights; None if the file does not record it.
        weights: :data:`TRAINING`, or the file the weights came from.
        metrics: value of each metric (``<metric>`` and ``<metric>/<sub-name>``).
        losses: each loss by the model's key, averaged over records.
        loss: sum of the losses; None if the records have no targets.
        records: number of evaluated records of all processes.
    """

    split: str
    dataset: str
    update: int | None = None
    weights: str = TRAINING
    metrics: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    loss: float | None = None
    records: int = 0
    seconds: float = 0.0

    def values(self) -> dict[str, float]:
        """Return metrics and losses by MMF's keys, such as ``val/clvqa/textvqa_accuracy``."""
        return self.losses | {f"{self.split}/{self.dataset}/{name}": v for name, v in self.metrics.items()}

    def entry(self) -> dict[str, Any]:
        """Return the entry of ``results.json``; NaN and infinity, which JSON does not have, become null."""
        return {
            "update": self.update,
            "split": self.split,
            "dataset": self.dataset,
            "weights": self.weights,
            "metrics": {name: _finite(value) for name, value in self.metrics.items()},
            "loss": _finite(self.loss),
            "records": self.records,
            "seconds": round(self.seconds, 3),
        }


class Results:
    """The file ``results.json``, which is rewritten after each evaluation.

    ``run`` are facts about the run, stored beside the evaluations.

    Raises:
        DataError: the file exists but was not written by this class.
    """

    def __init__(self, save_dir: str | Path, run: dict[str, Any]) -> None:
        self.path = Path(save_dir) / RESULTS_FILE
        self.run = run
        self.entries: list[dict[str, Any]] = []
        self.training_losses: list[list[float | None]] = []
        if self.path.exists():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                self.entries = list(content["evaluations"])
                self.training_losses = list(content.get("training_losses", []))
                self.run = content["run"] | run
            except (ValueError, KeyError, TypeError):
                state = "damaged or from another program" if self.path.stat().st_size else "empty"
                raise DataError(f"{self.path} is {state}; delete it, and run_type=val evaluates again") from None

    def begin_training(self, num_updates: int) -> None:
        """Remove the evaluations and losses that a run starting or resuming at ``num_updates`` will repeat."""
        if num_updates == 0:
            self.entries = []
        self.training_losses = [[update, loss] for update, loss in self.training_losses if update <= num_updates]
        self.entries = [e for e in self.entries if e["weights"] != TRAINING or e["update"] <= num_updates]

    def add(self, evaluations: list[Evaluation]) -> None:
        """Add evaluations, replacing those of the same weights, split and data set, and write the file."""
        new = [evaluation.entry() for evaluation in evaluations]
        identities = [_identity(entry) for entry in new]
        self.entries = [e for e in self.entries if _identity(e) not in identities] + new
        self.write()

    def add_loss(self, update: int, loss: float) -> None:
        """Add the mean loss of the updates since the last call; the file is written with the next evaluation."""
        self.training_losses.append([update, _finite(loss)])

    def write(self) -> None:
        """Write the file."""
        write_json(self.path, {"run": self.run, "evaluations": self.entries, "training_losses": self.training_losses})


def _identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    update = entry["update"] if entry["weights"] == TRAINING else None
    return entry["weights"], update, entry["split"], entry["dataset"]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class Metrics:
    """The metrics of ``evaluation.metrics`` for one data set at a time.

    Args:
        settings: list of names or ``{type, params}``.
        use_cpu: whether to move batches and outputs to the CPU before metrics are computed.

    Raises:
        ConfigError: a metric is unknown or its ``params`` are invalid.
    """

    def __init__(self, settings: Sequence[Any] | None, use_cpu: bool = False) -> None:
        self._use_cpu = use_cpu
        self._metrics = dict(_build(setting) for setting in settings or [])
        self.start("", "")

    def start(self, split: str, dataset: str) -> None:
        """Reset the metrics; the following batches belong to this split and data set."""
        self._split, self._dataset = split, dataset
        self._kept: dict[str, list[Any]] = {}
        self.without_fields: dict[str, list[str]] = {}
        for metric in self._metrics.values():
            if _is_streaming(metric):
                metric.start()

    def update(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        """Add a prepared batch and the model's output for it.

        A metric whose fields are in neither is skipped and listed in :attr:`without_fields`.
        """
        if self._use_cpu:
            fields = {name for metric in self._metrics.values() for name in metric.required_params}
            _move_to_cpu(output, fields)
            _move_to_cpu(batch, fields)
        keep: set[str] = set()
        for name, metric in self._metrics.items():
            absent = [f for f in metric.required_params if f not in batch and f not in output]
            if absent:
                self.without_fields[name] = absent
            elif _is_streaming(metric):
                metric.update(batch, output)
            else:
                keep.update(metric.required_params)
        for name in keep:
            value = output[name] if name in output else batch[name]
            self._kept.setdefault(name, []).append(value.cpu() if isinstance(value, torch.Tensor) else value)

    def values(self, gather: Gather) -> dict[str, float]:
        """Return ``<metric>`` and ``<metric>/<sub-name>`` over the batches of all processes, which must all call it.

        A sub-name without records has the value 0.
        """
        values = {}
        combined = self._combined(gather)
        for name, metric in self._metrics.items():
            left_out = gather(name in self.without_fields)
            if any(left_out):
                continue
            if _is_streaming(metric):
                for sub, (total, count) in _added(gather(metric.sums())).items():
                    values[f"{name}/{sub}" if sub else name] = total / count if count else 0.0
            elif combined is not None:
                values |= _calculated(name, metric, combined)
        return values

    def _combined(self, gather: Gather) -> SampleList | None:
        parts = [part for part in gather(self._kept) if part]
        if not parts:
            return None
        combined = SampleList()
        for name in parts[0]:
            combined[name] = _joined([batch for part in parts for batch in part[name]])
            if isinstance(combined[name], torch.Tensor) and combined._get_tensor_field() is None:
                combined._set_tensor_field(name)
        combined.dataset_type, combined.dataset_name = self._split, self._dataset
        return combined


def _calculated(name: str, metric: Any, combined: SampleList) -> dict[str, float]:
    """Return the value of a metric over all records, or of each of its sub-names.

    Raises:
        ConfigError: the metric reads a field that it does not require, or returns something other than numbers.
    """
    try:
        value = metric._calculate_with_checks(combined, combined)
    except AttributeError as error:
        raise ConfigError(
            f"metric {name}: {one_line(error)}; a metric gets the fields that its required_params list "
            f"({', '.join(metric.required_params) or 'none'})"
        ) from error
    values = {f"{name}/{sub}": one for sub, one in value.items()} if isinstance(value, Mapping) else {name: value}
    try:
        return {key: float(torch.as_tensor(one, dtype=torch.float).mean()) for key, one in values.items()}
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise ConfigError(f"metric {name} returns {kind}: expected a number, or a mapping of numbers") from None


def _move_to_cpu(mapping: Any, fields: Iterable[str]) -> None:
    for name in fields:
        if isinstance(mapping.get(name), torch.Tensor):
            mapping[name] = mapping[name].cpu()


def _is_streaming(metric: Any) -> bool:
    return hasattr(metric, "update") and hasattr(metric, "sums")


def _added(sums: list[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    added: dict[str, tuple[float, float]] = {}
    for part in sums:
        for name, (total, count) in part.items():
            before = added.get(name, (0.0, 0.0))
            added[name] = (before[0] + float(total), before[1] + float(count))
    return added


def _joined(batches: list[Any]) -> Any:
    if isinstance(batches[0], torch.Tensor):
        return torch.cat(batches)
    if isinstance(batches[0], list | tuple):
        return [value for batch in batches for value in batch]
    return batches[0]


def _build(setting: Any) -> tuple[str, Any]:
    entry = setting if isinstance(setting, Mapping) else {"type": setting}
    name, params = entry.get("type"), entry.get("params") or {}
    registered = registry.mapping["metric_name_mapping"]
    require_registered("evaluation.metrics", "metric", name, registered)
    try:
        return name, registered[name](**params)
    except TypeError as error:
        raise ConfigError(f"evaluation.metrics: params of {name}: {error}") from None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without gradients; restore training mode and random state afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), random_state_kept():
            yield
    finally:
        model.train(training)


class Tally:
    """Sums losses and metrics of one model on one data set of a split, batch by batch; it resets ``metrics``."""

    def __init__(self, metrics: Metrics, split: str, dataset: str) -> None:
        self._metrics, self._split, self._dataset = metrics, split, dataset
        self._losses: dict[str, float | torch.Tensor] = {}
        self._records = 0
        metrics.start(split, dataset)

    def add(self, report: Report, size: int) -> None:
        """Add the batch and the model's output of ``size`` records."""
        self._records += size
        for key, loss in (report.get("losses") or {}).items():
            self._losses[key] = self._losses.get(key, 0.0) + loss.mean() * size
        self._metrics.update(report, report)

    def evaluation(self, gather: Gather, seconds: float) -> Evaluation:
        """Return the result over the records of all processes."""
        counts = gather((self._records, {key: float(loss) for key, loss in self._losses.items()}))
        total = sum(count for count, _ in counts)
        keys = dict.fromkeys(key for _, part_losses in counts for key in part_losses)
        losses = {key: sum(part_losses.get(key, 0.0) for _, part_losses in counts) / total for key in keys}
        loss = sum(losses.values()) if losses else None
        if _finite(loss) is None and losses:
            advice = "`python -m mmclvqa.clove check --samples N` reads N features of each database"
            line = f"{self._split}: the loss is {loss}: the weights or image features are not finite; {advice}"
            registry.get("writer").write(line, "warning")
        return Evaluation(
            split=self._split,
            dataset=self._dataset,
            metrics=self._metrics.values(gather),
            losses=losses,
            loss=loss,
            records=total,
            seconds=seconds,
        )


class Evaluator:
    """Evaluates splits with one model.

    Args:
        model: the bare model, not wrapped in DDP, because processes may evaluate different numbers of batches.
        is_main: whether this process shows progress and writes files.
        verbose_dump: whether data sets dump each report (MMF's ``training.verbose_dump``).
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

    def evaluate(self, split: Split, warn: Callable[[str], None], most_batches: int | None = None) -> list[Evaluation]:
        """Return metrics and losses of each data set of a split, identical in all processes.

        Args:
            split: the split.
            warn: called with one line for each metric that is skipped.
            most_batches: number of batches of each data set that are evaluated; None means all.
        """
        with evaluating(self._model):
            parts = [split.only(number, most_batches) for number in range(len(split.datasets))]
            return [self._evaluate(part, part.datasets[0], warn) for part in parts]

    def _evaluate(self, part: Split, dataset: Any, warn: Callable[[str], None]) -> Evaluation:
        start = time.monotonic()
        tally = Tally(self._metrics, part.name, dataset.dataset_name)
        for _, report, size in self._reports(part):
            tally.add(report, size)
            if self._verbose_dump:
                dataset.verbose_dump(report)
        for name, fields in self._metrics.without_fields.items():
            warn(f"{part.name}: metric {name} is skipped, the batches have no {', '.join(fields)}")
        return tally.evaluation(self._gather, time.monotonic() - start)

    def predict(self, split: Split, folder: Path, experiment: str, file_format: str) -> list[Path]:
        """Write the predictions of each data set in record order.

        The entries come from ``format_for_prediction`` of the data set and of the model.

        Returns:
            The files ``<dataset>_<experiment>_<split>_<time>.json`` (or ``.csv``), which the main process writes.
        """
        paths = []
        for number, dataset in enumerate(split.datasets):
            entries = self.predictions(split.only(number))
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
            stem = "_".join(filter(None, (dataset.dataset_name, experiment, split.name, stamp)))
            path = folder / f"{stem}.{file_format}"
            if self._is_main:
                write_predictions(path, entries)
            paths.append(path)
        return paths

    def predictions(self, part: Split) -> list[dict[str, Any]]:
        """Return the prediction entries of a split of one data set in record order, identical in all processes."""
        (dataset,) = part.datasets
        predictions = []
        with evaluating(self._model):
            for number, report, _ in self._reports(part):
                entries = dataset.format_for_prediction(report)
                if hasattr(self._model, "format_for_prediction"):
                    entries = self._model.format_for_prediction(entries, report)
                predictions.append((number, entries))
        by_batch = dict(item for process_predictions in self._gather(predictions) for item in process_predictions)
        return [entry for number in sorted(by_batch) for entry in by_batch[number]]

    def _reports(self, part: Split) -> Iterator[tuple[int, Report, int]]:
        batches = evaluation_bar(part.evaluation_batches(), part.num_evaluation_batches(), part.name, self._visible)
        for number, batch, dataset in batches:
            prepared = prepare(batch, dataset)
            yield number, Report(prepared, self._model(prepared)), prepared.get_batch_size()


def write_predictions(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write prediction entries as a JSON list, or as CSV with a header if ``path`` ends in ``.csv``."""
    with atomic_write(path) as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(entries[0]) if entries else [])
            writer.writeheader()
            writer.writerows(entries)
        else:
            json.dump(entries, file)
