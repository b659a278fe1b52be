"""Memory aware synapses.

    loss of a task + λ · Σ_i Ω_i · (θ_i − θ*_i)²,    Ω_i = mean over records of |∂ ‖F(x; θ)‖² / ∂θ_i|

Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget", ECCV 2018, equations 2 to 5. As in the published
CLVQA code, ‖F‖² is the mean of the squared softmax of the scores, and the sum runs over batches.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmclvqa.continual.regularizer import Regularizer, register_regularizer


@register_regularizer("mas")
class MAS(Regularizer):
    """A parameter is important that the answers are sensitive to, whether they are right or not."""

    def objective(self, report: Any, loss: Tensor) -> Tensor:
        """Mean of the squared softmax of ``scores`` (batch x steps x answers and slots)."""
        return report["scores"].float().softmax(dim=-1).square().mean()

    def magnitude(self, gradient: Tensor) -> Tensor:
        """Its absolute value."""
        return gradient.abs()
