"""How important each parameter was so far: Ω, and the weights θ* that go with it, on disk and computed.

A file is written as safetensors (``omega.<parameter>``, ``anchor.<parameter>``). The published commands name it
``reg_params.pkl``: where there is no such file, ``reg_params.safetensors`` beside it is meant.

Pickles are read without running code in them, if they hold a dict of parameter name (or number, in the model's order)
-> ``{"omega": tensor, "init_val": tensor}``, written by pickle or by ``torch.save``; an entry ``lambda`` is left out.
Any other pickle is refused. No file of the published code was at hand, so whether one has this form is not known.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mmclvqa.clove.errors import DataError, UnsafePickleError
from mmclvqa.clove.files import atomic_write

FILE = "models/reg_params.safetensors"
"""Where a run leaves its importances, below its ``env.save_dir``."""

_PICKLED = ("omega", "init_val")


@dataclass(frozen=True)
class Importances:
    """Ω and θ*: parameter name -> float32 tensor of the parameter's shape; whose Ω it is, empty where not known."""

    omega: dict[str, Tensor]
    anchor: dict[str, Tensor]
    reg_type: str = ""

    @property
    def bytes(self) -> int:
        """What both take."""
        return sum(t.numel() * t.element_size() for part in (self.omega, self.anchor) for t in part.values())


def write_importances(path: str | os.PathLike[str], importances: Importances) -> None:
    """Write Ω and θ* as safetensors, all of it or nothing.

    Raises:
        OSError: the file cannot be written.
    """
    parts = (("omega", importances.omega), ("anchor", importances.anchor))
    tensors = {f"{part}.{name}": t.detach().cpu().contiguous() for part, named in parts for name, t in named.items()}
    with atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata={"reg_type": importances.reg_type}))


def read_importances(path: str | os.PathLike[str], network: nn.Module) -> Importances:
    """Read Ω and θ* for a model.

    Args:
        path: ``.safetensors``, or ``.pkl`` (see the module).
        network: whose parameters they must fit.

    Returns:
        Tensors on the CPU.

    Raises:
        DataError: the file is missing or broken, or of another model.
        UnsafePickleError: the pickle asks for more than tensors.
    """
    path = importances_file(path)
    if not path.is_file():
        raise DataError(f"training.CL.reg_params_pth={path}: there is no such file")
    names = [name for name, _ in network.named_parameters()]
    found = _read_pickle(path, names) if path.suffix == ".pkl" else _read_safetensors(path)
    wanted = {name: parameter.shape for name, parameter in network.named_parameters() if parameter.requires_grad}
    for part in (found.omega, found.anchor):
        differing = sorted(
            name for name in wanted.keys() | part.keys() if name not in part or wanted.get(name) != part[name].shape
        )
        if differing:
            shown = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
            raise DataError(
                f"training.CL.reg_params_pth={path}: is of another model: names or shapes differ for {shown}"
            )
    return found


def importances_file(path: str | os.PathLike[str]) -> Path:
    """The file that ``training.CL.reg_params_pth`` means: instead of a ``.pkl`` that is absent the safetensors file."""
    path = Path(path)
    return path.with_suffix(Path(FILE).suffix) if path.suffix == ".pkl" and not path.exists() else path


def importance(
    network: nn.Module,
    batches: Iterator[tuple[Any, int]],
    objective: Callable[[Any], Tensor],
    magnitude: Callable[[Tensor], Tensor],
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> dict[str, Tensor]:
    """Σ over batches of ``magnitude``(∂ objective / ∂θ), divided by the number of records seen.

    Args:
        network: not wrapped for several processes.
        batches: prepared batches of this process, and how many records each has.
        objective: from a batch to a 0-dim tensor.
        magnitude: of a gradient, elementwise.
        total: sums a tensor over processes.

    Returns:
        Parameter name -> float32 tensor of its shape; zero where no gradient came.
    """
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in named.items()}
    records = torch.zeros((), device=next(iter(sums.values())).device)
    with without_dropout(network):
        for batch, size in batches:
            gradients = torch.autograd.grad(objective(batch), list(named.values()), allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    sums[name] += magnitude(gradient.float())
            records += size
    seen = total(records).clamp(min=1)
    return {name: total(value) / seen for name, value in sums.items()}


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Training mode, so that answers are teacher forced, but nothing is dropped: importance is no matter of luck."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.train()
        for module in network.modules():
            if isinstance(module, nn.Dropout) or isinstance(getattr(module, "dropout", None), float):
                module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _read_safetensors(path: Path) -> Importances:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
            reg_type = (file.metadata() or {}).get("reg_type", "")
    except (SafetensorError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"training.CL.reg_params_pth={path}: is no safetensors file or broken ({reason})") from None
    parts: dict[str, dict[str, Tensor]] = {"omega": {}, "anchor": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        if part not in parts:
            raise DataError(f"training.CL.reg_params_pth={path}: holds {key}, which is neither omega nor anchor")
        parts[part][name] = tensor
    return Importances(parts["omega"], parts["anchor"], reg_type)


class _TensorUnpickler(pickle.Unpickler):
    """Dicts, lists, strings, numbers and tensors; a storage's bytes go through torch's own safe loader."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
            ("torch.storage", "_load_from_bytes"): _storage,
        }
        if (module, name) not in allowed:
            raise UnsafePickleError(f"the pickle asks for {module}.{name}")
        return allowed[module, name]


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _read_pickle(path: Path, names: list[str]) -> Importances:
    where = f"training.CL.reg_params_pth={path}"
    try:
        with open(path, "rb") as file:
            saved_by_torch = zipfile.is_zipfile(file)
            file.seek(0)
            content = _storage(file.read()) if saved_by_torch else _TensorUnpickler(file).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{where}: {error}, which is no tensor; it was not loaded") from None
    except Exception as error:
        # A broken pickle fails in any of the operations it spells out.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{where}: is broken ({reason})") from None
    if isinstance(content, dict):
        content.pop("lambda", None)
    fits = isinstance(content, dict) and all(
        (isinstance(key, str) or (type(key) is int and 0 <= key < len(names)))
        and isinstance(entry, dict)
        and all(isinstance(entry.get(part), Tensor) for part in _PICKLED)
        for key, entry in content.items()
    )
    if not fits:
        raise DataError(f"{where}: is no table of parameter names (or numbers) to omega and init_val")
    named = {names[key] if isinstance(key, int) else key: entry for key, entry in content.items()}
    omega, anchor = ({name: entry[part].detach().float() for name, entry in named.items()} for part in _PICKLED)
    return Importances(omega, anchor)
