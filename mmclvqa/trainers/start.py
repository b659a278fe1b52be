"""What a run starts from: nothing, its own checkpoint, or a file the user names (``checkpoint.*``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclvqa.configuration import ConfigError
from mmclvqa.trainers.checkpoint import CheckpointFiles
from mmclvqa.trainers.checkpoint_files import read_checkpoint


@dataclass
class Start:
    """What a run starts from.

    Attributes:
        path: the file, None for nothing.
        state: its content, as :func:`read_checkpoint` gives it.
        own: it is a checkpoint of this very run, which goes on as if it had not been interrupted.
        finished: the run was completed before; ``path`` are its final weights.
        note: one line for the log.
    """

    path: Path | None = None
    state: dict[str, Any] | None = None
    own: bool = False
    finished: bool = False
    note: str = "starting from the model's initial weights"

    @property
    def seed(self) -> int | None:
        """Seed of the run that is continued."""
        return self.state.get("seed") if self.own and self.state else None


def choose_start(settings: Any, files: CheckpointFiles, trains: bool) -> Start:
    """Find and read what ``checkpoint.resume``, ``resume_best`` and ``resume_file`` mean here.

    As in MMF, a checkpoint in ``env.save_dir`` wins over ``resume_file`` when resuming, so that the
    same command can be given again after an interruption.

    Args:
        settings: ``config.checkpoint``.
        files: the run's checkpoint files.
        trains: whether the run trains (otherwise it evaluates only).

    Raises:
        ConfigError: ``resume_zoo`` is given.
        CheckpointError: a file does not exist or cannot be used.
    """
    if settings.resume_zoo:
        raise ConfigError(
            "checkpoint.resume_zoo is not supported: MMF's model zoo has no CLVQA model; "
            "download the file and give it as checkpoint.resume_file"
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
            note += "; to train on, give another env.save_dir and this file as checkpoint.resume_file"
        return Start(files.final, read_checkpoint(files.final), finished=True, note=note)
    order = [files.best, files.current] if settings.resume_best else [files.current, files.best]
    for path in order:
        if path.exists():
            state = read_checkpoint(path)
            note = f"resuming {path} at update {state.get('num_updates', '?')}"
            return Start(path, state, own=True, note=note)
    return None
