"""Evaluates checkpoints on val splits: each checkpoint is loaded once and each split is read once.

Each batch is loaded and prepared once and passed through all models that are evaluated on it. The models are in
memory together: six of the published size take 2.2 GB.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.common.report import Report
from mmf.utils.build import build_config, build_model
from omegaconf import DictConfig, open_dict, read_write
from torch import nn
from tqdm import tqdm

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.records import check_record
from mmclvqa.clove.tasks import Task
from mmclvqa.evaluation.sweep import DATASET, SPLIT, EvaluationConfig
from mmclvqa.random_state import random_state_kept, seed_all
from mmclvqa.training.checkpoints import load_weights, read_checkpoint
from mmclvqa.training.distributed import build_accelerator, register_device
from mmclvqa.training.evaluation import Evaluation, Evaluator, Metrics, Tally, evaluating
from mmclvqa.training.loading import Split, build_split, prepare
from mmclvqa.training.progress import evaluation_bar, on_terminal


class Engine:
    """Evaluates checkpoints on one task at a time and keeps the loaded models."""

    def __init__(self, evaluation: EvaluationConfig) -> None:
        self._evaluation = evaluation
        self._models: dict[Path, nn.Module] = {}
        self._updates: dict[Path, int | None] = {}
        self._untrained: nn.Module | None = None
        self._accelerator: Any = None
        self._writer = _WarningWriter()

    def evaluate(self, tested: Task, checkpoints: Mapping[str, Path]) -> dict[str, Evaluation]:
        """Evaluate checkpoints, given by a key of the caller's choice, on a task's val split.

        Returns:
            Metrics, loss and number of records by that key; ``seconds`` is an equal share of the total time.

        Raises:
            CloveError: a configuration, the data or a checkpoint cannot be used.
        """
        with self._running():
            start = time.monotonic()
            config = self._configure(tested)
            split = build_split(SPLIT, config, config.training.seed)
            models = {path: self._model(path, config) for path in dict.fromkeys(checkpoints.values())}
            tallies = {path: Tally(Metrics(config.evaluation.metrics), SPLIT, DATASET) for path in models}
            self._run(split, models, tallies, tested.name)
            seconds = (time.monotonic() - start) / len(models)
            results = {path: tally.evaluation(lambda value: [value], seconds) for path, tally in tallies.items()}
            for path, result in results.items():
                result.weights, result.update = str(path), self._updates[path]
            return {key: results[path] for key, path in checkpoints.items()}

    def answers(self, task: Task, checkpoint: Path, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer questions about images of the data root with one checkpoint.

        Args:
            task: the task whose configuration (processors, features) is used.
            records: questions as records of the data set, which need no answers; see ``docs/data.md``.

        Returns:
            MMF's prediction entry of each record: ``question_id``, ``image_id``, ``answer`` and ``pred_source``, which
            says of each word whether it is of the vocabulary (``VOCAB``) or a copied OCR token (``OCR``).

        Raises:
            CloveError: a configuration, the data, a record or the checkpoint cannot be used.
        """
        for number, record in enumerate(records):
            check_record(record, f"record {number}")
        with self._running():
            config = self._configure(task)
            dataset = build_split(SPLIT, config, config.training.seed).datasets[0].with_records(list(records))
            split = Split(SPLIT, [dataset], config.training, config.training.seed)
            evaluator = Evaluator(self._model(checkpoint, config), Metrics([]), lambda value: [value], is_main=False)
            return evaluator.predictions(split)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Restore the caller's registry and random state on exit, and hide MMF's warnings about deprecated calls."""
        with _own_registry(self._writer), random_state_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield

    def _configure(self, tested: Task) -> DictConfig:
        configuration = self._evaluation.configuration(tested, self._device())
        config = configuration.get_config()
        if config.training.seed is None or config.training.seed < 0:
            config.training.seed = 0  # evaluation draws nothing at random
        registry.register("seed", config.training.seed)
        config = build_config(configuration)
        if self._accelerator is None:
            self._accelerator = build_accelerator(config.training)
        register_device(self._accelerator)
        return config

    def _device(self) -> str:
        """Return the device to evaluate on: the CPU where there is no GPU, as the published tool does.

        Raises:
            DataError: there are GPUs, but none of that number.
        """
        device = self._evaluation.device
        kind, _, number = device.partition(":")
        if kind != "cuda":
            return kind
        if not torch.cuda.is_available():
            self._writer.write("no GPU is available, so the evaluation runs on the CPU", "warning")
            return "cpu"
        if number and int(number) >= torch.cuda.device_count():
            raise DataError(f"device {device}: there are {torch.cuda.device_count()} GPUs, counted from 0")
        return device

    def _model(self, path: Path, config: DictConfig) -> nn.Module:
        if path not in self._models:
            if self._untrained is None:
                seed_all(config.training.seed)
                name = self._evaluation.model
                attributes = config.model_config[name]
                with read_write(config), open_dict(attributes):
                    attributes.model = name
                self._untrained = build_model(attributes)
            state = read_checkpoint(path)
            model = copy.deepcopy(self._untrained)
            load_weights(model, state["model"], path)
            model = model.to(self._accelerator.device)
            self._updates[path] = state.get("num_updates")
            self._models[path] = self._accelerator.prepare_model(model, evaluation_mode=True)
        return self._models[path]

    def _run(self, split: Split, models: Mapping[Path, nn.Module], tallies: Mapping[Path, Tally], name: str) -> None:
        total = split.num_evaluation_batches()
        with ExitStack() as stack:
            for model in models.values():
                stack.enter_context(evaluating(model))
            for _, batch, dataset in evaluation_bar(split.evaluation_batches(), total, name, on_terminal()):
                prepared = prepare(batch, dataset)
                for path, model in models.items():
                    tallies[path].add(Report(prepared, model(prepared)), prepared.get_batch_size())


class _WarningWriter:
    """Replaces MMF's logger: prints each warning once and drops everything else.

    MMF's logger adds handlers to Python's logging every time one is created, and needs a folder for its files.
    """

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def write(self, text: Any, level: str = "info", *args: Any, **kwargs: Any) -> None:
        if level in ("warning", "error") and str(text) not in self._printed:
            self._printed.add(str(text))
            tqdm.write(f"{level}: {text}", file=sys.stderr)


@contextmanager
def _own_registry(writer: _WarningWriter) -> Iterator[None]:
    """Restore what a caller has in MMF's registry, which data sets and models read, on exit."""
    names = ("writer", "config", "configuration", "seed")
    saved_entries = {name: registry.get(name, no_warning=True) for name in names}
    registry.register("writer", writer)
    try:
        yield
    finally:
        for name, value in saved_entries.items():
            if value is None:
                registry.unregister(name)
            else:
                registry.register(name, value)
