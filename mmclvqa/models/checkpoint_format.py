"""Check that a state dict matches a model; applied to every ``.pth`` file and checkpoint that is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.text import first_of

NAMED = 20
"""Number of differing tensors that an error message lists."""
IGNORED_SUFFIX = "position_ids"
"""A buffer of older transformers versions in older UniVQA checkpoints. It contains 0, 1, 2, … and is not needed."""


def without_position_ids(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state_dict`` without the ``position_ids`` buffers."""
    return {name: tensor for name, tensor in state_dict.items() if name.rpartition(".")[2] != IGNORED_SUFFIX}


def check_fits(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Check that a state dict has the names and shapes of the model's, ``position_ids`` aside.

    Raises:
        DataError: names or shapes differ; the message lists them after ``source``, the file of the state dict.
    """
    given = without_position_ids(state_dict)
    expected = model.state_dict()
    not_tensors = [name for name, value in given.items() if not isinstance(value, Tensor)]
    unknown = [name for name in given if name not in expected and name not in not_tensors]
    findings = {
        "shape": [
            f"{name} {_shape(given[name])} (model {_shape(expected[name])})"
            for name in expected
            if isinstance(given.get(name), Tensor) and given[name].shape != expected[name].shape
        ],
        "missing": [f"{name} {_shape(expected[name])}" for name in expected if name not in given],
        "unknown": [f"{name} {_shape(given[name])}" for name in unknown],
        "no tensor": not_tensors,
    }
    parts = [f"{kind}: {first_of(names, NAMED)}" for kind, names in findings.items() if names]
    if parts:
        raise DataError(f"{source} does not fit the model: {'; '.join(parts)}")


def _shape(tensor: Tensor) -> str:
    return "×".join(str(size) for size in tensor.shape) or "scalar"
