"""MMF's trainer ``mmf``: the training loop.

Other trainers subclass :class:`MMFTrainer` and override a step of it: ``make_optimizer``,
``compute_loss`` (add a penalty), ``on_gradients`` (change gradients before clipping), ``clip_gradients`` (change them
after it), ``on_train_end`` (leave something for the next task). What needs no subclass is a callback
(:mod:`mmclvqa.trainers.callbacks`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.common.report import Report
from mmf.common.sample import SampleList
from torch import Tensor

from mmclvqa.configuration import ConfigError
from mmclvqa.continual.stored import write_random_replays
from mmclvqa.trainers.base import BaseTrainer, all_values
from mmclvqa.trainers.checkpoint_files import load_weights, read_checkpoint
from mmclvqa.trainers.devices import gather
from mmclvqa.trainers.errors import TrainingError
from mmclvqa.trainers.evaluation import evaluating, prepare
from mmclvqa.trainers.loss_meter import LossMeter
from mmclvqa.trainers.optimization import build_optimizer, build_scheduler
from mmclvqa.trainers.progress import Progress, clock, on_terminal
from mmclvqa.trainers.random_state import random_state_kept
from mmclvqa.trainers.resume import restore_random_state, run_state
from mmclvqa.trainers.tensorboard import TensorBoard


@registry.register_trainer("mmf")
class MMFTrainer(BaseTrainer):
    """Trains, keeps the best weights, writes ``<model>_final.pth``, then evaluates as ``run_type`` says.

    Used as MMF uses trainers: ``trainer = MMFTrainer(config); trainer.load(); trainer.train()``.
    """

    # ----------------------------------------------------------- steps that subclasses override

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of ``config.optimizer`` on the parameter groups of ``self.network``."""
        return build_optimizer(self.network, self.config)

    def compute_loss(self, report: Report) -> Tensor:
        """The loss of one batch, a 0-dim tensor: the sum of the model's losses.

        Args:
            report: the prepared batch and the model's output in one mapping.

        Raises:
            ConfigError: the model gave no losses.
        """
        losses = report.get("losses")
        if not losses:
            raise ConfigError(
                f"model {self.config.model} gives no loss for {report.dataset_name}: "
                f"name one in model_config.{self.config.model}.losses"
            )
        return sum(loss.mean() for loss in losses.values())

    def on_gradients(self) -> None:
        """The update's gradients are complete and not clipped yet; they may be changed in place."""
        self.callbacks("on_gradients", self)

    def clip_gradients(self) -> Tensor | None:
        """Clip the update's gradients in place; the optimizer steps on what this leaves.

        Returns:
            Their L2 norm before clipping, 0-dim; None where ``training`` asks for no clipping.
        """
        limit = self.clipping_norm
        return None if limit is None else torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)

    def on_train_end(self) -> None:
        """The final weights are in ``self.network``; their file is written after this."""
        self.callbacks("on_train_end", self)

    # ---------------------------------------------------------------------------------- parts

    def make_training_parts(self) -> None:
        """Optimizer, schedule, and the length of the run."""
        training = self.training
        if training.clip_gradients and training.clip_norm_mode != "all":
            raise ConfigError(f"training.clip_norm_mode={training.clip_norm_mode}: only all is supported")
        optimizer = self.make_optimizer()
        # The schedule steps once per update, so it is not handed to accelerate, which would step it once
        # for each process.
        self.scheduler = build_scheduler(optimizer, self.config)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self._frequency = training.update_frequency
        if not isinstance(self._frequency, int) or self._frequency < 1:
            raise ConfigError(
                f"training.update_frequency={self._frequency}: it must be a whole number of at least 1"
            )
        updates_per_epoch = -(-len(self.splits["train"].plan) // self._frequency)
        if training.max_epochs is not None:
            self.max_updates = training.max_epochs * updates_per_epoch
        elif training.max_updates is not None:
            self.max_updates = training.max_updates
        else:
            raise ConfigError("training.max_updates and training.max_epochs are both null: say when to stop")
        self._board = TensorBoard(self.config.env) if training.tensorboard and self.is_main else None

    @property
    def num_updates(self) -> int:
        """Updates made."""
        return self.counts.num_updates

    @property
    def clipping_norm(self) -> float | None:
        """The L2 norm that gradients are clipped to; None for no clipping."""
        return self.training.max_grad_l2_norm if self.training.clip_gradients else None

    @property
    def training_seconds(self) -> float:
        """Seconds of training, evaluations included, over all runs that led here."""
        return self.counts.seconds + time.monotonic() - self._since

    # ----------------------------------------------------------------------------------- loop

    def train(self) -> None:
        """Do all that ``run_type`` says.

        Raises:
            TrainingError: the loss became NaN or infinite.
        """
        if self.optimizer is not None:
            self._train()
        self.inference()
        self.writer.write(f"Finished run; results are in {self.results.path}")

    def _train(self) -> None:
        self._since = time.monotonic()
        self.results.begin_training(self.num_updates)
        batch_size = self.training.batch_size * self._frequency
        for line in (
            *self.describe(),
            f"batch size: {batch_size}, updates: {self.max_updates}, seed: {self.seed}",
            "Starting training...",
        ):
            self.writer.write(line)
        if self.is_main:
            for file in self.files.remove_leftovers():
                self.writer.write(f"removed {file}, half written by a run that was killed")
        self.network.train()
        self._meter = LossMeter(self.accelerator.device)
        with random_state_kept():
            self.callbacks("on_train_start", self)
        restore_random_state(self)
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
        """One optimizer step on ``len(weights)`` batches."""
        for number, weight in enumerate(weights, 1):
            # Processes exchange gradients once, with the update's last batch.
            last = number == len(weights)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                self._train_on(*next(batches), weight)
        self.accelerator.unscale_gradients(self.optimizer)
        self.on_gradients()
        norm = self.clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler:
            self.scheduler.step()
        self.counts.num_updates += 1
        # With fp16 an infinite gradient is usual: the scaler leaves that step out.
        watched = None if self.training.precision == "fp16" else norm
        self._progress.advance(self._meter.end_update(self.num_updates, watched))

    def _train_on(self, batch: SampleList, dataset: Any, weight: float) -> None:
        self._batch = prepare(batch, dataset)
        report = Report(self._batch, self.model(self._batch))
        loss = self.compute_loss(report)
        self.accelerator.backward(loss * weight)
        self._meter.add(report.get("losses") or {}, loss, weight)

    def _after_update(self) -> None:
        registry.register("num_updates", self.num_updates)
        registry.register("current_iteration", self.num_updates)
        if self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1:
            # Costs nothing here; elsewhere it waits for the next log line.
            self._meter.check(gather)
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
        self._meter.check(gather)
        values = self._meter.averages(gather)
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
        """The metrics on the last training batch, answered as in evaluation."""
        dataset = self._batch.dataset_name
        self.metrics.start("train", dataset)
        with evaluating(self.network):
            report = Report(self._batch, self.network(self._batch))
            self.metrics.update(report, report)
        return {f"train/{dataset}/{name}": value for name, value in self.metrics.values(gather).items()}

    # --------------------------------------------------------------- evaluation and checkpoints

    def _validate(self, numbered: bool = False) -> None:
        self._meter.check(gather)
        self.writer.write("Evaluation time. Running on full validation set...")
        evaluations = self.evaluate("val")
        self.counts.evaluated_at = self.num_updates
        values = all_values(evaluations)
        best = self.early_stopping.update(self.num_updates, values)
        self.record(evaluations)
        stopping = self.early_stopping
        best_value = "none" if stopping.best_value is None else f"{stopping.best_value:.6f}"
        self.log_evaluations(
            f"{self.num_updates}/{self.max_updates}",
            evaluations,
            **{"best_update": stopping.best_update, f"best_{stopping.criteria}": best_value},
        )
        if self._board:
            self._board.add(values, self.num_updates)
        self.callbacks("on_validation_end", self, evaluations)
        self.save(best=best, numbered=numbered)
        if stopping.stopped:
            self.writer.write(f"Early stopping: no improvement since update {stopping.best_update}")
        interval = self.training.evaluation_interval
        remaining = (self.max_updates - self.num_updates) // interval if interval else 0
        self._progress.pause(sum(evaluation.seconds for evaluation in evaluations), remaining)

    def save(self, best: bool = False, numbered: bool = False) -> None:
        """Write checkpoints of this moment; every process must call it.

        Raises:
            TrainingError: the weights are not finite; nothing is written then.
        """
        self._meter.check(gather)
        norm = torch.nn.utils.get_total_norm([p.detach() for p in self.network.parameters()])
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the weights are NaN or infinite after update {self.num_updates}; "
                "no checkpoint was written; try a lower learning rate"
            )
        state = run_state(self)
        if self.is_main:
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
        """The best weights become the final ones, whether or not early stopping is enabled."""
        self.accelerator.wait_for_everyone()
        self.final_update = self._restore_best()
        self.network.eval()
        self.on_train_end()
        if self.is_main:
            write_random_replays(self.config, self.files.folder)
            self.files.write_final(self.network)
            self.results.run["training"] = {
                "updates": self.num_updates,
                "best_update": self.final_update,
                "best_value": self.early_stopping.best_value,
                "seconds": round(self.training_seconds, 1),
            }
            self.results.write()
            taken = clock(self.training_seconds)
            self.writer.write(f"{self.num_updates} updates in {taken}; weights are in {self.files.final}")
        self.accelerator.wait_for_everyone()

    def _restore_best(self) -> int:
        """Load the best weights where the criteria was ever a number; returns the updates they have seen."""
        best = self.early_stopping.best_update
        if self.early_stopping.best_value is None or best == self.num_updates:
            return self.num_updates
        state = read_checkpoint(self.files.best) if self.files.best.exists() else {}
        if state.get("num_updates") != best:
            self._warn(f"{self.files.best} is not of update {best}: the last weights become the final ones")
            return self.num_updates
        self.writer.write(f"Restoring the best weights (update {best})")
        load_weights(self.network, state["model"], self.files.best)
        return best
