"""Runs models over val splits: each checkpoint is loaded once and each split read once, whatever their number.

A batch is loaded and prepared once and goes through all models that are to be evaluated on it, so all of them are in
memory together (six of the published size: 2.2 GB).
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.common.report import Report
from mmf.utils.build import build_config, build_model
from mmf.utils.configuration import Configuration
from omegaconf import DictConfig, open_dict, read_write
from torch import Tensor, nn
from tqdm import tqdm

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.experiments import MODEL
from mmclvqa.clove.tasks import Task
from mmclvqa.evaluation.setup import Setup
from mmclvqa.trainers.checkpoint_files import load_weights, read_checkpoint
from mmclvqa.trainers.devices import build_accelerator, register_device
from mmclvqa.trainers.evaluation import evaluating, prepare
from mmclvqa.trainers.loaders import Split, build_split
from mmclvqa.trainers.metrics import Metrics
from mmclvqa.trainers.progress import evaluation_bar, on_terminal
from mmclvqa.trainers.random_state import random_state_kept, seed_all
from mmclvqa.trainers.results import Evaluation

SPLIT = "val"
DATASET = "clvqa"


class Engine:
    """Evaluates checkpoints on tasks, one task at a time.

    Args:
        setup: configuration, words and device.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._networks: dict[Path, nn.Module] = {}
        self._updates: dict[Path, int | None] = {}
        self._untrained: nn.Module | None = None
        self._accelerator: Any = None
        self._writer = _Warnings()

    def evaluate(self, tested: Task, checkpoints: Mapping[str, Path]) -> dict[str, Evaluation]:
        """Evaluate checkpoints on a task's val split.

        Args:
            tested: the task.
            checkpoints: files by a name of the caller's.

        Returns:
            Metrics, loss and records by that name; ``seconds`` is each one's equal share of the time.

        Raises:
            CloveError: a configuration, the data or a checkpoint cannot be used.
        """
        with _own_registry(self._writer), random_state_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            start = time.monotonic()
            config = self._configure(tested)
            split = build_split(SPLIT, config, config.training.seed)
            # read_split has refused an empty file, so there are records.
            networks = {path: self._network(path, config) for path in dict.fromkeys(checkpoints.values())}
            tallies = {path: _Tally(config) for path in networks}
            self._run(split, networks, tallies, tested.name)
            seconds = (time.monotonic() - start) / len(networks)
            return {
                name: tallies[path].evaluation(path, self._updates[path], seconds) for name, path in checkpoints.items()
            }

    def _configure(self, tested: Task) -> DictConfig:
        words = [
            f"config={self._setup.config_file(tested)}",
            f"model={MODEL}",
            f"dataset={DATASET}",
            f"run_type={SPLIT}",
            f"training.device={self._device()}",
            *self._setup.words,
        ]
        configuration = Configuration(argparse.Namespace(opts=words, config_override=None))
        config = configuration.get_config()
        if config.training.seed is None or config.training.seed < 0:
            config.training.seed = 0  # nothing that is evaluated here is drawn at random
        registry.register("seed", config.training.seed)
        config = build_config(configuration)
        if self._accelerator is None:
            self._accelerator = build_accelerator(config.training)
        register_device(self._accelerator)
        return config

    def _device(self) -> str:
        """The device to evaluate on: the CPU where there is no GPU, as with the published tool.

        Raises:
            DataError: there are GPUs, but not that one.
        """
        kind, _, number = self._setup.device.partition(":")
        if kind != "cuda":
            return kind
        if not torch.cuda.is_available():
            self._writer.write("no GPU can be used here, so the evaluation runs on the CPU", "warning")
            return "cpu"
        if number and int(number) >= torch.cuda.device_count():
            raise DataError(f"device {self._setup.device}: there are {torch.cuda.device_count()} GPUs, counted from 0")
        return self._setup.device

    def _network(self, path: Path, config: DictConfig) -> nn.Module:
        if path not in self._networks:
            if self._untrained is None:
                seed_all(config.training.seed)
                attributes = config.model_config[MODEL]
                with read_write(config), open_dict(attributes):
                    attributes.model = MODEL
                self._untrained = build_model(attributes)
            state = read_checkpoint(path)
            network = copy.deepcopy(self._untrained)
            load_weights(network, state["model"], path)
            network = network.to(self._accelerator.device)
            self._updates[path] = state.get("num_updates")
            self._networks[path] = self._accelerator.prepare_model(network, evaluation_mode=True)
        return self._networks[path]

    def _run(self, split: Split, networks: Mapping[Path, nn.Module], tallies: Mapping[Path, _Tally], name: str) -> None:
        total = split.num_evaluation_batches()
        with ExitStack() as stack:
            for network in networks.values():
                stack.enter_context(evaluating(network))
            for _, batch, dataset in evaluation_bar(split.evaluation_batches(), total, name, on_terminal()):
                prepared = prepare(batch, dataset)
                for path, network in networks.items():
                    tallies[path].add(Report(prepared, network(prepared)), prepared.get_batch_size())


class _Tally:
    """Metrics and losses of one model on one split, added up batch by batch."""

    def __init__(self, config: DictConfig) -> None:
        self._metrics = Metrics(config.evaluation.metrics)
        self._metrics.start(SPLIT, DATASET)
        self._losses: dict[str, float | Tensor] = {}
        self._records = 0

    def add(self, report: Report, size: int) -> None:
        self._records += size
        for key, loss in (report.get("losses") or {}).items():
            self._losses[key] = self._losses.get(key, 0.0) + loss.mean() * size
        self._metrics.update(report, report)

    def evaluation(self, path: Path, update: int | None, seconds: float) -> Evaluation:
        losses = {key: float(loss) / self._records for key, loss in self._losses.items()}
        return Evaluation(
            split=SPLIT,
            dataset=DATASET,
            update=update,
            weights=str(path),
            metrics=self._metrics.values(lambda value: [value]),
            losses=losses,
            loss=sum(losses.values()) if losses else None,
            records=self._records,
            seconds=seconds,
        )


class _Warnings:
    """Stands where MMF's logger would: says each warning once and keeps the rest to itself.

    MMF's own adds handlers to Python's logging whenever one is made, and wants a folder for its files.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def write(self, text: Any, level: str = "info", *args: Any, **kwargs: Any) -> None:
        if level in ("warning", "error") and str(text) not in self._said:
            self._said.add(str(text))
            tqdm.write(f"{level}: {text}", file=sys.stderr)


@contextmanager
def _own_registry(writer: _Warnings) -> Iterator[None]:
    """MMF's data sets and models read what is registered; what a caller had registered is put back."""
    names = ("writer", "config", "configuration", "seed")
    before = {name: registry.get(name, no_warning=True) for name in names}
    registry.register("writer", writer)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                registry.unregister(name)
            else:
                registry.register(name, value)
