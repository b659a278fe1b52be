"""The optimizer that the published code trains with: the AdamW that transformers had until version 4."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from SRM.settings import Settings

NO_DECAY = ("bias", "LayerNorm.weight")
"""Parameters whose name contains one of these do not decay. GPT-2 calls its LayerNorms ``ln_*``, so they decay."""


class FormerAdamW(torch.optim.Adam):
    """AdamW as transformers had it, which differs from torch's in two places.

    Epsilon is added to the root of the second moment before the bias correction. torch adds it afterwards, so each
    step hands torch ``eps / sqrt(1 - beta2 ** step)``. With an epsilon of 1e-4, the first thousand steps are smaller
    for it. And weights decay after the step rather than before it.

    Args:
        groups: parameter groups, each with its ``weight_decay``.
        lr, betas, eps: as of :class:`torch.optim.AdamW`.
        fused: update all parameters in one kernel. Without it, a :class:`torch.amp.GradScaler` leaves out steps with
            infinite gradients entirely, the decay included.
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
        """One update; the learning rate is read from the groups."""
        if self.steps is None:
            # A checkpoint may have been loaded. Only now: on a GPU, the count is there as a tensor.
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


def optimizer_of(model: torch.nn.Module, settings: Settings, fused: bool) -> FormerAdamW:
    """The optimizer of a language model, with the published groups: see :data:`NO_DECAY`."""
    decays: tuple[list[Any], list[Any]] = ([], [])
    for name, parameter in model.named_parameters():
        decays[any(part in name for part in NO_DECAY)].append(parameter)
    groups = [
        {"params": decays[False], "weight_decay": settings.weight_decay},
        {"params": decays[True], "weight_decay": 0.0},
    ]
    return FormerAdamW(groups, lr=settings.learning_rate, eps=settings.adam_epsilon, fused=fused)
