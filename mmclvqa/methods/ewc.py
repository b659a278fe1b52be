"""Elastic weight consolidation.

    loss of a task + λ · Σ_i Ω_i · (θ_i − θ*_i)²,    Ω = Σ over tasks of the empirical Fisher information's diagonal

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, equation 3. As in the published
CLVQA code, Ω of a task is the sum over batches of (∂ loss / ∂θ)², divided by the number of records.

The penalty is applied as a decoupled step after the optimizer step; see :mod:`mmclvqa.methods.importances`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmclvqa.methods.base import register_method
from mmclvqa.methods.importances import WeightRegularizer

if TYPE_CHECKING:
    from torch import Tensor


@register_method
class EWC(WeightRegularizer):
    """EWC, where the importance of a parameter is the expected squared gradient of the loss."""

    name = "ewc"
    label = "EWC"

    def objective(self, report: Any, loss: Tensor) -> Tensor:
        """Return the loss."""
        return loss

    def magnitude(self, gradient: Tensor) -> Tensor:
        """Return the squared gradient."""
        return gradient.square()
