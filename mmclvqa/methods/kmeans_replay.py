"""K-means replay: the exemplars of a task are the records nearest to the cluster centers of its records.

    exemplars of the current task = for each center c of k-means on cls_output(x), the record x nearest to c

The buffer holds int(n(task) · replay_rate) records. After t tasks, 1/t of them (rounded down) belong to the current
task; the others are a random subset of the exemplars of all earlier tasks. The buffer is written to
``kmeans_replay.npy`` in the save folder, before the final weights; the next task reads it from
``training.CL.replay_dir``. Source: the published CLVQA code; clustering: Lloyd, "Least squares quantization in PCM",
IEEE Transactions on Information Theory 1982.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmclvqa.clove.data_root import split_size
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.experiment_paths import MODEL
from mmclvqa.clove.records import load_filled, load_records, save_records
from mmclvqa.clove.tasks import REPLAY_SUFFIX, Task
from mmclvqa.clove.text import counted
from mmclvqa.lazy import torch
from mmclvqa.methods.base import POSITIVE_SHARE, StepContext, Stored, register_method, setting
from mmclvqa.methods.importances import PUBLISHED_BATCH_SIZE, without_dropout
from mmclvqa.methods.replay import (
    SELECTION_SEED,
    Record,
    ReplayMethod,
    Replays,
    choose,
    real_records,
    replayed_task,
    required_key,
    stored_records,
)
from mmclvqa.random_state import random_state_kept

if TYPE_CHECKING:
    from mmclvqa.training.trainer import Trainer

FILE = "kmeans_replay.npy"
"""File of the exemplars in the save folder."""

_EXPERIMENT = re.compile(r"kmeans_replay_(?P<rate>[0-9.e-]+)")


@register_method
class KMeansReplay(ReplayMethod):
    """Replays exemplars chosen by k-means."""

    name = "kmeans"
    label = "k-means replay"
    replay_method = "kmeans"
    selected_by = {"training.CL.use_replay": True, "training.CL.replay_method": "kmeans"}
    trains_first_task = True

    @dataclass(frozen=True)
    class Settings:
        """Hyperparameters of k-means replay."""

        replay_rate: float = setting(
            0.02, "exemplars per record of the current task", published="replay_rate", legal=POSITIVE_SHARE
        )

    def replays(self, root: str) -> Replays:
        """Return the exemplars of the earlier tasks, with their stage marked as replayed."""
        position = self.position
        if not position.earlier:
            return Replays()
        (path,) = self.source_files(root)
        replays = Replays(counts={past.name: 0 for past in position.earlier})
        for index, record in enumerate(load_filled(path)):
            past = replayed_task(record, f"{path}: record {index}", position.current.setting, position.earlier)
            replays.records.append(record | {"stage": past.name + REPLAY_SUFFIX})
            replays.counts[past.name] += 1
        return replays

    def source_files(self, root: str) -> list[Path]:
        """Return the file with the exemplars of the earlier tasks; none for the first task."""
        if not self.position.earlier:
            return []
        settings = self.config.training.CL
        folder = {"replay_dir": settings.replay_dir or settings.previous_dir}
        return [Path(required_key(folder, "replay_dir", "replay_method=kmeans"), FILE)]

    def on_task_start(self, trainer: Trainer) -> None:
        """Check the settings that are otherwise used only at the end of training.

        Raises:
            ConfigError: the model returns no ``cls_output``, or the rate is too small for one exemplar per task.
        """
        if not getattr(trainer.network, "has_cls_output", False):
            model = self.config.model
            needed = f"it needs model_config.{model}.use_cls=True"
            if "use_cls" not in self.config.model_config[model]:
                needed = (
                    f"model {model} must return it (batch × width) beside scores, and say so with the attribute "
                    "has_cls_output = True; see docs/model.md"
                )
            raise ConfigError(f"k-means replay clusters cls_output: {needed}")
        if self._shares()[1] < 1:
            position = self.position
            raise ConfigError(
                f"training.CL.replay_rate={self.settings.replay_rate}: is too small for one record of each of the "
                f"{len(position.earlier) + 1} tasks up to {position.current.name}"
            )

    def on_task_end(self, trainer: Trainer) -> None:
        """Choose the exemplars and write the buffer."""
        position, (num_earlier, num_current) = self.position, self._shares()
        features = _cls_outputs(trainer, position.current)
        if not trainer.is_main:
            return
        records = real_records(self.config.dataset_config.clvqa.data_dir, position.current)
        by_id = {str(record["question_id"]): record for record in records}
        names = sorted(features)
        if repeated := len(records) - len(names):
            note = f"{counted(repeated, 'record')} of {position.current.name} cannot be chosen: the question id repeats"
            trainer.writer.write(f"k-means replay: {note}", "warning")
        nearest = nearest_to_centres(np.stack([features[name] for name in names]), num_current)
        self._exemplars = self._kept_before(num_earlier) + [by_id[names[index]] for index in nearest]
        save_records(trainer.files.folder / FILE, self._exemplars)
        counts = f"{len(self._exemplars)} exemplars kept, {len(nearest)} of them of {position.current.name}"
        trainer.writer.write(f"k-means replay: {counts}")

    def _shares(self) -> tuple[int, int]:
        """Return the numbers of exemplars of all earlier tasks together and of the current task."""
        position = self.position
        size = split_size(self.config.dataset_config.clvqa.data_dir, position.current, "train")
        buffer = int(size * self.settings.replay_rate)
        num_current = buffer // (len(position.earlier) + 1)
        return buffer - num_current, num_current

    def _kept_before(self, count: int) -> list[Record]:
        """Return ``count`` random exemplars of the earlier tasks."""
        if not self.position.earlier:
            return []
        records = load_records(*self.source_files(""))
        return [records[index] for index in sorted(choose(len(records), count))] if count < len(records) else records

    def stored(self) -> Stored | None:
        """Return number and size of the exemplars in the main process, None in other processes."""
        if not hasattr(self, "_exemplars"):
            return None
        what = "records nearest to the k-means centres"
        return stored_records(self._exemplars, self.config.dataset_config.clvqa, what)

    @classmethod
    def overrides(cls, settings: Any, step: StepContext) -> list[str]:
        """Return the published overrides."""
        overrides = [*cls.replay_overrides(step), f"training.CL.replay_rate={settings.replay_rate}"]
        overrides += cls.evaluation_overrides(settings, step.model)
        overrides.append(f"training.batch_size={PUBLISHED_BATCH_SIZE}")
        return overrides + ([f"training.CL.replay_dir={step.previous_dir}"] if step.previous_dir else [])

    @classmethod
    def evaluation_overrides(cls, settings: Any, model: str) -> list[str]:
        """Return the override with which UniVQA returns ``cls_output``."""
        return [f"model_config.{MODEL}.use_cls=True"] if model == MODEL else []

    @classmethod
    def experiment(cls, settings: Any) -> str:
        """Return the published folder name."""
        return f"kmeans_replay_{settings.replay_rate}"

    @classmethod
    def parse_experiment(cls, experiment: str) -> str | None:
        """Return the label of a published folder name."""
        match = _EXPERIMENT.fullmatch(experiment)
        return f"{cls.label} ({match['rate']})" if match else None


def nearest_to_centres(features: np.ndarray, count: int) -> list[int]:
    """Return the indices, ascending, of the records nearest to ``count`` k-means centers, without duplicates.

    ``features`` is N × width, float; if N is not more than ``count``, all records are returned.
    """
    if count >= len(features):
        return list(range(len(features)))
    if count == 0:
        return []
    from sklearn.cluster import KMeans  # imported here because it takes a second

    centres = KMeans(count, n_init=1, random_state=SELECTION_SEED).fit(features).cluster_centers_
    # Squared distances, count × N; in float64, because the terms nearly cancel for similar records.
    centres, features = centres.astype(np.float64), features.astype(np.float64)
    distances = (features**2).sum(axis=1)[None] - 2 * centres @ features.T + (centres**2).sum(axis=1)[:, None]
    taken: list[int] = []
    for row in distances:
        row[taken] = np.inf
        taken.append(int(row.argmin()))
    return sorted(taken)


def _cls_outputs(trainer: Trainer, current: Task) -> dict[str, np.ndarray]:
    """Return question_id -> cls_output (float32) of all real records of the current task, in every process."""
    from mmf.utils.distributed import byte_tensor_to_object

    outputs: dict[str, np.ndarray] = {}
    with random_state_kept(), torch.no_grad(), without_dropout(trainer.network):
        for batch in trainer.training_batches():
            vectors = trainer.network(batch)["cls_output"].float().cpu().numpy()
            for row, vector in enumerate(vectors):
                if byte_tensor_to_object(batch.stage[row]) == current.name:
                    outputs[str(byte_tensor_to_object(batch.question_id[row]))] = vector
    return {name: vector for part in trainer.gather(outputs) for name, vector in part.items()}
