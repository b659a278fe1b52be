"""The bounds of the comparison: single-task models, multitask training on all tasks at once, and the chance level."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmclvqa.clove.errors import ConfigError
from mmclvqa.methods.base import Method, StepContext, register_method

if TYPE_CHECKING:
    from mmclvqa.training.trainer import Trainer


class Bound(Method):
    """Base of the bounds, which need no overrides of their configuration files."""

    @classmethod
    def overrides(cls, settings: Method.Settings, step: StepContext) -> list[str]:
        """Return no overrides."""
        return []


@register_method
class Chance(Bound):
    """Answers every question of a task with the most frequent answer of its training records; nothing is trained."""

    name = "chance"
    label = "chance"
    steps = "chance"

    def on_task_start(self, trainer: Trainer) -> None:
        """Refuse to train.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("training.CL.method=chance: the chance level is not trained; see `python eval_os.py chance`")


@register_method
class SingleTask(Bound):
    """Trains one model per task, each from the initial weights."""

    name = "stand_alone"
    label = "single-task models"
    steps = "single_task"

    def on_task_start(self, trainer: Trainer) -> None:
        """Refuse to start from another model.

        Raises:
            ConfigError: the run starts from all weights of ``checkpoint.resume_file``.
        """
        if trainer.start.path and not trainer.start.is_own_checkpoint and not self.config.checkpoint.resume_pretrained:
            raise ConfigError(
                f"checkpoint.resume_file={trainer.start.path}: training.CL.method=stand_alone starts from the initial "
                "weights; leave out one of the two keys (training.CL.method=ft is fine-tuning)"
            )


@register_method
class Multitask(Bound):
    """Trains on all tasks at once: the upper bound."""

    name = "multitask"
    label = "multitask"
    steps = "multitask"
