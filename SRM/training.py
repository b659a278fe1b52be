"""Training on one task: epochs over its records and the replays of earlier tasks, with a checkpoint after each."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from mmclvqa.clove.errors import DataError, TrainingError
from mmclvqa.clove.files import atomic_write
from mmclvqa.start_up import prepare_model
from SRM.batches import Batch, plan
from SRM.model import SRMLoss, layout_for, longest_sequence
from SRM.optimizer import Schedule, build_optimizer
from SRM.settings import Settings
from SRM.tokens import IGNORED, Example, Source, Tokens, draw_example, most_tokens

log = logging.getLogger("SRM")

PREPARED = 4
"""Batches that each worker thread prepares in advance."""
COMPARED = 8
"""Examples with which the layout of the batches is chosen."""


class TaskTraining:
    """The training on one task.

    Args:
        settings, accelerator, tokens, epochs: as named.
        sources: the tokenized records and replays.
        model: the language model after the previous task, with embeddings for the tokens of this one.
        name: the task.
        checkpoint: the file of the checkpoint, which is written after each epoch and from which training resumes.
        report: called at each log step with the number of updates and ``loss``, ``qa loss``, ``lm loss`` and ``lr``.
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
        report: Callable[[int, dict[str, float]], object],
    ) -> None:
        self.settings, self.accelerator, self.tokens = settings, accelerator, tokens
        self.sources, self.epochs, self.name = sources, epochs, name
        self.checkpoint, self.report = checkpoint, report
        self.longest = longest_sequence(model, tokens)
        self.model = model
        loss = SRMLoss(model, tokens.weighted_ids(), settings.tokens_weight)
        self.layout = layout_for(loss, tokens, self._some_examples(), min(self.longest, max(map(most_tokens, sources))))
        optimizer = build_optimizer(model, settings, fused=accelerator.scaler is None)
        self.loss = prepare_model(accelerator, loss)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        warm_up = settings.n_warmup_ratio * len(sources)
        self.schedule = Schedule(settings.learning_rate, warm_up, len(sources) * epochs, settings.decay_style)
        self.most_examples = max(len(sources) // settings.min_n_steps, settings.min_batch_size)
        # Losses since the last log line, kept on the device so that updates do not synchronize.
        self.logged_losses = torch.zeros(2, device=accelerator.device)
        self.logged_updates = 0

    def run(self) -> None:
        """Train the model in place, from the checkpoint of this task if there is one.

        Raises:
            TrainingError: the loss is not finite.
            DataError: the checkpoint is damaged.
            OSError: the checkpoint cannot be written.
        """
        finished, updates = self._resume()
        self.loss.train()
        scaler, quiet = self.accelerator.scaler, None if self.accelerator.is_main_process else True
        total, initial = (epochs * len(self.sources) for epochs in (self.epochs, finished))
        with tqdm(total=total, initial=initial, unit="example", desc=self.name, disable=quiet) as bar:
            for epoch in range(finished, self.epochs):
                updates = self._epoch(epoch, updates, bar)
                if self.accelerator.is_main_process and epoch + 1 < self.epochs:
                    progress = {"task": self.name, "epoch": epoch + 1, "updates": updates}
                    progress["scale"] = scaler.state_dict() if scaler else None
                    save_checkpoint(self.checkpoint, self.model, self.optimizer.optimizer, progress)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> tuple[int, int]:
        """Load the checkpoint of this task if there is one; return the numbers of finished epochs and of updates."""
        progress = read_progress(self.checkpoint)
        if not progress or progress["task"] != self.name:
            return 0, 0
        load_checkpoint(self.checkpoint, self.model, self.optimizer.optimizer)
        if progress["scale"] is not None:
            self.accelerator.scaler.load_state_dict(progress["scale"])
        log.info(f"task {self.name}: resumes after epoch {progress['epoch']} of {self.epochs}")
        return progress["epoch"], progress["updates"]

    def _epoch(self, epoch: int, updates: int, bar: tqdm) -> int:
        """Train one epoch; return the number of updates so far."""
        settings, accelerator = self.settings, self.accelerator
        examples, batches = self._draw_epoch(epoch)
        # Dropout draws from torch's global generator, which is seeded at the start of every epoch for exact resume.
        torch.manual_seed(settings.named_seed("dropout", self.name, epoch, accelerator.process_index))
        num_examples_seen = epoch * len(self.sources)
        for batch, size in self._prepared(examples, batches):
            rate = self.schedule.rate(num_examples_seen + size / 2)
            num_examples_seen += size
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._update(batch)
            updates += 1
            bar.update(size)
            if updates % settings.logging_steps == 0:
                self._log(epoch, updates, rate)
        self._log(epoch, updates, rate)
        return updates

    def _some_examples(self) -> list[Example]:
        """Draw a few examples, with related and other items if there are such."""
        rng = np.random.default_rng(self.settings.named_seed("layout", self.name))
        sources = [source for source in self.sources if source.related and source.others] or self.sources
        return [draw_example(s, rng, self.settings.n_sg_seq, self.longest, self.tokens.sep) for s in sources[:COMPARED]]

    def _draw_epoch(self, epoch: int) -> tuple[list[Example], list[list[int]]]:
        """Draw the examples of an epoch and assign them to batches."""
        settings = self.settings
        rng = np.random.default_rng(settings.named_seed("examples", self.name, epoch))
        examples = [draw_example(s, rng, settings.n_sg_seq, self.longest, self.tokens.sep) for s in self.sources]
        cut = sum(example.cut for example in examples)
        if cut:
            place = f"task {self.name}, epoch {epoch + 1}"
            log.info(f"{place}: {cut} of {len(examples)} examples are cut to {self.longest} tokens")
        lengths = [self.layout.length(example) for example in examples]
        most_tokens = settings.train_batch_size * self.accelerator.num_processes
        return examples, plan(lengths, self.most_examples, most_tokens, None if settings.debug else rng)

    def _prepared(self, examples: list[Example], batches: list[list[int]]) -> Iterator[tuple[Batch, int]]:
        """Yield this process' share of every batch on its device, and the size of the whole batch in examples."""
        device = self.accelerator.device

        def to_device(batch: Batch) -> Batch:
            return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

        if not self.settings.n_workers:
            yield from ((to_device(self._share(examples, indices)), len(indices)) for indices in batches)
            return
        with ThreadPoolExecutor(self.settings.n_workers) as workers:
            pending: deque[tuple[Future[Batch], int]] = deque()
            remaining = iter(batches)
            for _ in batches:
                while len(pending) < PREPARED * self.settings.n_workers and (indices := next(remaining, None)):
                    pending.append((workers.submit(self._share, examples, indices), len(indices)))
                batch, size = pending.popleft()
                yield to_device(batch.result()), size

    def _share(self, examples: list[Example], indices: list[int]) -> Batch:
        """Return this process' share of a batch; without examples, it is one example outside the loss."""
        local = indices[self.accelerator.process_index :: self.accelerator.num_processes]
        batch = self.layout.batch([examples[index] for index in local or indices[:1]])
        if not local:
            batch["targets"].fill_(IGNORED)
        return batch

    def _update(self, batch: Batch) -> None:
        accelerator = self.accelerator
        sums = self.loss(batch)
        # Means over the batches of all processes, whose gradients are averaged.
        weights = accelerator.reduce(sums[1::2].detach(), "sum").clamp(min=1e-9)
        qa, lm = sums[::2] / weights * accelerator.num_processes
        accelerator.backward(qa + self.settings.lm_lambda * lm)
        accelerator.clip_grad_norm_(self.loss.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.logged_losses += torch.stack([qa.detach(), lm.detach()])
        self.logged_updates += 1

    def _log(self, epoch: int, updates: int, rate: float) -> None:
        """Log the mean losses of all processes since the last log line."""
        if not self.logged_updates:
            return
        qa, lm = (self.accelerator.reduce(self.logged_losses, "mean") / self.logged_updates).tolist()
        self.logged_losses.zero_()
        self.logged_updates = 0
        loss = qa + self.settings.lm_lambda * lm
        if not math.isfinite(loss):
            place = f"task {self.name}: the loss is {loss} near update {updates}"
            raise TrainingError(f"{place}; a smaller --learning_rate or --precision fp32 may help")
        log.info(
            f"task {self.name} epoch {epoch + 1}/{self.epochs} update {updates}: "
            f"loss {loss:.4f} / qa loss {qa:.4f} / lm loss {lm:.4f} / lr {rate:.3g}"
        )
        self.report(updates, {"loss": loss, "qa loss": qa, "lm loss": lm, "lr": rate})


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Write a checkpoint to one safetensors file: trained parameters, the optimizer's tensors, and JSON values.

    Raises:
        OSError: the file cannot be written; an earlier one is kept.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        tensors[f"model/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).contiguous()
    with atomic_write(path, "wb") as file:
        file.write(save(tensors, metadata={"progress": json.dumps(progress)}))


def read_progress(path: Path) -> dict[str, Any] | None:
    """Return the progress stored in a checkpoint, or None if the file does not exist.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["progress"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is not a valid checkpoint ({error}); remove it to begin the task again") from None


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore the parameters and the optimizer state of :func:`save_checkpoint`."""
    with safe_open(path, "pt") as file:
        keys = {name.partition("/")[0] for name in file.keys()}  # noqa: SIM118 (not a dict)
        for name, parameter in _trained(model):
            with torch.no_grad():
                parameter.copy_(file.get_tensor(f"model/{name}"))
            optimizer.state[parameter] = {
                key: file.get_tensor(f"{key}/{name}").to(parameter.device) for key in sorted(keys - {"model"})
            }


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
