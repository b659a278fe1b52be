"""K-means replay: callback ``kmeans_store`` keeps the records that stand for a task's clusters.

    kept of the current task = for each centre c of k-means on cls_output(x) the record x nearest to c

The buffer holds int(n(task) · replay_rate) records, shared equally by the tasks seen; earlier tasks keep a random part
of what was kept of them. It is written as ``kmeans_replay.npy`` into the run's folder before the final weights are; the
next task reads it through ``training.CL.replay_dir``. The callback is part of every run with ``use_replay`` and
``replay_method=kmeans``; in any other run, where the published configuration files list it too, it does nothing.

Source: the published CLVQA code; clustering: Lloyd, "Least squares quantization in PCM", IEEE Transactions on
Information Theory 1982.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmf.utils.distributed import byte_tensor_to_object

from mmclvqa.clove.annotations import load_records, save_records
from mmclvqa.clove.layout import annotation_file
from mmclvqa.clove.manifest import train_size
from mmclvqa.clove.tasks import Task, task
from mmclvqa.configuration import ConfigError
from mmclvqa.continual.importance import without_dropout
from mmclvqa.continual.stored import stored_records
from mmclvqa.datasets.replay import KMEANS_FILE, SELECTION_SEED, choose, order_and_task
from mmclvqa.trainers.callbacks import Callback, register_callback
from mmclvqa.trainers.devices import gather
from mmclvqa.trainers.evaluation import prepare
from mmclvqa.trainers.random_state import random_state_kept


def nearest_to_centres(features: np.ndarray, count: int, seed: int = SELECTION_SEED) -> list[int]:
    """The record nearest to each of ``count`` k-means centres, none of them twice.

    Args:
        features: N x width, float.
        count: centres; where there are as many records or fewer, all records are taken.
        seed: of the first centres.

    Returns:
        Indices of records, ascending.
    """
    if count >= len(features):
        return list(range(len(features)))
    if count == 0:
        return []
    from sklearn.cluster import KMeans  # takes a second, which only this callback should cost

    centres = KMeans(count, n_init=1, random_state=seed).fit(features).cluster_centers_
    # Squared, count x N; in float64, because the terms nearly cancel where records are alike.
    centres, features = centres.astype(np.float64), features.astype(np.float64)
    distances = (features**2).sum(axis=1)[None] - 2 * centres @ features.T + (centres**2).sum(axis=1)[:, None]
    taken: list[int] = []
    for row in distances:
        row[taken] = np.inf
        taken.append(int(row.argmin()))
    return sorted(taken)


def _replays_by_kmeans(trainer: Any) -> bool:
    settings = trainer.training.CL
    return bool(settings.use_replay) and settings.replay_method == "kmeans"


@register_callback("kmeans_store", replay_method="kmeans")
class KMeansStore(Callback):
    """Writes ``kmeans_replay.npy`` at the end of a task; see the module."""

    def on_train_start(self, trainer: Any) -> None:
        """Refuse what could only fail after the training.

        Raises:
            ConfigError: the model has no ``cls_output``, or a key is missing.
        """
        if not _replays_by_kmeans(trainer):
            return
        model = trainer.config.model_config[trainer.config.model]
        if not model.get("use_cls"):
            raise ConfigError(
                f"callback kmeans_store clusters cls_output: it needs model_config.{trainer.config.model}.use_cls=True"
            )
        settings = trainer.training.CL
        rate = settings.replay_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ConfigError(f"training.CL.replay_rate={rate}: kmeans_store needs a number above 0 and up to 1")
        current, before, share = _share(trainer)
        if share < 1:
            raise ConfigError(
                f"training.CL.replay_rate={rate}: leaves no record for each of the {len(before) + 1} tasks up to "
                f"{current.name}"
            )
        if before and not settings.replay_dir:
            raise ConfigError(f"training.CL.replay_dir is missing: the folder of the task before, with {KMEANS_FILE}")

    def on_train_end(self, trainer: Any) -> None:
        """Choose the records and write them."""
        if not _replays_by_kmeans(trainer):
            return
        settings = trainer.training.CL
        current, before, share = _share(trainer)
        records = load_records(annotation_file(trainer.config.dataset_config.clvqa.data_dir, current, "train"))
        features = _cls_outputs(trainer, current)
        if not trainer.is_main:
            return
        index = {record["question_id"]: record for record in records}
        names = sorted(features)
        chosen = nearest_to_centres(np.stack([features[name] for name in names]), share)
        kept = [
            *(_kept_before(Path(settings.replay_dir, KMEANS_FILE), before, share) if before else []),
            *(index[names[at]] for at in chosen),
        ]
        save_records(trainer.files.folder / KMEANS_FILE, kept)
        what = "records nearest to the centres of k-means"
        stored_records(kept, trainer.config.dataset_config.clvqa, what).write(trainer.files.folder)
        trainer.writer.write(f"kmeans_store: {len(kept)} records kept, up to {share} of each task")


def _share(trainer: Any) -> tuple[Task, list[Task], int]:
    """The task that is learned, those before it, and how many records are kept of each."""
    settings = trainer.training.CL
    order, current = order_and_task(settings, "callback kmeans_store")
    before = order[: order.index(current)]
    size = train_size(trainer.config.dataset_config.clvqa.data_dir, current.setting, current)
    return current, before, int(size * settings.replay_rate) // (len(before) + 1)


def _cls_outputs(trainer: Any, current: Task) -> dict[str, np.ndarray]:
    """question_id -> cls_output (float32) of every real record of the current task, in every process."""
    found: dict[str, np.ndarray] = {}
    for dataset in trainer.splits["train"].datasets:
        # The same images are withheld (use_mask_img), however far the run was when it came here.
        dataset.set_epoch(0)
    with random_state_kept(), torch.no_grad(), without_dropout(trainer.network):
        for _, batch, dataset in trainer.splits["train"].evaluation_batches():
            batch = prepare(batch, dataset)
            outputs = trainer.network(batch)["cls_output"].float().cpu().numpy()
            for row, output in enumerate(outputs):
                if byte_tensor_to_object(batch.stage[row]) == current.name:
                    found[byte_tensor_to_object(batch.question_id[row])] = output
    return {name: output for part in gather(found) for name, output in part.items()}


def _kept_before(path: Path, before: Sequence[Task], share: int) -> list[dict[str, Any]]:
    """A random ``share`` of what was kept of each task before."""
    records = load_records(path)
    kept = []
    for known in before:
        own = [record for record in records if task(known.setting, record["stage"]) == known]
        kept += [own[at] for at in sorted(choose(len(own), share))] if share < len(own) else own
    return kept
