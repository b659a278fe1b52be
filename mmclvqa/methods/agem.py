"""Averaged gradient episodic memory.

    g̃ = g − (gᵀ g_ref / g_refᵀ g_ref) g_ref   where gᵀ g_ref < 0          (g_ref: gradient on a batch of all memories)

Chaudhry et al., "Efficient Lifelong Learning with A-GEM", ICLR 2019, equations 10 and 11. It costs about twice as
much as fine-tuning. ``training.CL.gem_memory_batch=n`` draws n records from all memories together; the default is
``training.batch_size``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmclvqa.methods.base import register_method
from mmclvqa.methods.gem import GradientProjection

if TYPE_CHECKING:
    from torch import Tensor

    from mmclvqa.training.trainer import Trainer


@register_method
class AGEM(GradientProjection):
    """A-GEM, with one constraint: the mean gradient of all earlier tasks."""

    name = "agem"
    label = "A-GEM"
    selected_by = {"training.trainer": "GEM", "training.CL.gem_variant": "agem"}

    def projected(self, trainer: Trainer, gradient: Tensor) -> Tensor:
        """Return the gradient without its component that increases the loss on the memories."""
        size = self.settings.gem_memory_batch or trainer.training.batch_size
        return project_average(gradient, self.memory_gradient(trainer, range(len(self.memory.datasets)), size))


def project_average(gradient: Tensor, reference: Tensor) -> Tensor:
    """Return ``gradient`` (P numbers) without its component opposite to ``reference`` (P numbers), if there is one."""
    product = gradient @ reference
    if product >= 0:
        return gradient
    return gradient - product / (reference @ reference) * reference
