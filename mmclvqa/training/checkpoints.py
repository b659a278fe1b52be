"""Checkpoints: writes the files of a run, reads untrusted files safely, and restores the state of a run.

A run writes ``current.ckpt``, ``best.ckpt``, ``models/model_<update>.ckpt`` and the final weights. All are written to a
temporary file that is then renamed, and contain only tensors and plain values.
"""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mmclvqa.clove.errors import ConfigError, DataError
from mmclvqa.clove.experiment_paths import RESULTS_FILE
from mmclvqa.clove.files import atomic_write, read_yaml
from mmclvqa.clove.text import first_of, one_line, suggestion
from mmclvqa.models.checkpoint_format import check_fits, without_position_ids
from mmclvqa.published_configs import leaves
from mmclvqa.random_state import take_random_state
from mmclvqa.training.distributed import gather
from mmclvqa.training.optimization import set_learning_rates
from mmclvqa.user_code import user_code_sha256
from mmclvqa.value_kinds import matches_any

NUMBERED_FOLDER = "models"
CONFIG_FILE = "config.yaml"
"""The complete configuration of a run, in its folder."""
USER_CODE_KEY = "user_code_sha256"
"""Hash of the user's code, in the results of a run whose method or model is part of it."""
# Groups of the configuration whose values are compared when a run is resumed.
SETTING_GROUPS = ("training.", "optimizer.", "scheduler.", "model_config.", "dataset_config.")
WITHOUT_EFFECT_ON_WEIGHTS = (
    *("training.seed", "training.experiment_name", "training.device", "training.num_workers", "training.pin_memory"),
    *("training.*_interval", "training.log*", "training.callbacks*", "training.tensorboard", "training.should_not_log"),
    *("training.stdout_capture", "training.verbose_dump", "training.evaluate_metrics", "training.eval_batch_size"),
)
"""Settings that a resumed run may change silently; a seed may have been drawn at random."""
LISTED_CHANGES = 5
"""Number of changed settings that a message lists."""

# Name that atomic_write gives to a checkpoint until it is complete.
_LEFTOVER = re.compile(r"\..+\.(?:ckpt|pth|safetensors)\.\w+\.tmp")
_PLAIN = (bool, int, float, str, bytes, type(None))


class CheckpointFiles:
    """The checkpoint files of one run.

    Args:
        save_dir: ``env.save_dir``.
        model_name: ``config.model``; the final weights are ``<model_name>_final.pth``.
        max_to_keep: number of numbered checkpoints to keep (the newest); 0 writes none, a negative number keeps all.
    """

    def __init__(self, save_dir: str | Path, model_name: str, max_to_keep: int = -1) -> None:
        self.folder = Path(save_dir)
        self.current = self.folder / "current.ckpt"
        self.best = self.folder / "best.ckpt"
        self.final = self.folder / f"{model_name}_final.pth"
        self._max_to_keep = max_to_keep
        self._earlier_run: list[Path] = []

    def start_new_run(self, start: Path | None) -> None:
        """Prepare for a run that does not resume one in this folder: its first checkpoint replaces an earlier run.

        Until then the files of the earlier run stay. ``start`` is the file that the new run starts from; it is kept.
        """
        kept = start and start.resolve()
        self._earlier_run = [file for file in (self.final, self.best) if file.resolve() != kept]

    def write(self, state: Mapping[str, Any], best: bool = False, numbered: bool = False) -> None:
        """Write ``state`` as the current checkpoint and, on request, as the best and as a numbered one.

        The current checkpoint is written last, so that the best checkpoint it refers to always exists.

        Raises:
            TypeError: ``state`` contains something other than tensors and plain values (a bug in a callback or method).
            OSError: the folder is not writable; existing files are unchanged.
        """
        require_plain(state, "checkpoint")
        while self._earlier_run:  # otherwise a resumed run would take these for its own
            self._earlier_run.pop().unlink(missing_ok=True)
        if best:
            _save(state, self.best)
        if numbered and self._max_to_keep:
            _save(state, self.folder / NUMBERED_FOLDER / f"model_{state['num_updates']}.ckpt")
            self._prune()
        _save(state, self.current)

    def write_final(self, model: nn.Module) -> None:
        """Write the weights as a plain state dict of contiguous CPU tensors."""
        weights = {
            name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in model.state_dict().items()
        }
        _save(weights, self.final)

    def _prune(self) -> None:
        if self._max_to_keep < 0:
            return
        # By age and not by number, because files of an earlier run in this folder may have higher numbers.
        files = sorted(
            (self.folder / NUMBERED_FOLDER).glob("model_*.ckpt"),
            key=lambda file: (file.stat().st_mtime_ns, int(file.stem.rpartition("_")[2])),
        )
        for file in files[: max(0, len(files) - self._max_to_keep)]:
            file.unlink()

    def remove_leftovers(self) -> list[Path]:
        """Delete incomplete files of a run that was killed while writing, and return their paths."""
        temporary = (*self.folder.glob(".*.tmp"), *(self.folder / NUMBERED_FOLDER).glob(".*.tmp"))
        leftovers = [file for file in temporary if _LEFTOVER.fullmatch(file.name)]
        for file in leftovers:
            file.unlink()
        return leftovers


