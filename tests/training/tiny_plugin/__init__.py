"""A small user plugin (``env.user_dir``) with a tiny model and data set.

The data set draws new noise in each epoch and the model has dropout, so that a run that is resumed in another random
state or epoch ends with other weights.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmf.common.registry import registry
from mmf.common.sample import Sample
from mmf.datasets.base_dataset import BaseDataset
from mmf.datasets.base_dataset_builder import BaseDatasetBuilder
from mmf.models.base_model import BaseModel
from mmf.modules.metrics import BaseMetric
from torch import nn

from mmclvqa.clove.errors import DataError
from mmclvqa.training.callbacks import Callback, register_callback

FOLDER = Path(__file__).parent
CLASSES = 3


class TinyDataset(BaseDataset):
    """Random points around one center per class; ``targets`` is one-hot."""

    def __init__(self, name: str, config: Any, split: str) -> None:
        super().__init__(name, config, split)
        draws = np.random.default_rng((7, len(split)))
        self.size = config.records[split]
        self.broken = config.broken_record
        self.labels = draws.integers(CLASSES, size=self.size)
        self.points = np.eye(CLASSES, 4)[self.labels] + draws.normal(0, 0.4, (self.size, 4))
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        self.epoch[0] = epoch

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DataError(f"record {index}: it is broken")
        noise = np.random.default_rng((int(self.epoch), index)).normal(0, 0.1, 4)
        sample = Sample()
        sample.index = torch.tensor(index)
        sample.point = torch.tensor(self.points[index] + noise, dtype=torch.float32)
        if self.config.has_targets:
            sample.targets = torch.eye(CLASSES)[self.labels[index]]
        return sample

    def format_for_prediction(self, report: Any) -> list[dict[str, Any]]:
        answers = report.scores.argmax(dim=-1).tolist()
        return [
            {"index": index, "answer": answer} for index, answer in zip(report.index.tolist(), answers, strict=True)
        ]


class TinyBuilder(BaseDatasetBuilder):
    """Builds ``tiny`` and ``tiny_two``, which are identical except for the name."""

    name = "tiny"

    def __init__(self) -> None:
        super().__init__(self.name)

    @classmethod
    def config_path(cls) -> str:
        return str(FOLDER / f"{cls.name}.yaml")

    def build(self, config: Any, dataset_type: str, *args: Any, **kwargs: Any) -> None:
        pass

    def load(self, config: Any, dataset_type: str, *args: Any, **kwargs: Any) -> TinyDataset | None:
        return TinyDataset(self.name, config, dataset_type) if config.records[dataset_type] else None

    def update_registry_for_model(self, config: Any) -> None:
        pass


@registry.register_builder("tiny")
class _Tiny(TinyBuilder):
    pass


@registry.register_builder("tiny_two")
class _TinyTwo(TinyBuilder):
    name = "tiny_two"


@registry.register_model("tiny")
class TinyModel(BaseModel):
    """Two linear layers with dropout between them."""

    @classmethod
    def config_path(cls) -> str:
        return str(FOLDER / "tiny_model.yaml")

    def build(self) -> None:
        width = self.config.width
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(self.config.dropout))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, sample_list: Any) -> dict[str, torch.Tensor]:
        scores = self.head(self.body(sample_list.point))
        limit = self.config.nan_above
        if limit is not None and self.training:
            scores = torch.where(self.head.weight.norm() > limit, torch.nan, scores)
        return {"scores": scores}


@registry.register_metric("tiny_accuracy")
class TinyAccuracy(BaseMetric):
    """Accuracy with the streaming protocol, over all classes and for class 0."""

    def __init__(self) -> None:
        super().__init__("tiny_accuracy")

    def start(self) -> None:
        self._sums = {"": (0.0, 0.0), "class_0": (0.0, 0.0)}

    def update(self, sample_list: Any, model_output: Any) -> None:
        truth = sample_list["targets"].argmax(-1)
        right = (model_output["scores"].argmax(-1) == truth).float()
        for name, chosen in (("", truth >= 0), ("class_0", truth == 0)):
            total, count = self._sums[name]
            self._sums[name] = (total + float(right[chosen].sum()), count + float(chosen.sum()))

    def sums(self) -> dict[str, tuple[float, float]]:
        return self._sums


@register_callback("kill_at")
class KillAt(Callback):
    """Kills the process with SIGKILL after an update, unless a marker file of an earlier run exists."""

    def __init__(self, update: int, marker: str) -> None:
        self.update, self.marker = update, Path(marker)

    def on_update_end(self, trainer: Any) -> None:
        if trainer.num_updates == self.update and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@register_callback("zero_weights")
class ZeroWeights(Callback):
    """Sets the final weights to zero."""

    def on_train_end(self, trainer: Any) -> None:
        with torch.no_grad():
            for weight in trainer.network.parameters():
                weight.zero_()


@register_callback("journal")
class Journal(Callback):
    """Records all hook calls, and counts updates across interruptions."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.updates = 0

    def _note(self, trainer: Any, moment: str) -> None:
        with open(self.path, "a") as file:
            file.write(f"{moment} {trainer.num_updates}\n")

    def on_train_start(self, trainer: Any) -> None:
        self._note(trainer, "train_start")

    def on_gradients(self, trainer: Any) -> None:
        assert all(p.grad is not None for p in trainer.network.parameters())

    def on_update_end(self, trainer: Any) -> None:
        self.updates += 1
        assert self.updates == trainer.num_updates

    def on_validation_end(self, trainer: Any, evaluations: list[Any]) -> None:
        self._note(trainer, f"validation_end {len(evaluations)}")

    def on_train_end(self, trainer: Any) -> None:
        assert not trainer.files.final.exists()
        self._note(trainer, "train_end")

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: Any) -> None:
        self.updates = state["updates"]
