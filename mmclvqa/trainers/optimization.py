"""Optimizer and learning rate schedule from the configuration."""

from __future__ import annotations

import difflib
from bisect import bisect_right
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.utils.general import get_optimizer_parameters
from omegaconf import OmegaConf
from torch import nn

from mmclvqa.configuration import ConfigError


def build_optimizer(model: nn.Module, config: Any) -> torch.optim.Optimizer:
    """The optimizer ``optimizer.type`` (torch.optim's or a registered one) on the model's parameter groups.

    Raises:
        ConfigError: an unknown type, or ``optimizer.params`` that it does not take.
    """
    name = config.optimizer.type
    cls = getattr(torch.optim, str(name), None)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        cls = _registered("optimizer", name)
    params = OmegaConf.to_container(config.optimizer.params or OmegaConf.create(), resolve=True)
    try:
        return cls(get_optimizer_parameters(model, config), **params)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer.params do not fit {name}: {error}") from None


def build_scheduler(optimizer: torch.optim.Optimizer, config: Any) -> Any:
    """The schedule ``scheduler.type``, to be stepped once after each update; None without ``lr_scheduler``.

    Raises:
        ConfigError: an unknown type, or ``scheduler.params`` that it does not take.
    """
    if not config.training.lr_scheduler:
        return None
    name = config.scheduler.type or "pythia"
    if name == "pythia":
        training = config.training
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: pythia_factor(update, training))
    params = OmegaConf.to_container(config.scheduler.params or OmegaConf.create(), resolve=True)
    try:
        return _registered("scheduler", name)(optimizer, **params)
    except TypeError as error:
        raise ConfigError(f"scheduler.params do not fit {name}: {error}") from None


def pythia_factor(update: int, training: Any) -> float:
    """What the learning rate is multiplied with after ``update`` updates (SPEC section 4).

    Linear from ``warmup_factor`` to 1 over ``warmup_iterations``, then ``lr_ratio`` to the power of
    the number of ``lr_steps`` reached.
    """
    if training.use_warmup and update < training.warmup_iterations:
        done = update / training.warmup_iterations
        return training.warmup_factor * (1 - done) + done
    return training.lr_ratio ** bisect_right(list(training.lr_steps), update)


def set_learning_rates(optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """Give a fresh optimizer the rates of a schedule that has been loaded."""
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate


def _registered(kind: str, name: str) -> Any:
    known = registry.mapping[f"{kind}_name_mapping"]
    if name not in known:
        names = list(known)
        if kind == "optimizer":
            names += [name for name in dir(torch.optim) if name[0].isupper()]
        close = difflib.get_close_matches(str(name), names, n=3) or sorted(known)
        raise ConfigError(f"{kind}.type={name}: no such {kind}; did you mean {' or '.join(close)}?")
    return known[name]
