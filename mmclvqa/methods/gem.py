"""Gradient episodic memory.

    min ½‖g̃ − g‖²  subject to  ⟨g̃, g_k⟩ ≥ 0 for every earlier task k         (g_k: gradient on the memory of task k)

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, equations 8 to 11. The
dual problem with one variable per memory is solved, with margin 0.5 and ε = 0.001. As in the published CLVQA code,
every gradient is clipped to ``training.max_grad_l2_norm`` before the projection, and nothing is clipped after it.

Cost: each update computes the gradient on all records of every memory. With five memories of 400 records and batches
of 32, this is 64 times the work of fine-tuning. With ``training.CL.gem_memory_batch=n``, an update uses n random
records of each memory instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmclvqa.clove.errors import ConfigError
from mmclvqa.lazy import torch
from mmclvqa.methods.base import ABOVE_0, COUNT, Method, StepContext, Stored, register_method, setting
from mmclvqa.methods.episodic_memory import EpisodicMemory, flatten
from mmclvqa.methods.replay import choose_real_records, order_position, real_record_files, stored_records
from mmclvqa.random_state import random_state_kept

if TYPE_CHECKING:
    from torch import Tensor

    from mmclvqa.training.trainer import Trainer

MARGIN = 0.5
"""Minimum weight of each memory's gradient in the projected gradient."""
EPSILON = 1e-3
"""Added to the diagonal of the matrix of the dual problem to make it positive definite."""


class GradientProjection(Method):
    """Base of GEM and A-GEM: projects gradients so that, to first order, no loss of an earlier task increases."""

    clips_gradients = True
    computes_gradients = True
    family = "gradient projection method"

    @dataclass(frozen=True)
    class Settings:
        """Hyperparameters of GEM and A-GEM."""

        replay_rate: float = setting(
            0.1, "stored records per record of the current task", published="replay_rate", legal=ABOVE_0
        )
        gem_memory_batch: int | None = setting(
            None,
            "records used at an update, of each memory (A-GEM: of all together)",
            published="gem_memory_batch",
            legal=COUNT,
        )

    def projected(self, trainer: Trainer, gradient: Tensor) -> Tensor:
        """Return the projected gradient (P numbers), which is ``gradient`` itself if no constraint is violated."""
        raise NotImplementedError

    def on_task_start(self, trainer: Trainer) -> None:
        """Read the memories.

        Raises:
            ConfigError: there is no earlier task.
            CloveError: the records of an earlier task cannot be read.
        """
        position, root = order_position(self.config.training.CL, "replay"), self.config.dataset_config.clvqa.data_dir
        self._kept = choose_real_records(root, position, self.settings.replay_rate).by_task()
        if not self._kept:
            raise ConfigError(
                f"training.trainer=GEM has no memories: {position.current.name} is the first task of "
                f"{self.config.training.CL.task_order}; train it with training.trainer=mmf"
            )
        self.memory = EpisodicMemory(trainer, self._kept)
        counts = ", ".join(f"{len(records)} of {name}" for name, records in self._kept.items())
        trainer.writer.write(f"memories: {counts}")

    def source_files(self, root: str) -> list[Path]:
        """Return the annotation files of the earlier tasks."""
        return real_record_files(root, order_position(self.config.training.CL, "replay").earlier)

    def on_gradients(self, trainer: Trainer) -> None:
        """Clip the gradient of the update, and project it if it conflicts with the gradient of a memory."""
        trainer.clip_gradients()
        parameters = trainer.trained_parameters()
        own = flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)
        with random_state_kept():
            changed = self.projected(trainer, own)
        if changed is own:
            return
        start = 0
        for parameter in parameters:
            part = changed[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
            if parameter.grad is not None:
                parameter.grad.copy_(part)
            elif part.any():
                parameter.grad = part.clone()

    def memory_gradient(self, trainer: Trainer, tasks: range | list[int], size: int | None) -> Tensor:
        """Return the gradient on records of some tasks (P numbers), clipped as ``clip_grad_norm_`` does.

        See :meth:`EpisodicMemory.gradient`.
        """
        gradient, limit = self.memory.gradient(tasks, size), trainer.gradient_limit
        if limit is None:
            return gradient
        return gradient * (limit / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1)

    def stored(self) -> Stored:
        """Return number and size of the records in the memories."""
        records = [record for task_records in self._kept.values() for record in task_records]
        return stored_records(records, self.config.dataset_config.clvqa, "records of earlier tasks")

    @classmethod
    def overrides(cls, settings: Any, step: StepContext) -> list[str]:
        """Return the published overrides, plus ``gem_variant`` and ``gem_memory_batch``."""
        overrides = [
            "training.CL.use_cl=True",
            "training.trainer=GEM",
            "training.CL.use_replay=True",
            "training.CL.replay_method=gem",
            f"training.CL.gem_variant={cls.name}",
            f"training.CL.replay_rate={settings.replay_rate}",
            f"training.CL.task_order={step.order}",
        ]
        size = settings.gem_memory_batch
        return overrides if size is None else [*overrides, f"training.CL.gem_memory_batch={size}"]

    @classmethod
    def experiment(cls, settings: Any) -> str:
        """Return the published folder name, to which another ``replay_rate`` is appended."""
        return super().experiment(replace(settings, gem_memory_batch=None))


@register_method
class GEM(GradientProjection):
    """GEM, with one constraint per earlier task."""

    name = "gem"
    label = "GEM"
    selected_by = {"training.trainer": "GEM", "training.CL.gem_variant": "gem"}

    def on_task_start(self, trainer: Trainer) -> None:
        """Check that quadprog is installed, then read the memories."""
        _quadprog()
        super().on_task_start(trainer)

    def projected(self, trainer: Trainer, gradient: Tensor) -> Tensor:
        """Return the nearest gradient that conflicts with no gradient of a memory."""
        size, tasks = self.settings.gem_memory_batch, range(len(self.memory.datasets))
        memories = [self.memory_gradient(trainer, [number], size) for number in tasks]
        return project(gradient, torch.stack(memories))


def project(gradient: Tensor, memories: Tensor, margin: float = MARGIN, epsilon: float = EPSILON) -> Tensor:
    """Return the gradient nearest to ``gradient`` whose dot product with no gradient of a memory is negative.

    The dual problem is min_v ½ vᵀ(GGᵀ + εI)v + (Gg)ᵀv subject to v ≥ margin; the result is g + Gᵀv. If no dot product
    is negative, the result is ``gradient`` itself.

    Args:
        gradient: gradient of all parameters, P float numbers.
        memories: K × P, one gradient per memory.
    """
    products = memories.double() @ gradient.double()
    if bool((products >= 0).all()):
        return gradient
    quadprog = _quadprog()
    gram = (memories.double() @ memories.double().T).cpu().numpy()
    quadratic = (gram + gram.T) / 2 + epsilon * np.eye(len(gram))
    bounds = np.full(len(gram), float(margin))
    weights = quadprog.solve_qp(quadratic, -products.cpu().numpy(), np.eye(len(gram)), bounds)[0]
    return gradient + torch.from_numpy(weights).to(memories) @ memories


def _quadprog() -> Any:
    """Import quadprog, an optional package that only GEM needs."""
    try:
        import quadprog
    except ImportError:
        raise ConfigError("training.CL.gem_variant=gem needs the package quadprog: pip install quadprog") from None
    return quadprog
