"""Gradient episodic memory, and its averaged variant.

    GEM:    min ½‖g̃ − g‖²  so that  ⟨g̃, g_k⟩ ≥ 0 for every task k before         (g_k: gradient on memory k)
    A-GEM:  g̃ = g − (gᵀ g_ref / g_refᵀ g_ref) g_ref   where gᵀ g_ref < 0          (g_ref: on a batch of all memories)

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, equations 8 to 11 (solved in its
dual of one variable per memory, with margin 0.5 and ε = 0.001 as published); Chaudhry et al., "Efficient Lifelong
Learning with A-GEM", ICLR 2019, equations 10 and 11.

As in the published CLVQA code, the gradient on each memory and g are clipped to ``training.max_grad_l2_norm`` before
they are compared, and the projected gradient is not clipped: with margin 0.5 it may be longer than that.

Cost: besides its own batch, every update of GEM reads each memory whole, forward and backward:
with five memories of 400 records at batches of 32, 64 times the work of fine-tuning. ``training.CL.gem_memory_batch=n``
reads n random records of each memory instead. A-GEM reads one batch in all, about twice the work of fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmf.common.registry import registry
from mmf.common.report import Report
from torch import Tensor

from mmclvqa.configuration import ConfigError
from mmclvqa.continual.stored import stored_records
from mmclvqa.datasets.replay import choose_memories
from mmclvqa.trainers.evaluation import prepare
from mmclvqa.trainers.mmf_trainer import MMFTrainer
from mmclvqa.trainers.random_state import random_state_kept, seed_all

MARGIN = 0.5
"""Least weight of each memory's gradient in a projected one; it pushes further into the allowed cone."""
EPSILON = 1e-3
"""Added to the diagonal of the dual's matrix, so that it is positive definite."""


