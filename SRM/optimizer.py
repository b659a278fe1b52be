"""The optimizer of the published code, transformers' former AdamW, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from mmclvqa.start_up import without_compiler
from SRM.settings import Settings

NO_DECAY = ("bias", "LayerNorm.weight")
"""Parameters whose name contains one of these have no weight decay. GPT-2's LayerNorms are ``ln_*``: they decay."""


class FormerAdamW(without_compiler(torch.optim.Adam)):
    """AdamW as implemented by transformers 4, which differs from torch's in two places.

    Epsilon is added to the root of the second moment before the bias correction. torch adds it afterwards, so each
    step passes ``eps / sqrt(1 - beta2 ** step)`` to torch; an epsilon of 1e-4 thus reduces the first thousand updates.
    Weight decay is applied after the update instead of before it.

    Args:
        groups: parameter groups, each with its ``weight_decay``.
        lr, betas, eps: as in :class:`torch.optim.AdamW`.
        fused: update all parameters in one kernel. It must be False with a :class:`torch.amp.GradScaler`, which then
            skips steps with infinite gradients entirely, the decay included.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        fused: bool = False,
    ) -> None:
        late = [{**group, "weight_decay": 0.0, "late_decay": group["weight_decay"]} for group in groups]
        super().__init__(late, lr=lr, betas=betas, eps=eps, fused=fused)
        self.former_eps = eps
        self.steps: int | None = None

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Perform one update; the learning rate is read from the groups."""
        if self.steps is None:
            # Read once, since a loaded checkpoint may have set it: on a GPU, reading the tensor synchronizes.
            self.steps = max((int(state["step"]) for state in self.state.values()), default=0)
        self.steps += 1
        for group in self.param_groups:
            group["eps"] = self.former_eps / math.sqrt(1 - group["betas"][1] ** self.steps)
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                updated = [parameter for parameter in group["params"] if parameter.grad is not None]
                if group["late_decay"] and updated:
                    torch._foreach_add_(updated, updated, alpha=-group["lr"] * group["late_decay"])
        return loss


def build_optimizer(model: torch.nn.Module, settings: Settings, fused: bool) -> FormerAdamW:
    """Return the optimizer of a language model, with the published parameter groups; see :data:`NO_DECAY`."""
    groups = [{"params": [], "weight_decay": settings.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[any(part in name for part in NO_DECAY)]["params"].append(parameter)
    return FormerAdamW(groups, lr=settings.learning_rate, eps=settings.adam_epsilon, fused=fused)


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a task by the number of examples seen: linear warm-up, then decay (after LAMOL).

    Attributes:
        peak: the learning rate after warm-up.
        warm_up: examples of the warm-up.
        total: examples of all epochs.
        style: ``linear`` or ``cos`` (decay to 0), ``const`` or ``None`` (no decay).
    """

    peak: float
    warm_up: float
    total: int
    style: str

    def rate(self, seen: float) -> float:
        """Return the learning rate after ``seen`` examples; an update uses the middle of its batch."""
        if seen < self.warm_up:
            return self.peak * seen / self.warm_up
        progress = min(1.0, (seen - self.warm_up) / max(1.0, self.total - self.warm_up))
        if self.style == "linear":
            return self.peak * (1 - progress)
        if self.style == "cos":
            return self.peak * (1 + math.cos(math.pi * progress)) / 2
        return self.peak
