"""Memory aware synapses.

    loss of a task + λ · Σ_i Ω_i · (θ_i − θ*_i)²,    Ω_i = mean over records of |∂ ‖F(x; θ)‖² / ∂θ_i|

Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget", ECCV 2018, equations 2 to 5. As in the published
CLVQA code, ‖F‖² is the mean of the squared softmax of the scores, and the sum runs over batches.

The penalty is applied as a decoupled step after the optimizer step; see :mod:`mmclvqa.methods.importances`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmclvqa.methods.base import register_method
from mmclvqa.methods.importances import WeightRegularizer

if TYPE_CHECKING:
    from torch import Tensor


@register_method
class MAS(WeightRegularizer):
    """MAS, where the importance of a parameter is the sensitivity of the answer distribution to it, without labels."""

    name = "mas"
    label = "MAS"

    def objective(self, report: Any, loss: Tensor) -> Tensor:
        """Return the mean of the squared softmax of ``scores`` (batch × steps × answers and OCR slots)."""
        return report["scores"].float().softmax(dim=-1).square().mean()

    def magnitude(self, gradient: Tensor) -> Tensor:
        """Return the absolute gradient."""
        return gradient.abs()
