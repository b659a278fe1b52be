"""Elastic weight consolidation.

    loss of a task + λ · Σ_i Ω_i · (θ_i − θ*_i)²,    Ω = Σ over tasks of the empirical Fisher information's diagonal

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, equation 3. As in the published
CLVQA code, Ω of a task is the sum over batches of (∂ loss / ∂θ)², divided by the number of records.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmclvqa.continual.regularizer import Regularizer, register_regularizer


@register_regularizer("ewc")
class EWC(Regularizer):
    """A parameter is important that the loss is sensitive to."""

    def objective(self, report: Any, loss: Tensor) -> Tensor:
        """The loss itself."""
        return loss

    def magnitude(self, gradient: Tensor) -> Tensor:
        """Its square."""
        return torch.square(gradient)
