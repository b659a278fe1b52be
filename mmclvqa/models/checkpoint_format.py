"""Whether a state dict fits a model, said in one line; used for every ``.pth`` and checkpoint that is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mmclvqa.clove.errors import DataError

#: How many differing tensors a message names.
NAMED = 4
#: A buffer of old transformers that older UniVQA files carry; it holds 0, 1, 2, … and is not needed.
IGNORED_SUFFIX = "position_ids"


def without_position_ids(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state_dict`` without the ``position_ids`` buffers."""
    return {name: tensor for name, tensor in state_dict.items() if name.rpartition(".")[2] != IGNORED_SUFFIX}


def check_fits(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Refuse a state dict whose names or shapes differ from the model's (``position_ids`` aside).

    Args:
        model: the model that is to take the tensors.
        state_dict: names and tensors, as ``torch.load`` gives them.
        source: where they come from, for the message.

    Raises:
        DataError: one line with the names and shapes that differ.
    """
    given = without_position_ids(state_dict)
    wanted = model.state_dict()
    not_tensors = [name for name, value in given.items() if not isinstance(value, Tensor)]
    unknown = [name for name in given if name not in wanted and name not in not_tensors]
    findings = {
        "shape": [
            f"{name} {_shape(given[name])} (model {_shape(wanted[name])})"
            for name in wanted
            if isinstance(given.get(name), Tensor) and given[name].shape != wanted[name].shape
        ],
        "missing": [f"{name} {_shape(wanted[name])}" for name in wanted if name not in given],
        "unknown": [f"{name} {_shape(given[name])}" for name in unknown],
        "no tensor": not_tensors,
    }
    parts = [f"{kind}: {_some(names)}" for kind, names in findings.items() if names]
    if parts:
        raise DataError(f"{source} does not fit the model: {'; '.join(parts)}")


def _shape(tensor: Tensor) -> str:
    return "×".join(str(size) for size in tensor.shape) or "scalar"


def _some(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
