"""Training on one task: its records and the replays of earlier ones."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from mmclvqa.clove.errors import CloveError
from SRM.batches import Batch, layout_for, plan
from SRM.checkpoint import load_checkpoint, read_progress, save_checkpoint
from SRM.draws import named_seed
from SRM.examples import IGNORED, Drawn, Source, draw
from SRM.model import SRMLoss, longest_sequence
from SRM.optimizer import optimizer_of
from SRM.schedule import Schedule
from SRM.settings import Settings
from SRM.tokens import Tokens

log = logging.getLogger("SRM")

PREPARED = 4
"""Batches that each worker thread prepares ahead."""

Report = Callable[[int, dict[str, float]], None]
"""Told updates so far and what was measured: ``loss``, ``qa loss``, ``lm loss``, ``lr``."""


class DivergedError(CloveError):
    """The loss is no number any more."""


@dataclass
class _Sums:
    """Losses since the last log line, on the device: nothing waits for it between two lines."""

    values: Tensor
    updates: int = 0

    def add(self, qa: Tensor, lm: Tensor) -> None:
        self.values += torch.stack([qa.detach(), lm.detach()])
        self.updates += 1

    def take(self, accelerator: Accelerator) -> tuple[float, float]:
        """Mean question-answer and scene-graph loss of all processes since the last call."""
        qa, lm = (accelerator.reduce(self.values, "mean") / max(1, self.updates)).tolist()
        self.values.zero_()
        self.updates = 0
        return qa, lm


class TaskTraining:
    """The training of one task.

    Args:
        settings: of the run.
        accelerator: devices and arithmetic.
        model: as the task before left it, grown for this one.
        tokens: its tokenizer.
        sources: the examples.
        epochs: passes over them.
        name: the task.
        checkpoint: where the state is kept after each epoch; training goes on from there.
        report: told of losses.
    """

    def __init__(
        self,
        settings: Settings,
        accelerator: Accelerator,
        model: Any,
        tokens: Tokens,
        sources: Sequence[Source],
        epochs: int,
        name: str,
        checkpoint: Path,
        report: Report,
    ) -> None:
        self.settings, self.accelerator, self.tokens = settings, accelerator, tokens
        self.sources, self.epochs, self.name = sources, epochs, name
        self.checkpoint, self.report = checkpoint, report
        self.layout = layout_for(model, tokens)
        self.longest = longest_sequence(model, tokens)
        self.model = model
        loss = SRMLoss(model, tokens.weighted_ids(), settings.tokens_weight)
        optimizer = optimizer_of(model, settings, fused=accelerator.scaler is None)
        self.loss, self.optimizer = accelerator.prepare(loss, optimizer)
        warm_up = settings.n_warmup_ratio * len(sources)
        self.schedule = Schedule(settings.learning_rate, warm_up, len(sources) * epochs, settings.decay_style)
        self.most_examples = max(len(sources) // settings.min_n_steps, settings.min_batch_size)
        self.sums = _Sums(torch.zeros(2, device=accelerator.device))

    def run(self) -> None:
        """Train, or go on where a checkpoint of this task stopped; the model holds the result.

        Raises:
            DivergedError: the loss is no number any more.
            OSError: the checkpoint cannot be written.
        """
        epoch, updates = self._resume()
        self.loss.train()
        bar = tqdm(
            total=self.epochs * len(self.sources),
            initial=epoch * len(self.sources),
            unit="example",
            desc=self.name,
            disable=None if self.accelerator.is_main_process else True,
        )
        while epoch < self.epochs:
            updates = self._epoch(epoch, updates, bar)
            epoch += 1
            if self.accelerator.is_main_process and epoch < self.epochs:
                progress = {"task": self.name, "epoch": epoch, "updates": updates, "scale": self._scale()}
                save_checkpoint(self.checkpoint, self.model, self._optimizer(), progress)
        bar.close()
        self.accelerator.wait_for_everyone()

    def _resume(self) -> tuple[int, int]:
        """Epochs and updates that a checkpoint has behind it."""
        progress = read_progress(self.checkpoint)
        if not progress or progress["task"] != self.name:
            return 0, 0
        load_checkpoint(self.checkpoint, self.model, self._optimizer())
        if progress["scale"] is not None:
            self.accelerator.scaler.load_state_dict(progress["scale"])
        log.info("task %s: continues after epoch %d of %d", self.name, progress["epoch"], self.epochs)
        return progress["epoch"], progress["updates"]

    def _optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer.optimizer

    def _scale(self) -> dict[str, Any] | None:
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler else None

    def _epoch(self, epoch: int, updates: int, bar: tqdm) -> int:
        settings, accelerator = self.settings, self.accelerator
        examples, batches = self.draw_epoch(epoch)
        # Dropout draws from torch's global state, which therefore begins every epoch at a known place.
        torch.manual_seed(named_seed(settings.seed, "dropout", self.name, epoch, accelerator.process_index))
        seen = epoch * len(self.sources)
        for batch, size in self._prepared(examples, batches):
            rate = self.schedule.rate(seen + size / 2)
            seen += size
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._update(batch)
            updates += 1
            bar.update(size)
            if updates % settings.logging_steps == 0:
                self._log(epoch, updates, rate)
        self._log(epoch, updates, rate)
        return updates

    def draw_epoch(self, epoch: int) -> tuple[list[Drawn], list[list[int]]]:
        """Examples of an epoch as drawn, and which of them form which batch."""
        settings = self.settings
        rng = np.random.default_rng(named_seed(settings.seed, "examples", self.name, epoch))
        examples = [draw(s, rng, settings.n_sg_seq, self.longest, self.tokens.sep) for s in self.sources]
        cut = sum(drawn.cut for drawn in examples)
        if cut:
            log.info(
                "task %s, epoch %d: %d of %d examples are cut to %d tokens",
                self.name,
                epoch + 1,
                cut,
                len(examples),
                self.longest,
            )
        lengths = [self.layout.length(drawn) for drawn in examples]
        most_tokens = settings.train_batch_size * self.accelerator.num_processes
        return examples, plan(lengths, self.most_examples, most_tokens, None if settings.debug else rng)

    def _prepared(self, examples: list[Drawn], batches: list[list[int]]) -> Iterator[tuple[Batch, int]]:
        """This process' share of every batch on its device, and how many examples the whole batch has."""
        device = self.accelerator.device

        def ready(indices: list[int]) -> Batch:
            return self._share([examples[i] for i in indices])

        def moved(batch: Batch) -> Batch:
            return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

        if not self.settings.n_workers:
            yield from ((moved(ready(indices)), len(indices)) for indices in batches)
            return
        with ThreadPoolExecutor(self.settings.n_workers) as workers:
            coming: deque[tuple[Future[Batch], int]] = deque()
            waiting = iter(batches)
            for _ in batches:
                while len(coming) < PREPARED * self.settings.n_workers and (indices := next(waiting, None)):
                    coming.append((workers.submit(ready, indices), len(indices)))
                batch, size = coming.popleft()
                yield moved(batch.result()), size

    def _share(self, examples: list[Drawn]) -> Batch:
        """The batch of this process; one with nothing to do gets an example that does not count."""
        world = self.accelerator.num_processes
        own = examples[self.accelerator.process_index :: world]
        batch = self.layout.batch(own or examples[:1])
        if not own:
            batch["targets"].fill_(IGNORED)
        return batch

    def _update(self, batch: Batch) -> None:
        accelerator = self.accelerator
        own = self.loss(batch)
        # Means over the batch of all processes, of whose gradients the average is taken.
        weights = accelerator.reduce(own[1::2].detach(), "sum").clamp(min=1e-9)
        qa, lm = own[::2] / weights * accelerator.num_processes
        accelerator.backward(qa + self.settings.lm_lambda * lm)
        accelerator.clip_grad_norm_(self.loss.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.sums.add(qa, lm)

    def _log(self, epoch: int, updates: int, rate: float) -> None:
        if not self.sums.updates:
            return
        qa, lm = self.sums.take(self.accelerator)
        loss = qa + self.settings.lm_lambda * lm
        if not math.isfinite(loss):
            raise DivergedError(
                f"task {self.name}: the loss is {loss} near update {updates}; "
                f"a smaller --learning_rate or --precision fp32 may help"
            )
        log.info(
            "task %s epoch %d/%d update %d: loss %.4f / qa loss %.4f / lm loss %.4f / lr %.3g",
            self.name,
            epoch + 1,
            self.epochs,
            updates,
            loss,
            qa,
            lm,
            rate,
        )
        self.report(updates, {"loss": loss, "qa loss": qa, "lm loss": lm, "lr": rate})
