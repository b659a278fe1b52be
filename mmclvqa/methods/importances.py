"""Weight regularization: computes importances Ω and reference weights θ*, stores them, and applies the penalty.

    θ ← θ − lr · 2λΩ · (θ − θ*)        after the optimizer step on the loss of the task

EWC, MAS and online EWC are subclasses of :class:`WeightRegularizer` that define the importance of a parameter. Like the
weight decay of AdamW, the penalty is decoupled from the loss and applied after the optimizer step, because Adam's
normalization would otherwise cancel Ω. If lr · 2λΩ exceeds 1, the step would overshoot θ* and diverge; it stops at θ*.
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
from typing import TYPE_CHECKING, Any

import safetensors
from safetensors import SafetensorError

from mmclvqa.clove.errors import ConfigError, DataError, UnsafePickleError
from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.text import first_of, one_line
from mmclvqa.lazy import torch
from mmclvqa.methods.base import AT_LEAST_0, Method, StepContext, Stored, setting
from mmclvqa.methods.replay import OrderPosition, order_position
from mmclvqa.random_state import random_state_kept

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmclvqa.training.trainer import Trainer

FILE = "models/reg_params.safetensors"
"""File in ``env.save_dir`` to which a run writes its importances."""

PUBLISHED_BATCH_SIZE = 24
"""Batch size in the published commands of EWC, MAS and k-means replay."""
_PICKLED = ("omega", "init_val")


@dataclass(frozen=True)
class Importances:
    """Importances and reference weights.

    Attributes:
        omega: parameter name -> Ω, float32, same shape as the parameter.
        anchor: parameter name -> θ*, float32, same shape as the parameter.
        reg_type: name of the method that computed them; empty if it is not recorded.
    """

    omega: dict[str, Tensor]
    anchor: dict[str, Tensor]
    reg_type: str = ""

    @property
    def bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(t.numel() * t.element_size() for part in (self.omega, self.anchor) for t in part.values())


class WeightRegularizer(Method):
    """Base of the methods that penalize changes of parameters in proportion to their importances.

    Ω of a task is the sum over batches of ``magnitude(∂ objective / ∂θ)``, divided by the number of records. The first
    task is trained without a penalty.
    """

    trains_first_task = True
    computes_gradients = True
    family = "weight regularizer"

    @dataclass(frozen=True)
    class Settings:
        """Hyperparameters of a weight regularizer."""

        reg_lambda: float = setting(1.0, "λ, weight of the penalty", published="reg_lambda", legal=AT_LEAST_0)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in vars(cls) and "selected_by" not in vars(cls):
            cls.selected_by = {"training.trainer": "CL", "training.CL.reg_type": cls.name}

    def objective(self, report: Any, loss: Tensor) -> Tensor:
        """Return the quantity whose gradient defines the importances, 0-dim.

        Args:
            report: a training batch and the output of the model, teacher-forced and without dropout.
            loss: loss of the batch, 0-dim.
        """
        raise NotImplementedError

    def magnitude(self, gradient: Tensor) -> Tensor:
        """Return the elementwise, non-negative importance that a gradient of a batch contributes."""
        raise NotImplementedError

    def accumulate(self, previous: Tensor, new: Tensor) -> Tensor:
        """Return Ω for the next task, combined from Ω of earlier tasks and Ω of the current task."""
        return new + previous

    def on_task_start(self, trainer: Trainer) -> None:
        """Read Ω and θ* of the earlier tasks.

        Raises:
            ConfigError: a task after the first has no file, or the file belongs to another method or is the file that
                this run will write.
            ConfigError, TaskError: the configuration does not specify the position in the task order.
            DataError: the file does not exist, is damaged or belongs to another model.
        """
        position = order_position(self.config.training.CL, f"method {self.name}")
        self.previous = self._read_previous(trainer, position) if position.earlier else None
        self._terms: dict[Tensor, tuple[Tensor, Tensor]] = {}
        if self.previous is not None:
            named = dict(trainer.network.named_parameters())
            self._terms = {
                named[name]: (omega.to(named[name]), self.previous.anchor[name].to(named[name]))
                for name, omega in self.previous.omega.items()
            }

    def source_files(self, root: str) -> list[Path]:
        """Return the file with the importances of the earlier tasks, if the configuration sets one."""
        settings = self.config.training.CL
        path = settings.reg_params_pth or (settings.previous_dir and Path(settings.previous_dir, FILE))
        return [importances_file(path)] if path else []

    def _read_previous(self, trainer: Trainer, position: OrderPosition) -> Importances:
        settings, before = self.config.training.CL, position.earlier[-1]
        own = trainer.files.folder / FILE
        files = self.source_files("")
        if not files:
            raise ConfigError(
                f"training.CL.reg_params_pth is missing; set it to {FILE} in the save folder of {before.name}, "
                f"the task before {settings.cur_task} in {settings.task_order}"
            )
        (path,) = files
        if path.resolve() == own.resolve():
            raise ConfigError(
                f"training.CL.reg_params_pth={own}: this run will write that file; use that of {before.name}'s run"
            )
        previous = read_importances(path, trainer.network)
        if previous.reg_type not in ("", self.name):
            raise ConfigError(f"training.CL.reg_type={self.name}: {path} contains importances of {previous.reg_type}")
        return previous

    def after_step(self, trainer: Trainer) -> None:
        """Apply the penalty: move every parameter towards θ*."""
        if not self._terms or not self.settings.reg_lambda:
            return
        rates = [(parameter, group["lr"]) for group in trainer.optimizer.param_groups for parameter in group["params"]]
        with torch.no_grad():
            for parameter, rate in rates:
                if parameter in self._terms:
                    omega, anchor = self._terms[parameter]
                    # A factor beyond float32 would become infinite, and NaN for Ω = 0.
                    factor = min(2 * rate * self.settings.reg_lambda, torch.finfo(omega.dtype).max)
                    parameter.lerp_(anchor, (factor * omega).clamp(max=1))

    def on_task_end(self, trainer: Trainer) -> None:
        """Add the importances of this task to the previous ones, and write them with the final weights as θ*."""
        trainer.writer.write(f"{self.name}: computing the importance of every parameter")

        def objective(batch: Any) -> Tensor:
            report = trainer.report(batch)
            return self.objective(report, trainer.task_loss(report))

        # Ω depends on the batch size. It is that of training, whatever eval_batch_size and the number of processes are.
        batches = trainer.training_batches(trainer.training.batch_size * trainer.accelerator.num_processes)
        with random_state_kept():
            omega = compute_importances(trainer.network, batches, objective, self.magnitude, trainer.sum_over_processes)
        if self.previous is not None:
            omega = {name: self.accumulate(self.previous.omega[name].to(new), new) for name, new in omega.items()}
        anchor = {name: p.detach().float() for name, p in trainer.network.named_parameters() if p.requires_grad}
        self.importances = Importances(omega, anchor, self.name)
        if trainer.is_main:
            write_importances(trainer.files.folder / FILE, self.importances)

    def stored(self) -> Stored:
        """Return the size of Ω and θ*."""
        return Stored(0, self.importances.bytes, "importances and weights of all parameters")

    @classmethod
    def overrides(cls, settings: Any, step: StepContext) -> list[str]:
        """Return the published overrides; for a method that the published code does not have, those by name."""
        if not cls.selected_by:
            return super().overrides(settings, step)
        overrides = [
            "training.CL.use_cl=True",
            "training.trainer=CL",
            f"training.CL.reg_type={cls.name}",
            f"training.CL.reg_lambda={settings.reg_lambda}",
            "optimizer.type=weight_reg_adamw",
            f"training.batch_size={PUBLISHED_BATCH_SIZE}",
            f"training.CL.task_order={step.order}",
        ]
        overrides += cls.setting_overrides(settings, without=("reg_lambda",))  # a subclass may have other settings
        return overrides + ([f"training.CL.reg_params_pth={step.previous_dir}/{FILE}"] if step.previous_dir else [])


def importances_file(path: str | os.PathLike[str]) -> Path:
    """Return the file to read for a value of ``training.CL.reg_params_pth``.

    The published commands use ``reg_params.pkl``; if it does not exist, the safetensors file in its folder is used.
    """
    path = Path(path)
    return path.with_suffix(Path(FILE).suffix) if path.suffix == ".pkl" and not path.exists() else path


def compute_importances(
    network: nn.Module,
    batches: Iterator[Any],
    objective: Callable[[Any], Tensor],
    magnitude: Callable[[Tensor], Tensor],
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> dict[str, Tensor]:
    """Return the sum over batches of ``magnitude(∂ objective / ∂θ)``, divided by the number of records.

    Args:
        network: the bare model, not wrapped in DDP.
        batches: prepared batches of this process.
        objective: function of a batch that returns a 0-dim tensor.
        magnitude: elementwise function of a gradient.
        total: function that sums a tensor over processes.

    Returns:
        Parameter name -> float32 tensor of the same shape; zero if the objective does not depend on the parameter.
    """
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in named.items()}
    records = torch.zeros((), device=next(iter(sums.values())).device)
    with without_dropout(network):
        for batch in batches:
            gradients = torch.autograd.grad(objective(batch), list(named.values()), allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    sums[name] += magnitude(gradient.float())
            records += batch.get_batch_size()
    seen = total(records).clamp(min=1)
    return {name: total(value) / seen for name, value in sums.items()}


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Switch a network to training mode without dropout, so that it is teacher-forced and deterministic."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout) or isinstance(getattr(module, "dropout", None), float):
                module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def write_importances(path: str | os.PathLike[str], importances: Importances) -> None:
    """Write Ω and θ* as safetensors (``omega.<parameter>``, ``anchor.<parameter>``).

    Raises:
        OSError: the file is not writable.
    """
    from safetensors.torch import save

    parts = (("omega", importances.omega), ("anchor", importances.anchor))
    tensors = {f"{part}.{name}": t.detach().cpu().contiguous() for part, named in parts for name, t in named.items()}
    with atomic_write(path, "wb") as file:
        file.write(save(tensors, metadata={"reg_type": importances.reg_type}))


def read_importances(path: str | os.PathLike[str], network: nn.Module) -> Importances:
    """Read Ω and θ* of a model, to the CPU.

    Args:
        path: ``.safetensors`` or ``.pkl``; see :func:`importances_file`.
        network: the model, whose parameters must match.

    Raises:
        DataError: the file does not exist, is damaged, or belongs to another model.
        UnsafePickleError: the pickle contains something other than tensors.
    """
    path = importances_file(path)
    if not path.is_file():
        raise DataError(f"training.CL.reg_params_pth={path}: there is no such file")
    names = [name for name, _ in network.named_parameters()]
    importances = _read_pickle(path, names) if path.suffix == ".pkl" else _read_safetensors(path)
    expected = {name: parameter.shape for name, parameter in network.named_parameters() if parameter.requires_grad}
    for part in (importances.omega, importances.anchor):
        differing = sorted(
            name for name in expected.keys() | part.keys() if name not in part or expected.get(name) != part[name].shape
        )
        if differing:
            raise DataError(
                f"training.CL.reg_params_pth={path}: belongs to another model: names or shapes differ for "
                f"{first_of(differing, 3)}"
            )
    return importances


def _read_safetensors(path: Path) -> Importances:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is not a dict)
            reg_type = (file.metadata() or {}).get("reg_type", "")
    except (SafetensorError, ValueError, OSError) as error:
        reason = one_line(error)
        raise DataError(f"training.CL.reg_params_pth={path}: is damaged or not a safetensors file ({reason})") from None
    parts: dict[str, dict[str, Tensor]] = {"omega": {}, "anchor": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        if part not in parts:
            raise DataError(f"training.CL.reg_params_pth={path}: contains {key}, which is neither omega nor anchor")
        parts[part][name] = tensor
    return Importances(parts["omega"], parts["anchor"], reg_type)


# Pickles of the published form are read without running code in them: a dict of parameter name (or number, in the order
# of the model) -> {"omega": tensor, "init_val": tensor}. No published file was available to test this with.
class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dicts, lists, strings, numbers and tensors only; storages are loaded by torch's safe loader."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
            ("torch.storage", "_load_from_bytes"): _storage,
        }
        if (module, name) not in allowed:
            raise UnsafePickleError(f"the pickle refers to {module}.{name}")
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
        raise UnsafePickleError(f"{where}: {error}, which is not a tensor; it was not loaded") from None
    except Exception as error:
        # A damaged pickle can raise any exception.
        reason = one_line(error)[:120] or type(error).__name__
        raise DataError(f"{where}: is damaged ({reason})") from None
    if isinstance(content, dict):
        content.pop("lambda", None)
    fits = isinstance(content, dict) and all(
        (isinstance(key, str) or (type(key) is int and 0 <= key < len(names)))
        and isinstance(entry, dict)
        and all(isinstance(entry.get(part), torch.Tensor) for part in _PICKLED)
        for key, entry in content.items()
    )
    if not fits:
        raise DataError(f"{where}: is not a dict of parameter names (or numbers) to omega and init_val")
    named = {names[key] if isinstance(key, int) else key: entry for key, entry in content.items()}
    omega, anchor = ({name: entry[part].detach().float() for name, entry in named.items()} for part in _PICKLED)
    return Importances(omega, anchor)