def require_plain(value: Any, where: str) -> None:
    """Check that ``torch.load(weights_only=True)`` can read ``value``.

    Raises:
        TypeError: it cannot; the message names the position of the first invalid value.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            require_plain(part, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            require_plain(part, f"{where}[{number}]")
    elif type(value) not in _PLAIN and not isinstance(value, Tensor):
        raise TypeError(f"{where} is a {type(value).__name__}; checkpoints take plain values only")


def git_details() -> dict[str, str]:
    """Return the commit and the uncommitted changes of the repository of the working directory, if there is one."""
    commands = {"git/commit_hash": ["rev-parse", "HEAD"], "git/diff": ["diff", "--no-prefix"]}
    details = {}
    for key, arguments in commands.items():
        try:
            # A diff may contain text in any encoding.
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", check=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        details[key] = done.stdout.strip()
    return details


def _save(content: Mapping[str, Any], path: Path) -> None:
    with atomic_write(path, "wb") as file:
        torch.save(content, file)


_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or a plain state dict as ``{"model": ...}``, to the CPU.

    Raises:
        DataError: the file does not exist, is damaged, contains code, or is not a checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for suffix in ("pth", "ckpt") for file in path.glob(f"*.{suffix}"))
        raise DataError(f"checkpoint {path} is a folder{suggestion(list(map(str, files)))}")
    if not path.is_file():
        raise DataError(f"checkpoint {path} does not exist")
    with open(path, "rb") as file, warnings.catch_warnings():
        # torch warns about old and foreign pickles before it reads or rejects them.
        warnings.simplefilter("ignore")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            forbidden = _FORBIDDEN.search(str(error))
            reason = "is damaged; download or create it again"
            if forbidden:
                reason = f"asks for {forbidden.group(1)}, which is not a tensor; it was not loaded"
            raise DataError(f"checkpoint {path} {reason}") from None
        except Exception as error:
            # A truncated or altered file can raise any exception in torch's zip reader.
            message = one_line(error)[:120] or type(error).__name__
            raise DataError(f"checkpoint {path} is damaged ({message}); download or create it again") from None
    if not isinstance(content, Mapping):
        raise DataError(f"checkpoint {path} contains a {type(content).__name__}, not a state dict")
    content = dict(content) if isinstance(content.get("model"), Mapping) else {"model": content}
    # DDP adds a prefix to the names of tensors.
    content["model"] = {str(name).removeprefix("module."): value for name, value in content["model"].items()}
    if not any(isinstance(value, Tensor) for value in content["model"].values()):
        raise DataError(f"checkpoint {path} contains no tensors of a model")
    return content


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Load all weights of a model after checking that all names and shapes match.

    Raises:
        DataError: names or shapes differ; the message lists them.
    """
    state_dict = _formatted(model, state_dict)
    check_fits(model, state_dict, str(source))
    nn.Module.load_state_dict(model, without_position_ids(state_dict), strict=False)


def load_mapped_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], mapping: Mapping[str, str], source: str | Path
) -> list[str]:
    """Load the tensors of some modules (``checkpoint.pretrained_state_mapping``) and return their names in the model.

    ``mapping`` has modules of the model and the module of the file for each; ``source`` names the file in errors.

    Raises:
        DataError: a module of the file has no tensor, or a shape differs.
    """
    own = model.state_dict()
    state_dict = _formatted(model, state_dict)
    tensors_to_load = {}
    for module, source_module in mapping.items():
        names = [name for name in own if name == module or name.startswith(f"{module}.")]
        pairs = {name: source_module + name.removeprefix(module) for name in names}
        tensors = {name: state_dict[other] for name, other in pairs.items() if other in state_dict}
        if not tensors:
            raise DataError(
                f"{source}: checkpoint.pretrained_state_mapping {module}: {source_module} matches no tensor"
            )
        for name, tensor in tensors.items():
            if tensor.shape != own[name].shape:
                raise DataError(
                    f"{source} does not fit the model: {pairs[name]} {tuple(tensor.shape)} "
                    f"for {name} {tuple(own[name].shape)}"
                )
        tensors_to_load.update(tensors)
    nn.Module.load_state_dict(model, tensors_to_load, strict=False)
    return list(tensors_to_load)


