"""Trainer ``CL``: training that is regularised by how important parameters were for the tasks before.

What "important" means is a :class:`Regularizer`, one small file each (``ewc.py``, ``mas.py``)::

    @register_regularizer("ewc")
    class EWC(Regularizer): ...

    mmf_run ... training.trainer=CL training.CL.reg_type=ewc optimizer.type=weight_reg_adamw \\
      training.CL.reg_params_pth=<the task before>/models/reg_params.safetensors
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmf.common.registry import registry
from mmf.common.report import Report
from omegaconf import OmegaConf
from torch import Tensor

from mmclvqa.configuration import ConfigError
from mmclvqa.continual.importance import (
    FILE,
    Importances,
    importance,
    importances_file,
    read_importances,
    write_importances,
)
from mmclvqa.continual.optimizers import WeightRegularized
from mmclvqa.continual.stored import Stored
from mmclvqa.datasets.replay import tasks_before
from mmclvqa.trainers.evaluation import prepare
from mmclvqa.trainers.loaders import Split
from mmclvqa.trainers.mmf_trainer import MMFTrainer
from mmclvqa.trainers.random_state import random_state_kept

_REGISTERED: dict[str, type[Regularizer]] = {}


class Regularizer:
    """What makes a parameter important: Ω of a task is Σ over batches of magnitude(∂ objective / ∂θ) / records."""

    def objective(self, report: Any, loss: Tensor) -> Tensor:
        """What is differentiated, a 0-dim tensor.

        Args:
            report: a training batch with the model's output, teacher forced, without dropout.
            loss: the batch's loss, 0-dim.
        """
        raise NotImplementedError

    def magnitude(self, gradient: Tensor) -> Tensor:
        """What is summed of a batch's gradient, elementwise and not negative."""
        raise NotImplementedError


def register_regularizer(name: str) -> Callable[[type[Regularizer]], type[Regularizer]]:
    """Class decorator: makes a regulariser known as ``training.CL.reg_type=name``."""

    def register(cls: type[Regularizer]) -> type[Regularizer]:
        _REGISTERED[name] = cls
        return cls

    return register


def build_regularizer(name: Any) -> Regularizer:
    """The regulariser of ``training.CL.reg_type``.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in _REGISTERED:
        close = difflib.get_close_matches(str(name), _REGISTERED, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"training.CL.reg_type={name}: legal are {', '.join(sorted(_REGISTERED))}{hint}")
    return _REGISTERED[name]()


@registry.register_trainer("CL")
class RegularizedTrainer(MMFTrainer):
    """Pulls weights to those of the tasks before; after a task, adds its importances to theirs and writes them.

    The first task of an order has nothing to be pulled to; it trains as with the optimizer alone.
    """

    def make_optimizer(self) -> torch.optim.Optimizer:
        """An optimizer that pulls, given Ω and θ* from the second task on.

        Raises:
            ConfigError: an unknown ``reg_type``, a ``reg_lambda`` below 0, an optimizer that does not pull, or no
                ``reg_params_pth`` where a task was learned before.
            ReplayError: ``training.CL`` does not say where in an order the task stands.
            DataError: the importances are missing, broken, or of another model.
        """
        settings = self.training.CL
        self.regularizer = build_regularizer(settings.reg_type)
        weight = settings.reg_lambda
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ConfigError(f"training.CL.reg_lambda={weight}: it is a number of at least 0")
        before = tasks_before(settings, f"reg_type={settings.reg_type}")
        if before and not settings.reg_params_pth:
            raise ConfigError(
                f"training.CL.reg_params_pth is missing: {settings.cur_task} comes after {before[-1].name} in "
                f"{settings.task_order}, whose run left {FILE}"
            )
        optimizer = super().make_optimizer()
        if not isinstance(optimizer, WeightRegularized):
            raise ConfigError(
                f"optimizer.type={self.config.optimizer.type}: training.trainer=CL needs weight_reg_adamw "
                "or weight_reg_sgd"
            )
        self.before = None
        if before:
            own = self.files.folder / FILE
            if importances_file(settings.reg_params_pth).resolve() == own.resolve():
                raise ConfigError(
                    f"training.CL.reg_params_pth={own}: is what this run will write; give the file of "
                    f"{before[-1].name}'s run"
                )
            self.before = read_importances(settings.reg_params_pth, self.network)
            if self.before.reg_type not in ("", settings.reg_type):
                raise ConfigError(
                    f"training.CL.reg_type={settings.reg_type}: {settings.reg_params_pth} has the importances of "
                    f"{self.before.reg_type}"
                )
            optimizer.regularize(self.network, self.before, weight)
        return optimizer

    def on_train_end(self) -> None:
        """Ω ← Ω + Ω of this task, θ* ← θ, on disk before the final weights are."""
        super().on_train_end()
        self.writer.write(f"{self.training.CL.reg_type}: computing the importance of every parameter")
        with random_state_kept():
            new = importance(self.network, self._batches(), self._objective, self.regularizer.magnitude, self._total)
        if self.before:
            new = {name: value + self.before.omega[name].to(value) for name, value in new.items()}
        anchor = {name: p.detach().float() for name, p in self.network.named_parameters() if p.requires_grad}
        after = Importances(new, anchor, self.training.CL.reg_type)
        if self.is_main:
            write_importances(self.files.folder / FILE, after)
            Stored(0, after.bytes, "importances and weights of all parameters").write(self.files.folder)

    def _batches(self) -> Iterator[tuple[Any, int]]:
        datasets, processes = self.splits["train"].datasets, self.accelerator.num_processes
        for dataset in datasets:
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(0)
        # Ω depends on how records are batched: as in training, whatever eval_batch_size and the processes are.
        training = OmegaConf.create(OmegaConf.to_container(self.training, resolve=True))
        training.eval_batch_size = training.batch_size * processes
        split = Split("train", datasets, training, self.seed, self.accelerator.process_index, processes)
        for _, batch, dataset in split.evaluation_batches():
            yield prepare(batch, dataset), batch.get_batch_size()

    def _objective(self, batch: Any) -> Tensor:
        report = Report(batch, self.network(batch))
        return self.regularizer.objective(report, self.compute_loss(report))

    def _total(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, "sum")
