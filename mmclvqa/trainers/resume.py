"""Everything a run needs to go on as if it had not been interrupted: taken from a trainer, given to one."""

from __future__ import annotations

import warnings
from typing import Any

from omegaconf import OmegaConf

from mmclvqa.trainers.checkpoint import git_details
from mmclvqa.trainers.checkpoint_files import load_mapped_weights, load_weights
from mmclvqa.trainers.devices import gather
from mmclvqa.trainers.errors import CheckpointError
from mmclvqa.trainers.optimization import set_learning_rates
from mmclvqa.trainers.random_state import set_random_state, take_random_state
from mmclvqa.trainers.start import Start


def run_state(trainer: Any) -> dict[str, Any]:
    """The content of a checkpoint; every process must call it (each has random generators of its own)."""
    counts, stopping = trainer.counts, trainer.early_stopping
    scaler = trainer.accelerator.scaler
    state = {
        "model": trainer.network.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict() if trainer.scheduler else None,
        "scaler": scaler.state_dict() if scaler else None,
        "num_updates": counts.num_updates,
        "current_epoch": counts.epoch,
        "batch": counts.batch,
        "evaluated_at": counts.evaluated_at,
        "training_seconds": trainer.training_seconds,
        "best_update": stopping.best_update,
        "best_metric_value": stopping.best_value,
        "early_stopping": stopping.state_dict(),
        "callbacks": trainer.callbacks.state_dict(),
        "random_state": gather(take_random_state()),
        "seed": trainer.seed,
        "batch_size": trainer.config.training.batch_size,
        "records": trainer.splits["train"].sizes,
        "config": OmegaConf.to_container(trainer.config, resolve=True),
    }
    if trainer.config.checkpoint.save_git_details:
        state |= git_details()
    return state


def load_start(trainer: Any, start: Start) -> None:
    """Give a trainer what its run starts from.

    Raises:
        CloveError: the file does not fit the model or the optimizer.
    """
    if start.state is None:
        return
    settings = trainer.config.checkpoint
    if settings.resume_pretrained and settings.pretrained_state_mapping and not (start.own or start.finished):
        mapping = dict(settings.pretrained_state_mapping)
        names = load_mapped_weights(trainer.network, start.state["model"], mapping, start.path)
        trainer.writer.write(f"{len(names)} tensors of {start.path} loaded: {', '.join(names)}")
        return
    load_weights(trainer.network, start.state["model"], start.path)
    if not trainer.trains or start.finished or "num_updates" not in start.state:
        return
    # A run that is continued is continued whole; `reset` is about files that the user names.
    reset = settings.reset
    if start.own or not (reset.optimizer or reset.all):
        _load_optimizer(trainer, start)
    if start.own or not (reset.counts or reset.all):
        _load_counts(trainer, start)
    if trainer.scheduler:
        set_learning_rates(trainer.optimizer, trainer.scheduler)
    if start.own:
        trainer.early_stopping.load_state_dict(start.state["early_stopping"])
        without = trainer.callbacks.load_state_dict(start.state["callbacks"])
        if without:
            trainer.writer.write(f"{start.path} has no state of callback {', '.join(without)}", "warning")


def _load_optimizer(trainer: Any, start: Start) -> None:
    state = start.state
    if state.get("optimizer") is None:
        trainer.writer.write(f"{start.path} has no optimizer state; it starts afresh", "warning")
        return
    try:
        trainer.optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{start.path}: its optimizer state does not fit ({' '.join(str(error).split())}); "
            "checkpoint.resume_file with checkpoint.reset.optimizer=true leaves it out"
        ) from None
    if trainer.accelerator.scaler and state.get("scaler"):
        trainer.accelerator.scaler.load_state_dict(state["scaler"])


def _load_counts(trainer: Any, start: Start) -> None:
    state, counts = start.state, trainer.counts
    counts.num_updates = state["num_updates"]
    counts.epoch = state.get("current_epoch", 1)
    counts.evaluated_at = state.get("evaluated_at", -1) if start.own else -1
    counts.seconds = state.get("training_seconds", 0.0)
    counts.batch = _batches_done(trainer, start)
    if trainer.scheduler:
        _load_scheduler(trainer.scheduler, state)
    random_states = state.get("random_state", [])
    if trainer.accelerator.process_index < len(random_states):
        trainer.random_state = random_states[trainer.accelerator.process_index]


def _batches_done(trainer: Any, start: Start) -> int:
    """Batches of the epoch that were used, said in this run's batch size."""
    done, records = start.state.get("batch", 0), trainer.splits["train"].sizes
    if start.state.get("records", records) != records:
        former = start.state["records"]
        trainer.writer.write(f"{start.path}: records were {former} and are {records} now", "warning")
    size = trainer.config.training.batch_size
    former = start.state.get("batch_size", size)
    if former != size:
        trainer.writer.write(f"{start.path}: batch_size was {former} and is {size} now", "warning")
    return done * former // size


def _load_scheduler(scheduler: Any, state: dict[str, Any]) -> None:
    if state.get("scheduler"):
        scheduler.load_state_dict(state["scheduler"])
        return
    with warnings.catch_warnings():
        # torch warns about a schedule that goes on before the optimizer does; here it catches up.
        warnings.simplefilter("ignore")
        for _ in range(state["num_updates"]):
            scheduler.step()


def restore_random_state(trainer: Any) -> None:
    """Put the checkpoint's random state in place, as the last thing before training goes on."""
    if trainer.random_state is not None:
        set_random_state(trainer.random_state)
        trainer.random_state = None
