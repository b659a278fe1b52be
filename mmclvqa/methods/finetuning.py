"""Fine-tuning: each task starts from the weights of the previous task, without any measure against forgetting.

It is the lower bound of the comparison.
"""

from __future__ import annotations

from mmclvqa.methods.base import Method, StepContext, register_method


@register_method
class FineTuning(Method):
    """Minimizes only the loss of the current task."""

    name = "ft"
    label = "fine-tuning"

    @classmethod
    def overrides(cls, settings: Method.Settings, step: StepContext) -> list[str]:
        """Return the published overrides."""
        return [
            "training.CL.use_cl=True",
            "training.CL.use_callback=False",
            "training.CL.use_replay=False",
            f"training.CL.task_order={step.order}",
        ]
