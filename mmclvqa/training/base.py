"""The base trainer: sets up data sets, model and weights of a run, evaluates it and writes predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmf.common.registry import registry
from mmf.utils.build import build_model
from mmf.utils.general import ckpt_name_from_core_args
from mmf.utils.logger import Logger
from omegaconf import OmegaConf, open_dict, read_write

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.files import atomic_write
from mmclvqa.configuration import default_config_path, package_defaults
from mmclvqa.methods.base import Method
from mmclvqa.methods.selection import select_methods, selection_warnings
from mmclvqa.random_state import seed_all
from mmclvqa.start_up import prepare_model
from mmclvqa.training.callbacks import Callbacks
from mmclvqa.training.checkpoints import (
    CONFIG_FILE,
    USER_CODE_KEY,
    CheckpointFiles,
    changes_since_start,
    choose_start,
    load_start,
)
from mmclvqa.training.distributed import build_accelerator, describe_device, gather, register_device
from mmclvqa.training.evaluation import TRAINING, Evaluation, Evaluator, Metrics, Results
from mmclvqa.training.loading import Split, build_split
from mmclvqa.training.optimization import EarlyStopping
from mmclvqa.user_code import is_from_user_code, user_code_sha256
from mmclvqa.value_kinds import require_registered

TRAIN_WORD = "train"
SPLIT_OF_WORD = {"val": "val", "test": "test", "inference": "test", "predict": "test"}
"""Parts of ``run_type`` that evaluate a split, and the split."""
PREDICTION_FORMATS = ("json", "csv")


@dataclass
class Counts:
    """The progress of training.

    Attributes:
        num_updates: number of optimizer steps.
        epoch: current epoch, starting from 1.
        batch: number of batches of this epoch that are done.
        evaluated_at: ``num_updates`` at the last evaluation of the val split; -1 if there was none.
        seconds: training time of earlier processes, if the run was resumed.
    """

    num_updates: int = 0
    epoch: int = 1
    batch: int = 0
    evaluated_at: int = -1
    seconds: float = 0.0


class BaseTrainer:
    """Sets up a run, evaluates it and writes predictions.

    Attributes:
        config: the whole configuration; ``training`` is its node of that name.
        network: the bare model, on the device.
        model: the model that the training loop calls; wrapped in DDP if there are several processes.
        splits: the splits that ``run_type`` needs, by name.
        accelerator: device, precision and processes.
        counts: the progress of training.
        methods: the continual-learning methods of the training; empty if nothing is trained.
        seed: seed of the run.
        writer: MMF's logger.
        trains: whether ``run_type`` includes training.
        random_state: random state to restore when training resumes.
        final_update: update of the final weights, once they are chosen.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.training = config.training
        self.counts = Counts()
        self.splits: dict[str, Split] = {}
        self.methods: list[Method] = []
        self.optimizer: Any = None
        self.scheduler: Any = None
        self.random_state: dict[str, Any] | None = None
        self.final_update: int | None = None
        self.early_stopping = EarlyStopping(self.training.early_stop)
        run_types = set(config.run_type.split("_"))
        unknown = run_types - {TRAIN_WORD, *SPLIT_OF_WORD}
        if unknown:
            legal = ", ".join((TRAIN_WORD, *SPLIT_OF_WORD))
            raise ConfigError(f"run_type={config.run_type}: {', '.join(sorted(unknown))} is not one of {legal}")
        self.trains = TRAIN_WORD in run_types
        self._evaluated_splits = list(dict.fromkeys(s for w, s in SPLIT_OF_WORD.items() if w in run_types))
        if config.evaluation.predict_file_format not in PREDICTION_FORMATS:
            raise ConfigError(
                f"evaluation.predict_file_format={config.evaluation.predict_file_format}: "
                f"expected one of: {', '.join(PREDICTION_FORMATS)}"
            )

    # ------------------------------------------------------------------------------- loading

    def load(self) -> None:
        """Build data sets, model and optimizer, and load the initial weights or a checkpoint.

        Raises:
            CloveError: the configuration, the data or a checkpoint is invalid.
        """
        self.writer = registry.get("writer", no_warning=True) or Logger(self.config)
        registry.register("writer", self.writer)
        self.accelerator = build_accelerator(self.training)
        register_device(self.accelerator)
        # Fast checks come before the data sets are read.
        self.metrics = Metrics(self.config.evaluation.metrics, self.config.evaluation.use_cpu)
        self.callbacks = Callbacks(self.training.callbacks)
        checkpoint = self.config.checkpoint
        self.files = CheckpointFiles(self.config.env.save_dir, self.config.model, checkpoint.max_to_keep)
        self.start = choose_start(checkpoint, self.files, self.trains)
        self.writer.write(self.start.note)
        self._warn_of_changes()
        self._settle_seed()
        if self.trains and not self.start.finished:
            self.methods = select_methods(self.config)
            defaults = package_defaults(default_config_path()).training.CL
            for line in selection_warnings(self.config, self.methods, self.start.path is not None, defaults):
                self._warn(line)
        # The data set builder, to which MMF passes only the configuration of the data set, gets replays from them.
        registry.register("continual_methods", self.methods)
        self._load_datasets()
        if self.splits:
            self.load_model()
            load_start(self, self.start)
            if self.optimizer is not None:
                self.start_methods(self.start.state.get("methods", {}) if self.start.is_own_checkpoint else {})
                if "val" in self.splits:
                    self._check_criteria()
        # Frees the checkpoint, which is as large as the model and its optimizer state.
        self.start.state = {k: v for k, v in (self.start.state or {}).items() if k == "num_updates"}
        self._save_config()
        keys = {"experiment": self.training.experiment_name, "model": self.config.model}
        keys |= {"datasets": self.config.datasets, "seed": self.seed}
        user_dir = self.config.env.user_dir
        if self.optimizer is not None and is_from_user_code(user_dir, [*self.methods, self.network]):
            keys[USER_CODE_KEY] = user_code_sha256(user_dir)
        self.results = Results(self.files.folder, keys)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    def _warn_of_changes(self) -> None:
        """Warn if the run in the save folder, which is resumed or finished, was started with other settings."""
        if not self.trains or not (self.start.finished or self.start.is_own_checkpoint):
            return
        changes = changes_since_start(self.files.folder, self.config)
        if changes:
            effect = "optimizer.params stay those of the checkpoint"
            if self.start.finished:
                effect = "they have no effect, because training is finished"
            self._warn(f"settings differ from those this run was started with: {changes}; {effect}")

    def _settle_seed(self) -> None:
        """Set the seed of all processes: that of the resumed run, else the configured one, else a random one."""
        seed = self.training.seed if self.start.seed is None else self.start.seed
        if seed is None:
            seed = int.from_bytes(os.urandom(4), "big")
        self.seed = gather(seed)[0]
        with read_write(self.config):
            self.config.training.seed = self.seed
        registry.register("seed", self.seed)
        seed_all(self.seed)

    def _load_datasets(self) -> None:
        names = list(self._evaluated_splits)
        if self.trains and not self.start.finished:
            names = ["train", "val", *names]
        for name in dict.fromkeys(names):
            rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
            split = build_split(name, self.config, self.seed, rank, world_size)
            if split is None:
                self.writer.write(f"no data set has a {name} split", "warning")
            else:
                self.splits[name] = split
        if self.trains and not self.start.finished and "train" not in self.splits:
            raise ConfigError(f"no data set of {self.config.datasets} has a train split")

    def load_model(self) -> None:
        """Build the model and, for training, its optimizer and schedule."""
        attributes = self.config.model_config[self.config.model]
        with read_write(self.config), open_dict(attributes):
            attributes.model = self.config.model
        _check_losses(f"model_config.{self.config.model}.losses", attributes.get("losses", []))
        # Initial weights depend only on the seed, not on random numbers that the data sets have drawn.
        seed_all(self.seed)
        self.network = build_model(attributes).to(self.accelerator.device)
        seed_all(self.seed + self.accelerator.process_index)
        if self.trains and not self.start.finished:
            self.make_training_parts()
        self.model = prepare_model(self.accelerator, self.network, evaluation_mode=self.optimizer is None)
        if self.training.logger_level == "debug":
            self.writer.write(self.network, "debug")

    def _save_config(self) -> None:
        path = self.files.folder / CONFIG_FILE
        if self.is_main and (self.trains and not self.start.finished or not path.exists()):
            with atomic_write(path) as file:
                file.write(OmegaConf.to_yaml(self.config, resolve=True))

    def describe(self) -> list[str]:
        """Return log lines: device, precision, number of records and parameters."""
        parameters = list(self.network.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        records = (
            f"{name} {', '.join(f'{d.dataset_name} {len(d)}' for d in split.datasets)}"
            for name, split in self.splits.items()
        )
        return [
            f"device: {describe_device(self.accelerator)}, precision: {self.training.precision}",
            f"records: {'; '.join(records)}",
            f"parameters: {sum(p.numel() for p in parameters)}, trained: {trained}",
        ]

    # ---------------------------------------------------------------------------- evaluation

    def _check_criteria(self) -> None:
        """Refuse a criterion of early stopping that is not among the values of the first batches of the val split."""
        names = all_values(self._evaluator().evaluate(self.splits["val"], lambda line: None, most_batches=1))
        criteria = self.early_stopping.criteria
        if criteria.rpartition("/")[0] not in names:  # records of a part of a metric may be in other batches
            self.early_stopping.require_criteria(*names)

    def inference(self) -> None:
        """Evaluate the splits of ``run_type`` or, with ``evaluation.predict``, write predictions."""
        weights = self._weights_name()
        if self.splits and self.optimizer is None:
            for line in self.describe():
                self.writer.write(line)
            if self.start.path is None:
                self.writer.write("no checkpoint is given: the initial weights are evaluated", "warning")
        for name in self._evaluated_splits:
            if name not in self.splits:
                self.writer.write(f"{name} is skipped: no data set has this split", "warning")
            elif self.config.evaluation.predict:
                self.predict(name)
            else:
                self.writer.write(f"Starting inference on {name} set")
                evaluations = self.evaluate_final(name, weights)
                self.record(evaluations)
                self.log_evaluations(f"full {name}", evaluations)

    def evaluate_final(self, name: str, weights: str) -> list[Evaluation]:
        """Evaluate a split with the weights that the run ends with; ``weights`` is their source."""
        return self.evaluate(name, weights)

    def evaluate(self, name: str, weights: str = TRAINING) -> list[Evaluation]:
        """Evaluate a split with the current weights; returns one evaluation per data set.

        Args:
            name: name of a loaded split.
            weights: source of the weights, for ``results.json``.
        """
        evaluations = self._evaluator().evaluate(self.splits[name], self._warn)
        for evaluation in evaluations:
            evaluation.weights = weights
            evaluation.update = self._update_of_weights()
        return evaluations

    def predict(self, name: str) -> list[Path]:
        """Write the prediction files of a split and return their paths."""
        folder = self.config.env.report_dir
        folder = folder or self.files.folder / ckpt_name_from_core_args(self.config) / "reports"
        paths = self._evaluator().predict(
            self.splits[name], Path(folder), self.training.experiment_name, self.config.evaluation.predict_file_format
        )
        for path in paths:
            self.writer.write(f"Wrote predictions on {name} to {path.absolute()}")
        return paths

    def record(self, evaluations: list[Evaluation]) -> None:
        """Add evaluations to ``results.json``."""
        if self.is_main:
            self.results.add(evaluations)

    def log_evaluations(self, head: str, evaluations: list[Evaluation], **more: Any) -> None:
        """Write one log line with all values, in the format of MMF."""
        values = {key: f"{value:.4f}" for key, value in all_values(evaluations).items()}
        seconds = sum(evaluation.seconds for evaluation in evaluations)
        records = sum(evaluation.records for evaluation in evaluations)
        self.writer.log_progress({"progress": head, **values, "records": records, "seconds": f"{seconds:.1f}", **more})

    def _evaluator(self) -> Evaluator:
        return Evaluator(self.network, self.metrics, gather, self.is_main, self.training.verbose_dump)

    def _warn(self, line: str) -> None:
        self.writer.write(line, "warning")

    def _weights_name(self) -> str:
        if self.trains:
            return self.files.final.name
        return str(self.start.path) if self.start.path else "initial weights"

    def _update_of_weights(self) -> int | None:
        if self.optimizer is None:
            return (self.start.state or {}).get("num_updates")
        return self.counts.num_updates if self.final_update is None else self.final_update


def _check_losses(key: str, losses: Any) -> None:
    registered = registry.mapping["loss_name_mapping"]
    for loss in losses if isinstance(losses, Sequence) and not isinstance(losses, str) else [losses]:
        name = loss.get("type") if isinstance(loss, Mapping) else loss
        require_registered(f"{key}={losses}", "loss", name, registered)


def all_values(evaluations: list[Evaluation]) -> dict[str, float]:
    """Return the values of all data sets of a split by MMF's keys, with ``<split>/total_loss`` over all records."""
    values = {}
    for evaluation in evaluations:
        values |= evaluation.values()
    with_loss = [e for e in evaluations if e.loss is not None]
    if with_loss:
        records = sum(e.records for e in with_loss)
        values[f"{with_loss[0].split}/total_loss"] = sum(e.loss * e.records for e in with_loss) / records
    return values
