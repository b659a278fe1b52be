"""What a method keeps of earlier tasks, for the table that compares methods."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmclvqa.clove.features import has_image
from mmclvqa.clove.files import write_json
from mmclvqa.datasets.replay import select_replays

FILE = "stored.json"
"""Below ``env.save_dir``; absent where nothing is kept."""


@dataclass(frozen=True)
class Stored:
    """What is kept.

    Attributes:
        records: real records of earlier tasks.
        bytes: of all that is kept: the records as they are pickled, region features of their images as float32,
            importances.
        what: in words.
    """

    records: int
    bytes: int
    what: str

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a run's folder."""
        write_json(Path(folder) / FILE, asdict(self))


def write_random_replays(config: Any, folder: str | os.PathLike[str]) -> None:
    """Say what random replay kept for the task that was learned; nothing where another method is at work.

    Args:
        config: the whole configuration.
        folder: the run's.
    """
    settings = config.training.CL
    if settings.use_replay and settings.replay_method == "random":
        features = config.dataset_config.clvqa
        records = select_replays(features.data_dir, settings).records
        stored_records(records, features, "random records of earlier tasks").write(folder)


def stored_records(records: Iterable[Mapping[str, Any]], features: Any, what: str) -> Stored:
    """What records take.

    Args:
        records: the annotation records kept.
        features: ``dataset_config.clvqa``: ``max_features`` regions of ``feature_dim`` numbers each are kept of an
            image, twice that where it has OCR tokens; none where the stage says that it is withheld.
        what: in words.
    """
    records = list(records)
    region_bytes = 4 * features.max_features * features.feature_dim
    images = sum((1 + bool(r["ocr_tokens"])) for r in records if has_image(r["stage"]))
    size = sum(len(pickle.dumps(dict(record), protocol=4)) for record in records)
    return Stored(len(records), size + images * region_bytes, what)
