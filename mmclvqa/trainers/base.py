"""What comes before and after the training loop: data sets, model and weights; evaluation and predictions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmf.common.registry import registry
from mmf.utils.build import build_model
from mmf.utils.general import ckpt_name_from_core_args
from mmf.utils.logger import Logger
from omegaconf import OmegaConf, open_dict, read_write

from mmclvqa.clove.files import atomic_write
from mmclvqa.configuration import ConfigError
from mmclvqa.trainers.callbacks import Callbacks
from mmclvqa.trainers.checkpoint import CheckpointFiles
from mmclvqa.trainers.devices import build_accelerator, describe_device, gather, register_device
from mmclvqa.trainers.early_stopping import EarlyStopping
from mmclvqa.trainers.evaluation import Evaluator
from mmclvqa.trainers.loaders import Split, build_split
from mmclvqa.trainers.metrics import Metrics
from mmclvqa.trainers.random_state import seed_all
from mmclvqa.trainers.results import TRAINING, Evaluation, Results
from mmclvqa.trainers.resume import load_start
from mmclvqa.trainers.start import choose_start

TRAIN_WORD = "train"
SPLIT_OF_WORD = {"val": "val", "test": "test", "inference": "test", "predict": "test"}
"""Words of ``run_type`` that evaluate, and the split each means."""
PREDICTION_FORMATS = ("json", "csv")


@dataclass
class Counts:
    """How far training is.

    Attributes:
        num_updates: optimizer steps made.
        epoch: the running epoch, from 1.
        batch: batches of it that were used.
        evaluated_at: updates made when the val split was last evaluated; -1 for never.
        seconds: of training before this process took over.
    """

    num_updates: int = 0
    epoch: int = 1
    batch: int = 0
    evaluated_at: int = -1
    seconds: float = 0.0


class BaseTrainer:
    """Loads what ``config`` describes, evaluates it and writes predictions.

    Attributes:
        config: the whole configuration; ``training`` is its block of that name.
        network: the model itself, on the device.
        model: the model as the loop calls it (wrapped when there are several processes).
        splits: the splits that ``run_type`` needs, by name.
        accelerator: device, precision, processes.
        counts: how far training is.
        seed: of the run.
        writer: MMF's logger.
        trains: whether ``run_type`` has training in it.
        random_state: to be put in place when training goes on.
        final_update: updates that the final weights have seen, once they are chosen.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.training = config.training
        self.counts = Counts()
        self.splits: dict[str, Split] = {}
        self.optimizer: Any = None
        self.scheduler: Any = None
        self.random_state: dict[str, Any] | None = None
        self.final_update: int | None = None
        self.early_stopping = EarlyStopping(self.training.early_stop)
        words = set(config.run_type.split("_"))
        unknown = words - {TRAIN_WORD, *SPLIT_OF_WORD}
        if unknown:
            legal = ", ".join((TRAIN_WORD, *SPLIT_OF_WORD))
            raise ConfigError(f"run_type={config.run_type}: {', '.join(sorted(unknown))} is none of {legal}")
        self.trains = TRAIN_WORD in words
        self._evaluated_splits = list(dict.fromkeys(s for w, s in SPLIT_OF_WORD.items() if w in words))
        if config.evaluation.predict_file_format not in PREDICTION_FORMATS:
            raise ConfigError(
                f"evaluation.predict_file_format={config.evaluation.predict_file_format}: "
                f"legal are {', '.join(PREDICTION_FORMATS)}"
            )

    # ------------------------------------------------------------------------------- loading

    def load(self) -> None:
        """Build data sets, model and optimizer, and load the weights to start from.

        Raises:
            CloveError: something of the configuration, the data or a checkpoint cannot be used.
        """
        self.writer = registry.get("writer", no_warning=True) or Logger(self.config)
        registry.register("writer", self.writer)
        self.accelerator = build_accelerator(self.training)
        register_device(self.accelerator)
        # What is quick to check comes before data sets are read.
        self.metrics = Metrics(self.config.evaluation.metrics, self.config.evaluation.use_cpu)
        continual = self.training.CL
        self.callbacks = Callbacks(self.training.callbacks, continual.replay_method if continual.use_replay else None)
        checkpoint = self.config.checkpoint
        self.files = CheckpointFiles(self.config.env.save_dir, self.config.model, checkpoint.max_to_keep)
        self.start = choose_start(checkpoint, self.files, self.trains)
        self.writer.write(self.start.note)
        self._settle_seed()
        self._load_datasets()
        if self.splits:
            self.load_model()
            load_start(self, self.start)
        # The content of a checkpoint is as large as the model and its optimizer state.
        self.start.state = {k: v for k, v in (self.start.state or {}).items() if k == "num_updates"}
        self._save_config()
        self.results = Results(self.files.folder, self._facts())

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    def _settle_seed(self) -> None:
        """One seed for all processes: of the run that is resumed, the configured one, or a fresh one."""
        seed = self.start.seed
        if seed is None:
            seed = self.training.seed
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
        """Build the model, and for training its optimizer and schedule."""
        attributes = self.config.model_config[self.config.model]
        if isinstance(attributes, str):
            attributes = self.config.model_config[attributes]
        with read_write(self.config), open_dict(attributes):
            attributes.model = self.config.model
        # Initial weights depend on the seed alone, not on what the data sets have drawn.
        seed_all(self.seed)
        self.network = build_model(attributes).to(self.accelerator.device)
        seed_all(self.seed + self.accelerator.process_index)
        if self.trains and not self.start.finished:
            self.make_training_parts()
        self.model = self.accelerator.prepare_model(self.network, evaluation_mode=self.optimizer is None)
        if self.training.logger_level == "debug":
            self.writer.write(self.network, "debug")

    def make_training_parts(self) -> None:
        """Make what only training needs (optimizer, schedule)."""
        raise NotImplementedError

    def _save_config(self) -> None:
        path = self.files.folder / "config.yaml"
        if self.is_main and (self.trains or not path.exists()):
            with atomic_write(path) as file:
                file.write(OmegaConf.to_yaml(self.config, resolve=True))

    def _facts(self) -> dict[str, Any]:
        return {
            "experiment": self.training.experiment_name,
            "model": self.config.model,
            "datasets": self.config.datasets,
            "seed": self.seed,
        }

    def describe(self) -> list[str]:
        """Lines for the log: device, precision, records, parameters."""
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

    def inference(self) -> None:
        """Evaluate the splits that ``run_type`` names, or write predictions with ``evaluation.predict``."""
        weights = self._weights_name()
        if self.splits and self.optimizer is None:
            for line in self.describe():
                self.writer.write(line)
            if self.start.path is None:
                self.writer.write("no checkpoint is given: the initial weights are evaluated", "warning")
        for name in self._evaluated_splits:
            if name not in self.splits:
                self.writer.write(f"{name} is left out: no data set has it", "warning")
            elif self.config.evaluation.predict:
                self.predict(name)
            else:
                self.writer.write(f"Starting inference on {name} set")
                evaluations = self.evaluate(name, weights)
                self.record(evaluations)
                self.log_evaluations(f"full {name}", evaluations)

    def evaluate(self, name: str, weights: str = TRAINING) -> list[Evaluation]:
        """Evaluate a split with the present weights: one entry for each data set.

        Args:
            name: of a split that is loaded.
            weights: where the weights come from, as ``results.json`` shall say.
        """
        evaluations = self._evaluator().evaluate(self.splits[name], self._warn)
        for evaluation in evaluations:
            evaluation.weights = weights
            evaluation.update = self._update_of_weights()
        return evaluations

    def predict(self, name: str) -> list[Path]:
        """Write the prediction files of a split; returns their paths."""
        folder = self.config.env.report_dir
        folder = folder or self.files.folder / ckpt_name_from_core_args(self.config) / "reports"
        paths = self._evaluator().predict(
            self.splits[name],
            Path(folder),
            self.training.experiment_name,
            self.config.evaluation.predict_file_format,
        )
        for path in paths:
            self.writer.write(f"Wrote predictions on {name} to {path.absolute()}")
        return paths

    def record(self, evaluations: list[Evaluation]) -> None:
        """Put evaluations into ``results.json``."""
        if self.is_main:
            self.results.add(evaluations)

    def log_evaluations(self, head: str, evaluations: list[Evaluation], **more: Any) -> None:
        """One log line with all values, as MMF's are."""
        values = {key: f"{value:.4f}" for key, value in all_values(evaluations).items()}
        seconds = sum(evaluation.seconds for evaluation in evaluations)
        records = sum(evaluation.records for evaluation in evaluations)
        self.writer.log_progress(
            {"progress": head, **values, "records": records, "seconds": f"{seconds:.1f}", **more}
        )

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


def all_values(evaluations: list[Evaluation]) -> dict[str, float]:
    """Values of all data sets of a split under MMF's keys, with ``<split>/total_loss`` over all records."""
    values = {}
    for evaluation in evaluations:
        values |= evaluation.values()
    with_loss = [e for e in evaluations if e.loss is not None]
    if with_loss:
        records = sum(e.records for e in with_loss)
        values[f"{with_loss[0].split}/total_loss"] = sum(e.loss * e.records for e in with_loss) / records
    return values
