"""Checkpoints of a run: ``current.ckpt``, ``best.ckpt``, ``models/model_<update>.ckpt``, the final weights.

All are written beside and renamed, and hold tensors and plain values only.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmclvqa.clove.files import atomic_write

CURRENT = "current.ckpt"
BEST = "best.ckpt"
NUMBERED_FOLDER = "models"

# What atomic_write calls a checkpoint before it is complete.
_LEFTOVER = re.compile(r"\..+\.(?:ckpt|pth|safetensors)\.\w+\.tmp")
_PLAIN = (bool, int, float, str, bytes, type(None), Tensor)


class CheckpointFiles:
    """Names and writes the checkpoint files of one run.

    Args:
        save_dir: ``env.save_dir``.
        model_name: ``config.model``; the final weights are ``<model_name>_final.pth``.
        max_to_keep: numbered checkpoints to keep, the newest; 0 writes none, negative keeps all.
    """

    def __init__(self, save_dir: str | Path, model_name: str, max_to_keep: int = -1) -> None:
        self.folder = Path(save_dir)
        self.current = self.folder / CURRENT
        self.best = self.folder / BEST
        self.final = self.folder / f"{model_name}_final.pth"
        self._max_to_keep = max_to_keep

    def write(self, state: Mapping[str, Any], best: bool = False, numbered: bool = False) -> None:
        """Write ``state`` as the current checkpoint, and as the best and as a numbered one if asked.

        The current one comes last: a run that goes on from it finds the best one it speaks of.

        Raises:
            TypeError: something in it is neither tensor nor plain value (a fault of a callback).
            OSError: the folder cannot be written; files there are as they were.
        """
        require_plain(state, "checkpoint")
        if best:
            _save(state, self.best)
        if numbered and self._max_to_keep:
            _save(state, self.folder / NUMBERED_FOLDER / f"model_{state['num_updates']}.ckpt")
            self._prune()
        _save(state, self.current)

    def write_final(self, model: nn.Module) -> None:
        """Write the weights alone: a plain state dict of contiguous CPU tensors."""
        weights = {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in model.state_dict().items()
        }
        _save(weights, self.final)

    def _prune(self) -> None:
        if self._max_to_keep < 0:
            return
        # By age, not by number: files of an earlier run in this folder may have higher ones.
        files = sorted(
            (self.folder / NUMBERED_FOLDER).glob("model_*.ckpt"),
            key=lambda file: (file.stat().st_mtime_ns, int(file.stem.rpartition("_")[2])),
        )
        for file in files[: max(0, len(files) - self._max_to_keep)]:
            file.unlink()

    def remove_leftovers(self) -> list[Path]:
        """Delete what a run that was killed while writing has left half written; returns what it was."""
        folders = (self.folder, self.folder / NUMBERED_FOLDER)
        temporary = [file for folder in folders for file in folder.glob(".*.tmp")]
        left = [file for file in temporary if _LEFTOVER.fullmatch(file.name)]
        for file in left:
            file.unlink()
        return left


def require_plain(value: Any, where: str) -> None:
    """Check that ``torch.load(weights_only=True)`` will read ``value`` back.

    Raises:
        TypeError: naming the place of the first thing that it would refuse.
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
    """Commit and uncommitted changes of the working directory's repository; empty outside of one."""
    commands = {"git/commit_hash": ["rev-parse", "HEAD"], "git/diff": ["diff", "--no-prefix"]}
    details = {}
    for key, words in commands.items():
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        details[key] = done.stdout.strip()
    return details


def _save(content: Mapping[str, Any], path: Path) -> None:
    with atomic_write(path, "wb") as file:
        torch.save(content, file)
