"""Online elastic weight consolidation: EWC in which the importances of older tasks decay.

    Ω ← γ · Ω + Ω of the current task,    θ* ← the final weights of the current task

Schwarz et al., "Progress & Compress: A scalable framework for continual learning", ICML 2018, equations 8 and 9.
With γ = 1 it is EWC as implemented here, which also keeps a single θ*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmclvqa.methods.base import AT_LEAST_0, SHARE, register_method, setting
from mmclvqa.methods.ewc import EWC

if TYPE_CHECKING:
    from torch import Tensor


@register_method
class OnlineEWC(EWC):
    """EWC with importances that decay with each task."""

    name = "online_ewc"
    label = "online EWC"
    selected_by = {}

    @dataclass(frozen=True)
    class Settings:
        """Hyperparameters of online EWC."""

        reg_lambda: float = setting(1.0, "λ, weight of the penalty", legal=AT_LEAST_0)
        gamma: float = setting(
            0.95, "γ, factor by which earlier importances are multiplied after each task", legal=SHARE
        )

    def accumulate(self, previous: Tensor, new: Tensor) -> Tensor:
        """Return γ · previous + new."""
        return self.settings.gamma * previous + new