def _formatted(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with its names converted by MMF's ``format_state_key``, which handles older names."""
    rename = getattr(model, "format_state_key", str)
    return {rename(name): tensor for name, tensor in state_dict.items()}


@dataclass
class Start:
    """The checkpoint or weights that a run starts from.

    Attributes:
        path: path of the file; None if the run starts from the initial weights.
        state: content of the file, as :func:`read_checkpoint` returns it.
        is_own_checkpoint: whether it is a checkpoint of the same run, which then resumes exactly.
        finished: whether the run is finished; ``path`` is then the file of its final weights.
        note: log line.
    """

    path: Path | None = None
    state: dict[str, Any] | None = None
    is_own_checkpoint: bool = False
    finished: bool = False
    note: str = "starting from the model's initial weights"

    @property
    def seed(self) -> int | None:
        """Seed of the run that is resumed; None if there is none."""
        return self.state.get("seed") if self.is_own_checkpoint and self.state else None


def choose_start(settings: Any, files: CheckpointFiles, trains: bool) -> Start:
    """Find and read the checkpoint that ``checkpoint.resume``, ``resume_best`` and ``resume_file`` select.

    As in MMF, a checkpoint in ``env.save_dir`` takes precedence over ``resume_file`` when resuming, so that an
    interrupted command can be repeated unchanged.

    Raises:
        ConfigError: ``resume_zoo`` is set.
        DataError: a file does not exist or is invalid.
    """
    if settings.resume_zoo:
        raise ConfigError(
            "checkpoint.resume_zoo is not supported: MMF's model zoo has no CLVQA model; "
            "download the file and set checkpoint.resume_file to it"
        )
    if settings.resume or settings.resume_best:
        start = _own_start(settings, files, trains)
        if start is not None:
            return start
    if settings.resume_file:
        path = Path(settings.resume_file)
        return Start(path, read_checkpoint(path), note=f"starting from {path}")
    if settings.resume or settings.resume_best:
        return Start(note=f"nothing to resume in {files.folder}; starting from the model's initial weights")
    return Start()


def _own_start(settings: Any, files: CheckpointFiles, trains: bool) -> Start | None:
    if files.final.exists() and (trains or not settings.resume_best or not files.best.exists()):
        note = f"{files.final} exists: training is finished"
        if trains:
            note += "; to continue training, set another env.save_dir and set checkpoint.resume_file to this file"
        return Start(files.final, read_checkpoint(files.final), finished=True, note=note)
    for path in (files.best, files.current) if settings.resume_best else (files.current, files.best):
        if path.exists():
            state = read_checkpoint(path)
            note = f"resuming {path} at update {state.get('num_updates', '?')}"
            return Start(path, state, is_own_checkpoint=True, note=note)
    return None


def run_state(trainer: Any) -> dict[str, Any]:
    """Return the content of a checkpoint; all processes must call it, because each has its own random state."""
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
        "losses": trainer.losses.state_dict(gather),
        "best_update": stopping.best_update,
        "best_metric_value": stopping.best_value,
        "early_stopping": stopping.state_dict(),
        "callbacks": trainer.callbacks.state_dict(),
        "methods": {method.name: method.state_dict() for method in trainer.methods},
        "random_state": gather(take_random_state()),
        "seed": trainer.seed,
        "batch_size": trainer.config.training.batch_size,
        "records": trainer.splits["train"].sizes,
        "config": OmegaConf.to_container(trainer.config, resolve=True),
    }
    if trainer.config.checkpoint.save_git_details:
        state |= git_details()
    return state


def changes_since_start(folder: Path, config: Any) -> str:
    """Return the settings that differ from those of the run in a folder, as text; empty if there are none.

    Values that contain a path, and settings that do not change the weights, are left out. The user's code counts as a
    setting if the method or the model of the run is part of it.

    Raises:
        ConfigError: the user's code does not exist.
        DataError: ``config.yaml`` is damaged.
    """
    file = folder / CONFIG_FILE
    if not file.exists():
        return ""
    before, now = (
        {".".join(map(str, path)): value for path, value in leaves(content)}
        for content in (read_yaml(file) or {}, OmegaConf.to_container(config, resolve=True))
    )
    changed = [
        f"{key}={now[key]} (was {before[key]})"
        for key in now
        if key.startswith(SETTING_GROUPS)
        and not matches_any(key, WITHOUT_EFFECT_ON_WEIGHTS)
        and key in before
        and now[key] != before[key]
        and "/" not in f"{now[key]}{before[key]}"
    ]
    user_dir = config.env.user_dir
    code_before = _user_code_before(folder) if user_dir else None
    if code_before is not None and code_before != user_code_sha256(user_dir):
        changed.insert(0, f"the code of {user_dir} has changed")
    return first_of(changed, LISTED_CHANGES)


