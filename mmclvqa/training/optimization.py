"""Optimizer, learning-rate schedule, early stopping, and the average of training losses."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.utils.general import get_optimizer_parameters
from omegaconf import OmegaConf
from torch import Tensor, nn

from mmclvqa.clove.errors import ConfigError, TrainingError
from mmclvqa.clove.text import did_you_mean
from mmclvqa.configuration import default_config_path, package_defaults
from mmclvqa.start_up import without_compiler
from mmclvqa.training.distributed import Gather

# Names of the published code, whose optimizers also regularize the weights; here the methods ewc and mas do that.
registry.register_optimizer("weight_reg_adamw")(torch.optim.AdamW)
registry.register_optimizer("weight_reg_sgd")(torch.optim.SGD)


def build_optimizer(model: nn.Module, config: Any) -> torch.optim.Optimizer:
    """Build the optimizer ``optimizer.type``, a class of torch.optim or registered, on the model's parameter groups.

    On the CPU, an optimizer that has a fused kernel uses it, which makes all changes of a parameter at once; on the
    small network of clove-mini the update takes a tenth of the time. On a GPU torch's default is already batched.

    Raises:
        ConfigError: the type is unknown, or ``optimizer.params`` are invalid for it.
    """
    name = config.optimizer.type
    cls = getattr(torch.optim, str(name), None)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        cls = _registered("optimizer", name)
    params = OmegaConf.to_container(config.optimizer.params or OmegaConf.create(), resolve=True)
    accepted = signature(cls).parameters
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in accepted.values()):
        # The defaults are those of Adam; another optimizer may lack one of them.
        defaults = package_defaults(default_config_path()).optimizer.params
        params = {key: value for key, value in params.items() if key in accepted or defaults.get(key) != value}
    if "fused" in accepted and all(part.device.type == "cpu" for part in model.parameters()):
        params.setdefault("fused", True)
    if not params.get("differentiable"):
        cls = without_compiler(cls)
    try:
        return cls(get_optimizer_parameters(model, config), **params)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer.params do not fit {name}: {error}") from None


def build_scheduler(optimizer: torch.optim.Optimizer, config: Any) -> Any:
    """Build the schedule ``scheduler.type``, which is stepped after each update; None without ``lr_scheduler``.

    Raises:
        ConfigError: the type is unknown, or ``scheduler.params`` are invalid for it.
    """
    if not config.training.lr_scheduler:
        return None
    name = config.scheduler.type or "pythia"
    if name == "pythia":
        training = config.training
        if config.scheduler.params:
            keys = "warmup_iterations, warmup_factor, lr_steps and lr_ratio of training"
            raise ConfigError(f"scheduler.params have no effect on the schedule pythia, which has the keys {keys}")
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: pythia_factor(update, training))
    params = OmegaConf.to_container(config.scheduler.params or OmegaConf.create(), resolve=True)
    cls = _registered("scheduler", name)
    if isinstance(cls, type) and issubclass(cls, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ConfigError(f"scheduler.type={name}: needs a metric at each step, but step() is called without arguments")
    try:
        return cls(optimizer, **params)
    except TypeError as error:
        raise ConfigError(f"scheduler.params do not fit {name}: {error}") from None


def pythia_factor(update: int, training: Any) -> float:
    """Return the factor of the learning rate after ``update`` updates.

    It rises linearly from ``warmup_factor`` to 1 over ``warmup_iterations``, and is then ``lr_ratio`` to the power of
    the number of ``lr_steps`` that have been reached.
    """
    if training.use_warmup and update < training.warmup_iterations:
        done = update / training.warmup_iterations
        return training.warmup_factor * (1 - done) + done
    return training.lr_ratio ** bisect_right(list(training.lr_steps or ()), update)


def set_learning_rates(optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """Set the learning rates of a new optimizer to those of a restored schedule."""
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate


def _registered(kind: str, name: str) -> Any:
    registered = registry.mapping[f"{kind}_name_mapping"]
    if name not in registered:
        names = list(registered)
        if kind == "optimizer":
            names += [name for name in dir(torch.optim) if name[0].isupper()]
        hint = did_you_mean(name, names) or f"; expected one of: {', '.join(sorted(registered))}"
        raise ConfigError(f"{kind}.type={name}: there is no such {kind}{hint}")
    return registered[name]


class EarlyStopping:
    """Tracks the best value of a metric or loss of the val split.

    Args:
        settings: ``training.early_stop``: ``criteria`` (``<dataset>/<metric>``, ``<dataset>/<loss>`` or
            ``total_loss``, optionally with the prefix ``val/``), ``minimize``, ``patience`` in updates, ``enabled``.
    """

    def __init__(self, settings: Any) -> None:
        self._settings = settings
        criteria = settings.criteria
        self.criteria = criteria if criteria.startswith("val/") else f"val/{criteria}"
        self.best_value: float | None = None
        self.best_update = 0
        self.stopped = False

    def require_criteria(self, *names: str) -> None:
        """Check that ``training.early_stop.criteria`` is one of the values of the val split.

        Raises:
            ConfigError: it is not.
        """
        if self.criteria not in names:
            raise ConfigError(
                f"training.early_stop.criteria={self._settings.criteria} is not evaluated on the val split; "
                f"there are {', '.join(names) or 'no values'}"
            )

    def update(self, num_updates: int, values: Mapping[str, float]) -> bool:
        """Add an evaluation, which must have the criterion; returns True if it is the best so far."""
        self.require_criteria(*values)
        value = values[self.criteria]
        if not math.isnan(value) and self._is_better(value):
            self.best_value, self.best_update = value, num_updates
            return True
        self.stopped = self._settings.enabled and num_updates > self.best_update + self._settings.patience
        return False

    def _is_better(self, value: float) -> bool:
        if self.best_value is None:
            return True
        return value < self.best_value if self._settings.minimize else value > self.best_value

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        return {"best_value": self.best_value, "best_update": self.best_update, "stopped": self.stopped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.best_value, self.best_update = state["best_value"], state["best_update"]
        self.stopped = state["stopped"]


TOTAL = "train/total_loss"


class LossMeter:
    """Accumulates losses on the device; only ``check``, ``averages`` and ``state_dict`` synchronize with it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # The first update with a loss or gradient that is not finite; 0 if there is none.
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device)
        self._loss = torch.zeros((), device=device)
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._updates = 0

    def add(self, losses: Mapping[str, Tensor], total: Tensor, weight: float) -> None:
        """Add one batch: its losses, their total (0-dim), and its weight in the update."""
        self._loss = self._loss + total.detach() * weight
        for key, loss in losses.items():
            self._sums[key] = self._sums.get(key, 0.0) + loss.detach().mean() * weight

    def end_update(self, update: int, gradient_norm: Tensor | None) -> Tensor:
        """End update number ``update`` and return its loss (0-dim, on the device)."""
        loss, self._loss = self._loss, torch.zeros_like(self._loss)
        bad = ~torch.isfinite(loss)
        if gradient_norm is not None:
            bad = bad | ~torch.isfinite(gradient_norm.to(self._device))
        self._first_bad = torch.where(bad & (self._first_bad == 0), update, self._first_bad)
        self._sums[TOTAL] = self._sums.get(TOTAL, 0.0) + loss
        self._updates += 1
        return loss

    def check(self, gather: Gather) -> None:
        """Check that all losses and gradients of all processes are finite.

        Raises:
            TrainingError: one is not; the message names the first such update.
        """
        bad = [update for update in gather(int(self._first_bad)) if update]
        if bad:
            raise TrainingError(
                f"the loss or its gradient is NaN or infinite at update {min(bad)}; no checkpoint has been "
                "written since then; try a lower learning rate or look at that batch's records"
            )

    def state_dict(self, gather: Gather) -> dict[str, Any]:
        """Return the sums since the last call of :meth:`averages`, as means over processes."""
        parts = gather({key: float(total) for key, total in self._sums.items()})
        return {"updates": self._updates, "sums": _means(parts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._updates = state["updates"]
        self._sums = {key: torch.tensor(total, device=self._device) for key, total in state["sums"].items()}

    def averages(self, gather: Gather) -> dict[str, float]:
        """Return the mean of each loss over processes and over the updates since the last call."""
        parts = gather({key: float(total) / self._updates for key, total in self._sums.items()})
        self._reset()
        return _means(parts)


def _means(parts: list[dict[str, float]]) -> dict[str, float]:
    """Return the means over processes; a process without a batch lacks its losses."""
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: sum(part.get(key, 0.0) for part in parts) / len(parts) for key in keys}
