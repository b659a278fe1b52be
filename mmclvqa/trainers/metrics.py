"""Metrics over a whole split without keeping its scores.

A metric with ``start()``, ``update(batch, output)`` and ``sums()`` (name to (sum, count)) is added up
batch by batch. Of any other MMF metric only the fields it asks for are kept, on the CPU, and it is
called once at the end as MMF does.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.common.sample import SampleList

from mmclvqa.configuration import ConfigError

Gather = Callable[[Any], list[Any]]
"""Gives every process the objects of all, in the order of ranks."""


class Metrics:
    """The metrics of ``evaluation.metrics`` for one data set at a time.

    Args:
        settings: list of names or ``{type, params}``.
        use_cpu: move a batch and the model's output to the CPU before metrics see them.

    Raises:
        ConfigError: an unknown metric, or ``params`` that it does not take.
    """

    def __init__(self, settings: Sequence[Any] | None, use_cpu: bool = False) -> None:
        self._use_cpu = use_cpu
        self._metrics = dict(_build(setting) for setting in settings or [])
        self.start("", "")

    def start(self, split: str, dataset: str) -> None:
        """Forget all batches; the next ones are of this split and data set."""
        self._split, self._dataset = split, dataset
        self._kept: dict[str, list[Any]] = {}
        self.without_fields: dict[str, list[str]] = {}
        for metric in self._metrics.values():
            if _is_streaming(metric):
                metric.start()

    def update(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        """Take in a prepared batch and the model's output for it.

        A metric whose fields are in neither is left out and noted in :attr:`without_fields`.
        """
        keep: set[str] = set()
        if self._use_cpu:
            fields = {field for metric in self._metrics.values() for field in metric.required_params}
            _move_to_cpu(output, fields)
            _move_to_cpu(batch, fields)
        for name, metric in self._metrics.items():
            absent = [f for f in metric.required_params if f not in batch and f not in output]
            if absent:
                self.without_fields[name] = absent
            elif _is_streaming(metric):
                metric.update(batch, output)
            else:
                keep.update(metric.required_params)
        for field in keep:
            value = output[field] if field in output else batch[field]
            self._kept.setdefault(field, []).append(value.cpu() if isinstance(value, torch.Tensor) else value)

    def values(self, gather: Gather) -> dict[str, float]:
        """``<metric>`` and ``<metric>/<sub>`` over the batches of all processes; call it in every process.

        A sub-name for which no record counts has 0.
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
                value = metric._calculate_with_checks(combined, combined)
                values[name] = float(torch.as_tensor(value, dtype=torch.float).mean())
        return values

    def _combined(self, gather: Gather) -> SampleList | None:
        if all(_is_streaming(metric) for metric in self._metrics.values()):
            return None
        parts = [part for part in gather(self._kept) if part]
        if not parts:
            return None
        combined = SampleList()
        for field in parts[0]:
            combined[field] = _joined([batch for part in parts for batch in part[field]])
            if isinstance(combined[field], torch.Tensor) and combined._get_tensor_field() is None:
                combined._set_tensor_field(field)
        combined.dataset_type, combined.dataset_name = self._split, self._dataset
        return combined


def _move_to_cpu(mapping: Any, fields: Iterable[str]) -> None:
    for field in fields:
        if isinstance(mapping.get(field), torch.Tensor):
            mapping[field] = mapping[field].cpu()


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
    entry = {"type": setting} if isinstance(setting, str) else setting
    name, params = entry.get("type"), entry.get("params") or {}
    known = registry.mapping["metric_name_mapping"]
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"evaluation.metrics: no metric named {name!r}{hint}")
    try:
        return name, known[name](**params)
    except TypeError as error:
        raise ConfigError(f"evaluation.metrics: params of {name}: {error}") from None
