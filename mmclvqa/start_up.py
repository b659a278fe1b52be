"""Parts of torch and accelerate without the imports that they need for features which are not used here."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from accelerate import Accelerator

OptimizerClass = TypeVar("OptimizerClass", bound=type[torch.optim.Optimizer])

_DECORATED = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")
"""Methods that torch decorates with ``torch._disable_dynamo``, which imports the compiler at the first call."""


def without_compiler(cls: OptimizerClass) -> OptimizerClass:
    """Return a subclass of an optimizer of torch.optim that does not import ``torch._dynamo``.

    Nothing here is compiled, but torch's optimizers import the compiler when they are built, which takes 1.5 to 2.5 s
    of every training. The subclass uses the undecorated methods, and otherwise has the class's name and results.
    A class from elsewhere is returned as it is.
    """
    if not cls.__module__.startswith("torch.optim"):
        return cls
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(cls, name)) for name in _DECORATED}
    methods["step"] = torch.no_grad()(inspect.unwrap(cls.step))
    return type(cls.__name__, (cls,), methods)


def prepare_model(accelerator: Accelerator, model: nn.Module, evaluation_mode: bool = False) -> nn.Module:
    """Prepare a model for the processes, device and precision of ``accelerator``.

    With one process and fp32 only the device matters. ``Accelerator.prepare_model`` would import torch's distributed
    tensors then, which takes a second.
    """
    if accelerator.num_processes > 1 or accelerator.mixed_precision != "no":
        return accelerator.prepare_model(model, evaluation_mode=evaluation_mode)
    return model.to(accelerator.device)
