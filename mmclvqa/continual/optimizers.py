"""Optimizers that pull each parameter back to where the tasks before left it, the harder the more important it was.

    θ ← θ − lr · 2λΩ · (θ − θ*)        after the step on the task's own loss

Applied apart from the loss's gradient, as weight decay is in AdamW: Adam's normalisation would otherwise undo Ω. Where
lr · 2λΩ exceeds 1 the step would overshoot θ* and, for a large λ, diverge; it ends at θ* instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmf.common.registry import registry
from torch import Tensor, nn

from mmclvqa.continual.importance import Importances


class WeightRegularized(torch.optim.Optimizer):
    """Mixin before a torch optimizer: its step, then the pull."""

    def regularize(self, network: nn.Module, before: Importances, weight: float) -> None:
        """Pull from now on.

        Args:
            network: whose parameters this optimizer steps.
            before: Ω and θ* of the tasks before.
            weight: λ; 0 leaves the optimizer as it is without this.
        """
        named = dict(network.named_parameters())
        self._weight = weight
        self._terms = {
            named[name]: (omega.to(named[name]), before.anchor[name].to(named[name]))
            for name, omega in before.omega.items()
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step."""
        loss = super().step(closure)
        terms: Mapping[Tensor, tuple[Tensor, Tensor]] = getattr(self, "_terms", {})
        if terms and self._weight:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter in terms:
                        omega, anchor = terms[parameter]
                        # Beyond float32 the factor would be infinite, and not a number where Ω is 0.
                        factor = min(2 * group["lr"] * self._weight, torch.finfo(omega.dtype).max)
                        parameter.lerp_(anchor, (factor * omega).clamp(max=1))
        return loss


@registry.register_optimizer("weight_reg_adamw")
class WeightRegAdamW(WeightRegularized, torch.optim.AdamW):
    """AdamW with the pull; ``optimizer.params`` are AdamW's."""


@registry.register_optimizer("weight_reg_sgd")
class WeightRegSGD(WeightRegularized, torch.optim.SGD):
    """SGD with the pull; ``optimizer.params`` are SGD's."""