def project(gradient: Tensor, memories: Tensor, margin: float = MARGIN, epsilon: float = EPSILON) -> Tensor:
    """The gradient nearest to ``gradient`` that has no negative product with a memory's, by the dual program.

    min_v ½ vᵀ(GGᵀ + εI)v + (Gg)ᵀv so that v ≥ margin; the result is g + Gᵀv. It is ``gradient`` itself where no product
    is negative.

    Args:
        gradient: P float numbers, of all parameters.
        memories: K x P, a gradient per memory.
        margin, epsilon: see the constants.
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
    """The optional package, asked for only by GEM."""
    try:
        import quadprog
    except ImportError:
        raise ConfigError("training.CL.gem_variant=gem needs the package quadprog: pip install quadprog") from None
    return quadprog


def project_average(gradient: Tensor, reference: Tensor) -> Tensor:
    """A-GEM: ``gradient`` (P numbers) without its part against ``reference`` (P numbers)."""
    product = gradient @ reference
    if product >= 0:
        return gradient
    return gradient - product / (reference @ reference) * reference


def clipped(gradient: Tensor, limit: float | None) -> Tensor:
    """A gradient (P numbers) shortened to an L2 norm of ``limit``, as ``clip_grad_norm_`` does; None: as it is."""
    if limit is None:
        return gradient
    return gradient * (limit / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1)


def _gem(trainer: GEMTrainer, gradient: Tensor) -> Tensor:
    size = trainer.training.CL.gem_memory_batch
    limit = trainer.clipping_norm
    memories = [clipped(trainer.memory_gradient([number], size), limit) for number in range(len(trainer.memories))]
    return project(gradient, torch.stack(memories))


def _agem(trainer: GEMTrainer, gradient: Tensor) -> Tensor:
    size = trainer.training.CL.gem_memory_batch or trainer.training.batch_size
    reference = trainer.memory_gradient(range(len(trainer.memories)), size)
    return project_average(gradient, clipped(reference, trainer.clipping_norm))


VARIANTS: dict[str, Callable[[GEMTrainer, Tensor], Tensor]] = {"gem": _gem, "agem": _agem}
"""Legal values of ``training.CL.gem_variant``."""


@registry.register_trainer("GEM")
class GEMTrainer(MMFTrainer):
    """Changes each update's gradient, once it is clipped, so that it hurts no memory.

    Attributes:
        memories: a data set of each earlier task's kept records, in learning order.
    """

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The configured optimizer; reads the memories on the way.

        Raises:
            ConfigError: keys of ``training.CL`` that do not go with GEM, or no task was learned before.
            CloveError: see :func:`mmclvqa.datasets.replay.choose_memories`.
        """
        settings = self.training.CL
        if settings.gem_variant not in VARIANTS:
            raise ConfigError(f"training.CL.gem_variant={settings.gem_variant}: legal are {', '.join(VARIANTS)}")
        if settings.gem_variant == "gem":
            _quadprog()
        size = settings.gem_memory_batch
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(f"training.CL.gem_memory_batch={size}: it is a whole number of records, or null for all")
        if settings.replay_method != "gem" or not settings.use_replay:
            raise ConfigError(
                f"training.CL.replay_method={settings.replay_method}: training.trainer=GEM needs "
                "training.CL.use_replay=True and replay_method=gem"
            )
        if self.training.precision == "fp16":
            raise ConfigError("training.precision=fp16 does not go with training.trainer=GEM; use fp32 or bf16")
        self._kept = choose_memories(self.config.dataset_config.clvqa.data_dir, settings)
        if not self._kept:
            raise ConfigError(
                f"training.trainer=GEM has no memories: {settings.cur_task} is the first task of "
                f"{settings.task_order}; train it with training.trainer=mmf"
            )
        own = self.splits["train"].datasets[0]
        self.memories = [self._dataset_like(own, records) for records in self._kept.values()]
        counts = ", ".join(f"{len(records)} of {name}" for name, records in self._kept.items())
        self.writer.write(f"memories: {counts}")
        return super().make_optimizer()

    def clip_gradients(self) -> Tensor | None:
        """Clip the update's gradient, then project it where it goes against a memory's; nothing is clipped after that.

        Returns:
            Its L2 norm before both; None where ``training`` asks for no clipping.
        """
        norm = super().clip_gradients()
        parameters = self._parameters()
        own = _flat(p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters)
        with random_state_kept():
            changed = VARIANTS[self.training.CL.gem_variant](self, own)
        if changed is not own:
            at = 0
            for parameter in parameters:
                part = changed[at : at + parameter.numel()].view_as(parameter)
                at += parameter.numel()
                if parameter.grad is not None:
                    parameter.grad.copy_(part)
                elif part.any():
                    parameter.grad = part.clone()
        return norm

    def on_train_end(self) -> None:
        """Says what is kept."""
        super().on_train_end()
        if self.is_main:
            records = [record for kept in self._kept.values() for record in kept]
            features = self.config.dataset_config.clvqa
            stored_records(records, features, "records of earlier tasks").write(self.files.folder)

    def memory_gradient(self, numbers: Any, size: int | None) -> Tensor:
        """Gradient of the mean loss over records of memories, all parameters in one vector.

        Args:
            numbers: of the memories.
            size: records drawn from all of them; None reads every one.
        """
        records = [(number, index) for number in numbers for index in range(len(self.memories[number]))]
        # What is drawn depends on seed, update and memory alone: a resumed run draws the same.
        draws = np.random.default_rng((self.seed % 2**64, self.num_updates, *numbers))
        if size is not None and size < len(records):
            records = [records[i] for i in draws.choice(len(records), size, replace=False)]
        seed_all(int(draws.integers(2**63)))
        parameters = self._parameters()
        total = torch.zeros(sum(p.numel() for p in parameters), device=self.accelerator.device)
        for batch, share in self._batches(records):
            with self.accelerator.autocast():
                loss = self.compute_loss(Report(batch, self.network(batch)))
            gradients = torch.autograd.grad(loss * share, parameters, allow_unused=True)
            total += _flat(
                g if g is not None else torch.zeros_like(p) for g, p in zip(gradients, parameters, strict=True)
            )
        return total

    def _batches(self, records: list[tuple[int, int]]) -> Iterator[tuple[Any, float]]:
        """Prepared batches of records (memory, index), and each one's share of all records."""
        size = self.training.batch_size
        for start in range(0, len(records), size):
            part = records[start : start + size]
            samples = [self.memories[number][index] for number, index in part]
            yield prepare(self.memories[0].collate_fn(samples), self.memories[0]), len(part) / len(records)

    def _parameters(self) -> list[Tensor]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def _dataset_like(self, own: Any, records: list[dict[str, Any]]) -> Any:
        made = type(own)(own.config, "train", records, own.dataset_name)
        made.init_processors()
        return made


def _flat(tensors: Iterator[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1).float() for tensor in tensors])