def _user_code_before(folder: Path) -> str | None:
    """Return the hash of the user's code of the run in a folder; None if it has no such code or no results yet."""
    try:
        return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))["run"].get(USER_CODE_KEY)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged file is reported by mmclvqa.training.evaluation.Results


def load_start(trainer: Any, start: Start) -> None:
    """Load weights and training state of a checkpoint into a trainer.

    Raises:
        CloveError: the file does not match the model or the optimizer.
    """
    if start.state is None:
        return
    settings = trainer.config.checkpoint
    is_other_run = not (start.is_own_checkpoint or start.finished)
    if settings.resume_pretrained and settings.pretrained_state_mapping and is_other_run:
        mapping = dict(settings.pretrained_state_mapping)
        names = load_mapped_weights(trainer.network, start.state["model"], mapping, start.path)
        trainer.writer.write(f"{len(names)} tensors of {start.path} loaded: {', '.join(names)}")
        return
    load_weights(trainer.network, start.state["model"], start.path)
    if not trainer.trains or start.finished or "num_updates" not in start.state:
        return
    # `reset` applies to checkpoint.resume_file only; a run that resumes restores everything.
    reset = settings.reset
    if start.is_own_checkpoint or not (reset.optimizer or reset.all):
        _load_optimizer(trainer, start)
    if start.is_own_checkpoint or not (reset.counts or reset.all):
        _load_counts(trainer, start)
    if trainer.scheduler:
        set_learning_rates(trainer.optimizer, trainer.scheduler)
    if start.is_own_checkpoint:
        trainer.early_stopping.load_state_dict(start.state["early_stopping"])
        if "losses" in start.state:  # not in checkpoints of earlier versions
            trainer.losses.load_state_dict(start.state["losses"])
        without = trainer.callbacks.load_state_dict(start.state["callbacks"])
        if without:
            trainer.writer.write(f"{start.path} has no state of callback {', '.join(without)}", "warning")


def _load_optimizer(trainer: Any, start: Start) -> None:
    state = start.state
    if state.get("optimizer") is None:
        note = f"{start.path} has no optimizer state; the optimizer state is initialized from scratch"
        trainer.writer.write(note, "warning")
        return
    name, previous = trainer.config.optimizer.type, (state.get("config") or {}).get("optimizer", {}).get("type")
    if start.is_own_checkpoint and previous not in (None, name):
        raise ConfigError(
            f"optimizer.type={name}: the run in {start.path.parent} was started with {previous}; set another "
            "env.save_dir to train with another optimizer"
        )
    try:
        trainer.optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{start.path}: its optimizer state does not match ({one_line(error)}); "
            "set checkpoint.resume_file and checkpoint.reset.optimizer=true to skip it"
        ) from None
    if trainer.accelerator.scaler and state.get("scaler"):
        trainer.accelerator.scaler.load_state_dict(state["scaler"])


def _load_counts(trainer: Any, start: Start) -> None:
    state, counts, rank = start.state, trainer.counts, trainer.accelerator.process_index
    counts.num_updates = state["num_updates"]
    counts.epoch = state.get("current_epoch", 1)
    counts.evaluated_at = state.get("evaluated_at", -1) if start.is_own_checkpoint else -1
    counts.seconds = state.get("training_seconds", 0.0)
    counts.batch = _batches_done(trainer, start)
    if trainer.scheduler and state.get("scheduler"):
        trainer.scheduler.load_state_dict(state["scheduler"])
    elif trainer.scheduler:
        with warnings.catch_warnings():
            # torch warns about steps of the schedule before steps of the optimizer, but here the schedule catches up.
            warnings.simplefilter("ignore")
            for _ in range(counts.num_updates):
                trainer.scheduler.step()
    random_states = state.get("random_state", [])
    if rank < len(random_states):
        trainer.random_state = random_states[rank]


def _batches_done(trainer: Any, start: Start) -> int:
    """Return the number of batches of the epoch that are done, converted to the batch size of this run."""
    done, records = start.state.get("batch", 0), trainer.splits["train"].sizes
    if start.state.get("records", records) != records:
        previous_sizes = start.state["records"]
        trainer.writer.write(f"{start.path}: number of records changed from {previous_sizes} to {records}", "warning")
    size = trainer.config.training.batch_size
    previous_batch_size = start.state.get("batch_size", size)
    if previous_batch_size != size and not start.is_own_checkpoint:  # of its own run, all changed settings are listed
        trainer.writer.write(f"{start.path}: batch_size changed from {previous_batch_size} to {size}", "warning")
    return done * previous_batch_size // size
