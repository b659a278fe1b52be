"""Reading checkpoint files that anybody may have written: tensors and plain values, never code."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmclvqa.models.checkpoint_format import check_fits, without_position_ids
from mmclvqa.trainers.errors import CheckpointError

_PARALLEL_PREFIX = "module."
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this trainer, or a plain state dict (as ``{"model": ...}``), to the CPU.

    Raises:
        CheckpointError: the file does not exist, is damaged, holds code, or is something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    with open(path, "rb") as file, warnings.catch_warnings():
        # torch warns about old and foreign pickles, which it then reads or refuses.
        warnings.simplefilter("ignore")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            forbidden = _FORBIDDEN.search(str(error))
            reason = "is damaged; fetch or make it again"
            if forbidden:
                reason = f"asks for {forbidden.group(1)}, which is no tensor; it was not loaded"
            raise CheckpointError(f"checkpoint {path} {reason}") from None
        except Exception as error:
            # A cut or altered file fails somewhere in torch's zip reader, each in its own way.
            said = " ".join(str(error).split())[:120] or type(error).__name__
            raise CheckpointError(f"checkpoint {path} is damaged ({said}); fetch or make it again") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint {path} holds a {type(content).__name__}, not a state dict")
    content = dict(content) if isinstance(content.get("model"), Mapping) else {"model": content}
    content["model"] = {_plain_name(name): value for name, value in content["model"].items()}
    if not any(isinstance(value, Tensor) for value in content["model"].values()):
        raise CheckpointError(f"checkpoint {path} holds no tensors of a model")
    return content


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Load all weights of a model, after checking that every name and shape fits.

    Raises:
        CloveError: one line with the names and shapes that differ.
    """
    state_dict = _formatted(model, state_dict)
    check_fits(model, state_dict, str(source))
    nn.Module.load_state_dict(model, without_position_ids(state_dict), strict=False)


def load_mapped_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], mapping: Mapping[str, str], source: str | Path
) -> list[str]:
    """Load the tensors of some modules (``checkpoint.pretrained_state_mapping``).

    Args:
        model: takes the tensors.
        state_dict: of the file.
        mapping: module here to module in the file.
        source: the file, for messages.

    Returns:
        The model's names that were loaded.

    Raises:
        CheckpointError: a module has no tensor in the file, or a shape differs.
    """
    own = model.state_dict()
    state_dict = _formatted(model, state_dict)
    chosen = {}
    for here, there in mapping.items():
        pairs = {name: there + name.removeprefix(here) for name in own if _below(name, here)}
        found = {name: state_dict[other] for name, other in pairs.items() if other in state_dict}
        if not found:
            raise CheckpointError(
                f"{source}: checkpoint.pretrained_state_mapping {here}: {there} matches no tensor"
            )
        for name, tensor in found.items():
            if tensor.shape != own[name].shape:
                raise CheckpointError(
                    f"{source} does not fit the model: {pairs[name]} {tuple(tensor.shape)} "
                    f"for {name} {tuple(own[name].shape)}"
                )
        chosen.update(found)
    nn.Module.load_state_dict(model, chosen, strict=False)
    return list(chosen)


def _below(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _plain_name(name: str) -> str:
    """Without the prefix of a model saved while wrapped for several processes."""
    return name.removeprefix(_PARALLEL_PREFIX)


def _formatted(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With MMF's ``format_state_key``, by which models read files with older names."""
    rename = getattr(model, "format_state_key", str)
    return {rename(name): tensor for name, tensor in state_dict.items()}
