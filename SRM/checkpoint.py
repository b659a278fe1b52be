"""The state of a task in training, in one safetensors file: weights, optimizer, how far it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write all of it or nothing.

    Args:
        path: the file.
        model: its parameters are kept, shared ones once.
        optimizer: over these parameters; its tensors are kept.
        progress: plain JSON values.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"model/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).contiguous()
    with atomic_write(path, "wb") as file:
        file.write(save(tensors, metadata={"progress": json.dumps(progress)}))


def read_progress(path: Path) -> dict[str, Any] | None:
    """The progress of a checkpoint, None where there is none.

    Raises:
        DataError: the file is broken.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["progress"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is no checkpoint ({error}); remove it to begin the task again") from None


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimizer state back."""
    with safe_open(path, "pt") as file:
        keys = {name.partition("/")[0] for name in file.keys()}  # noqa: SIM118 (not a dict)
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                parameter.copy_(file.get_tensor(f"model/{name}"))
            optimizer.state[parameter] = {
                key: file.get_tensor(f"{key}/{name}").to(parameter.device) for key in sorted(keys - {"model"})
            }
