"""The training loop: MMF's trainer ``mmf``.

The loop is independent of the continual-learning methods. It calls the hooks of the selected
:class:`~mmclvqa.methods.base.Method` objects, and those of the callbacks (:mod:`mmclvqa.training.callbacks`), which
observe a run without changing it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from accelerate.utils import send_to_device
from mmf.common.registry import registry
from mmf.common.report import Report
from mmf.common.sample import SampleList
from torch import Tensor

from mmclvqa.clove.errors import ConfigError, TrainingError
from mmclvqa.clove.files import locked_folder, write_json
from mmclvqa.clove.text import clock
from mmclvqa.methods.base import Stored
from mmclvqa.random_state import random_state_kept, set_random_state
from mmclvqa.training.base import BaseTrainer, all_values
from mmclvqa.training.checkpoints import load_weights, read_checkpoint, run_state
from mmclvqa.training.distributed import gather
from mmclvqa.training.evaluation import Evaluation, evaluating
from mmclvqa.training.loading import prepare
from mmclvqa.training.optimization import TOTAL, LossMeter, build_optimizer, build_scheduler
from mmclvqa.training.progress import Progress, TensorBoard, on_terminal

STORED = "stored.json"
"""File in the save folder that describes what the methods store of the past, see
:class:`~mmclvqa.methods.base.Stored`."""


# The trainer names of the published configurations; all of them use this loop.
@registry.register_trainer("GEM")
@registry.register_trainer("CL")
@registry.register_trainer("mmf")
class Trainer(BaseTrainer):
    """Trains a model, writes its best weights to ``<model>_final.pth``, and evaluates the splits of ``run_type``.

    The interface is MMF's: ``trainer = Trainer(config); trainer.load(); trainer.train()``.
    """

    # The best validation of this process (if none is the best, the last) and the norm of its weights.
    _validation: tuple[float, list[Evaluation]] | None = None

    # --------------------------------------------------------------------------- interface for methods

    def trained_parameters(self) -> list[Tensor]:
        """Return the parameters that require gradients, in the order of the network."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def prepare(self, batch: SampleList, dataset: Any) -> SampleList:
        """Return a batch on the device, as prepared by its data set."""
        return prepare(batch, dataset)

    def report(self, batch: SampleList) -> Report:
        """Return a prepared batch and the network's output for it in one mapping."""
        return Report(batch, self.network(batch))

    def task_loss(self, report: Report) -> Tensor:
        """Return the loss of a batch, 0-dim: the sum of the model's losses.

        Raises:
            ConfigError: the model returns no losses.
        """
        losses = report.get("losses")
        if not losses:
            raise ConfigError(
                f"model {self.config.model} returns no loss for {report.dataset_name}: "
                f"add one to model_config.{self.config.model}.losses"
            )
        return sum(loss.mean() for loss in losses.values())

    def training_batches(self, batch_size: int | None = None) -> Iterator[SampleList]:
        """Yield this process's share of the training records; see :meth:`Split.in_record_order`."""
        return self.splits["train"].in_record_order(batch_size)

    def dataset_like(self, records: list[dict[str, Any]]) -> Any:
        """Return a data set with the given records and the class, configuration and processors of the training data."""
        return self.splits["train"].datasets[0].with_records(records)

    def gather(self, value: Any) -> list[Any]:
        """Return the (picklable) values of all processes, ordered by rank, in every process."""
        return gather(value)

    def sum_over_processes(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return self.accelerator.reduce(tensor, "sum")

    @property
    def gradient_limit(self) -> float | None:
        """The L2 norm that gradients are clipped to; None if they are not clipped."""
        return self.training.max_grad_l2_norm if self.training.clip_gradients else None

    def clip_gradients(self) -> None:
        """Clip the gradients in place."""
        limit = self.gradient_limit
        if limit is not None:
            self._gradient_norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)

    # ---------------------------------------------------------------------------------- setup

    def make_training_parts(self) -> None:
        """Build optimizer and schedule, and determine the number of updates."""
        training = self.training
        if training.clip_gradients and training.clip_norm_mode != "all":
            raise ConfigError(f"training.clip_norm_mode={training.clip_norm_mode}: only all is supported")
        optimizer = build_optimizer(self.network, self.config)
        # Not prepared by accelerate, which would step the schedule once per process; it must step once per update.
        self.scheduler = build_scheduler(optimizer, self.config)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.losses = LossMeter(self.accelerator.device)
        self._frequency = training.update_frequency
        updates_per_epoch = -(-len(self.splits["train"].plan) // self._frequency)
        if training.max_epochs is not None:
            self.max_updates = training.max_epochs * updates_per_epoch
        elif training.max_updates is not None:
            self.max_updates = training.max_updates
        else:
            raise ConfigError("training.max_updates and training.max_epochs are both null: set one of them")
        self._board = TensorBoard(self.config.env) if training.tensorboard and self.is_main else None

    def start_methods(self, states: dict[str, Any]) -> None:
        """Call ``on_task_start`` of each method, then load its state of a resumed run (``states``: by method name)."""
        with random_state_kept():
            for method in self.methods:
                method.on_task_start(self)
                if method.name in states:
                    method.load_state_dict(send_to_device(states[method.name], self.accelerator.device))

    @property
    def num_updates(self) -> int:
        """Number of updates so far."""
        return self.counts.num_updates

    @property
    def training_seconds(self) -> float:
        """Seconds of training including evaluations, summed over all processes that resumed this run."""
        return self.counts.seconds + time.monotonic() - self._since

    # ----------------------------------------------------------------------------------- loop

    def train(self) -> None:
        """Train and evaluate according to ``run_type``.

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        if self.optimizer is not None:
            with locked_folder(self.files.folder) if self.is_main else contextlib.nullcontext():
                self._train()
        self.inference()
        self.writer.write(f"Finished run; results are in {self.results.path}")

    def _train(self) -> None:
        self._since = time.monotonic()
        self.results.begin_training(self.num_updates)
        batch_size = self.training.batch_size * self._frequency
        sizes = f"batch size: {batch_size}, updates: {self.max_updates}, seed: {self.seed}"
        for line in (*self.describe(), sizes, "Starting training..."):
            self.writer.write(line)
        if self.is_main:
            for file in self.files.remove_leftovers():
                self.writer.write(f"removed {file}, an incomplete file of a run that was killed")
            if not self.start.is_own_checkpoint:
                self.files.start_new_run(self.start.path)
        self.network.train()
        with random_state_kept():
            self.callbacks("on_train_start", self)
        if self.random_state is not None:  # that of a checkpoint, restored directly before training
            set_random_state(self.random_state)
            self.random_state = None
        self._progress = Progress(self.max_updates, self.num_updates, self.is_main and on_terminal())
        with self._progress.running():
            try:
                while not self._is_over():
                    self._run_epoch()
            finally:
                self.splits["train"].close()
            self._last_validation()
        self._finish()

    def _is_over(self) -> bool:
        return self.num_updates >= self.max_updates or self.early_stopping.stopped

    def _run_epoch(self) -> None:
        counts = self.counts
        registry.register("current_epoch", counts.epoch)
        for weights, batches in self.splits["train"].updates(counts.epoch, counts.batch, self._frequency):
            self._update(weights, batches)
            counts.batch += len(weights)
            self._after_update()
            if self._is_over():
                return
        counts.epoch += 1
        counts.batch = 0

    def _update(self, weights: list[float], batches: Iterator[tuple[SampleList, Any]]) -> None:
        """Make one optimizer step on ``len(weights)`` batches."""
        for number, weight in enumerate(weights, 1):
            # Gradients are synchronized between processes only at the last batch of the update.
            is_last_batch = number == len(weights)
            with contextlib.nullcontext() if is_last_batch else self.accelerator.no_sync(self.model):
                self._train_on(*next(batches), weight)
        self.accelerator.unscale_gradients(self.optimizer)
        self._gradient_norm: Tensor | None = None
        for method in self.methods:
            method.on_gradients(self)
        self.callbacks("on_gradients", self)
        if not any(method.clips_gradients for method in self.methods):
            self.clip_gradients()
        self.optimizer.step()
        for method in self.methods:
            method.after_step(self)
        self.optimizer.zero_grad()
        if self.scheduler:
            self.scheduler.step()
        self.counts.num_updates += 1
        # With fp16, infinite gradients are expected: the gradient scaler skips that step.
        norm_to_check = None if self.training.precision == "fp16" else self._gradient_norm
        self._progress.advance(self.losses.end_update(self.num_updates, norm_to_check))

    def _train_on(self, batch: SampleList, dataset: Any, weight: float) -> None:
        self._batch = prepare(batch, dataset)
        report = Report(self._batch, self.model(self._batch))
        loss = self.task_loss(report)
        for method in self.methods:
            loss = method.loss(self, report, loss)
        self.accelerator.backward(loss * weight)
        self.losses.add(report.get("losses") or {}, loss, weight)

    def _after_update(self) -> None:
        registry.register("num_updates", self.num_updates)
        registry.register("current_iteration", self.num_updates)
        if self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1:
            # Free on a single CPU process; otherwise it needs a synchronization and is done at the next log line.
            self.losses.check(gather)
        if self._is_due(self.training.log_interval):
            self._log()
        self.callbacks("on_update_end", self)
        numbered = self._is_due(self.training.checkpoint_interval)
        if "val" in self.splits and self._is_due(self.training.evaluation_interval):
            self._validate(numbered)
        elif numbered:
            self.save(numbered=True)

    def _is_due(self, interval: int | None) -> bool:
        return bool(interval) and self.num_updates % interval == 0

    def _log(self) -> None:
        self.losses.check(gather)
        values = self.losses.averages(gather)
        self.results.add_loss(self.num_updates, values[TOTAL])
        if self.training.evaluate_metrics:
            values |= self._training_metrics()
        rate = self.optimizer.param_groups[0]["lr"]
        line = {
            "progress": f"{self.num_updates}/{self.max_updates}",
            **{key: f"{value:.4f}" for key, value in values.items()},
            "lr": f"{rate:.3g}",
            "epoch": self.counts.epoch,
            **self._progress.speed(self.num_updates),
        }
        if self.accelerator.device.type == "cuda":
            line["max mem"] = f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
        self.writer.log_progress(line)
        if self._board:
            self._board.add(values | {"lr": rate}, self.num_updates)

    def _training_metrics(self) -> dict[str, float]:
        """Return the metrics of the last training batch, decoded as in evaluation."""
        dataset = self._batch.dataset_name
        self.metrics.start("train", dataset)
        with evaluating(self.network):
            report = self.report(self._batch)
            self.metrics.update(report, report)
        return {f"train/{dataset}/{name}": value for name, value in self.metrics.values(gather).items()}

    # --------------------------------------------------------------- evaluation and checkpoints

    def _validate(self, numbered: bool = False) -> None:
        self.losses.check(gather)
        self.writer.write("Evaluation time. Running on full validation set...")
        evaluations = self.evaluate("val")
        self.counts.evaluated_at = self.num_updates
        values = all_values(evaluations)
        best = self.early_stopping.update(self.num_updates, values)
        if best or self.early_stopping.best_value is None:
            self._validation = self._weights_norm(), evaluations
        self.record(evaluations)
        stopping = self.early_stopping
        best_value = "none" if stopping.best_value is None else f"{stopping.best_value:.6f}"
        bests = {"best_update": stopping.best_update, f"best_{stopping.criteria}": best_value}
        self.log_evaluations(f"{self.num_updates}/{self.max_updates}", evaluations, **bests)
        if self._board:
            self._board.add(values, self.num_updates)
        self.callbacks("on_validation_end", self, evaluations)
        self.save(best=best, numbered=numbered)
        if stopping.stopped:
            self.writer.write(f"Early stopping: no improvement since update {stopping.best_update}")
        interval = self.training.evaluation_interval
        remaining = (self.max_updates - self.num_updates) // interval if interval else 0
        self._progress.pause(sum(evaluation.seconds for evaluation in evaluations), remaining)

    def evaluate_final(self, name: str, weights: str) -> list[Evaluation]:
        """Evaluate a split with the final weights; val is not evaluated again if training did it with equal weights."""
        if name != "val" or self._validation is None or self._validation[0] != self._weights_norm():
            return super().evaluate_final(name, weights)
        self.writer.write(f"Reusing the validation of these weights (update {self.final_update})")
        return [replace(evaluation, weights=weights) for evaluation in self._validation[1]]

    def _weights_norm(self) -> float:
        return float(torch.nn.utils.get_total_norm([p.detach() for p in self.network.parameters()]))

    def save(self, best: bool = False, numbered: bool = False) -> None:
        """Write checkpoints of the current state; all processes must call it.

        Raises:
            TrainingError: the weights are not finite; nothing is written.
        """
        self.losses.check(gather)
        if not math.isfinite(self._weights_norm()):
            raise TrainingError(
                f"the weights are NaN or infinite after update {self.num_updates}; "
                "no checkpoint was written; try a lower learning rate"
            )
        state = run_state(self)
        if self.is_main:
            self.results.write()
            self.files.write(state, best, numbered)

    def _last_validation(self) -> None:
        if self.counts.evaluated_at == self.num_updates:
            return
        if "val" in self.splits:
            self.writer.write("Stepping into final validation check")
            self._validate()
        else:
            self.save()

    def _finish(self) -> None:
        """End training with the best weights as the final ones, whether or not early stopping is enabled."""
        self.accelerator.wait_for_everyone()
        self.final_update = self._restore_best()
        self.network.eval()
        self.callbacks("on_train_end", self)
        for method in self.methods:
            method.on_task_end(self)
        if self.is_main:
            self._write_stored()
            self.files.write_final(self.network)
            self.results.run["training"] = {
                "updates": self.num_updates,
                "best_update": self.final_update,
                "best_value": self.early_stopping.best_value,
                "seconds": round(self.training_seconds, 1),
            }
            self.results.write()
            duration = clock(self.training_seconds)
            self.writer.write(f"{self.num_updates} updates in {duration}; weights are in {self.files.final}")
        self.accelerator.wait_for_everyone()

    def _write_stored(self) -> None:
        parts = [part for part in (method.stored() for method in self.methods) if part is not None]
        records, size = sum(part.records for part in parts), sum(part.bytes for part in parts)
        stored = Stored(records, size, "; ".join(part.what for part in parts))
        write_json(self.files.folder / STORED, asdict(stored))

    def _restore_best(self) -> int:
        """Load the best weights if the criterion was ever a number, and return their update."""
        best = self.early_stopping.best_update
        if self.early_stopping.best_value is None or best == self.num_updates:
            return self.num_updates
        state = read_checkpoint(self.files.best) if self.files.best.exists() else {}
        if state.get("num_updates") != best:
            self._warn(f"{self.files.best} does not contain update {best}; the last weights are used as final weights")
            return self.num_updates
        self.writer.write(f"Restoring the best weights (update {best})")
        load_weights(self.network, state["model"], self.files.best)
        return best
