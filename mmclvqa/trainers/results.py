"""``results.json`` of a run: every evaluation it made, readable by people and by the sweep."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import write_json

FILE_NAME = "results.json"
TRAINING = "training"
"""``weights`` of an entry made during training; others name the file whose weights were evaluated."""


@dataclass
class Evaluation:
    """One data set of one split, evaluated once.

    Attributes:
        split: ``val`` or ``test``.
        dataset: name of the data set.
        update: updates the weights had seen; None where the weights do not say.
        weights: :data:`TRAINING`, or the file the weights came from.
        metrics: value of each metric (``<metric>`` and ``<metric>/<sub>``).
        losses: each loss by the model's own key, averaged over records.
        loss: sum of the losses; None where the records have no targets.
        records: records evaluated, over all processes.
        seconds: it took.
    """

    split: str
    dataset: str
    update: int | None = None
    weights: str = TRAINING
    metrics: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    loss: float | None = None
    records: int = 0
    seconds: float = 0.0

    def values(self) -> dict[str, float]:
        """Metrics and losses under MMF's keys: ``val/clvqa/textvqa_accuracy``."""
        return self.losses | {f"{self.split}/{self.dataset}/{name}": v for name, v in self.metrics.items()}

    def entry(self) -> dict[str, Any]:
        """As it stands in the file; numbers that JSON cannot say become null."""
        return {
            "update": self.update,
            "split": self.split,
            "dataset": self.dataset,
            "weights": self.weights,
            "metrics": {name: _finite(value) for name, value in self.metrics.items()},
            "loss": _finite(self.loss),
            "records": self.records,
            "seconds": round(self.seconds, 3),
        }


class Results:
    """The file, kept up to date after each evaluation.

    Args:
        save_dir: its folder.
        run: facts about the run that stand beside the evaluations.

    Raises:
        DataError: the file is there and is not what this class writes.
    """

    def __init__(self, save_dir: str | Path, run: dict[str, Any]) -> None:
        self.path = Path(save_dir) / FILE_NAME
        self.run = run
        self.entries: list[dict[str, Any]] = []
        if self.path.exists():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                self.entries = list(content["evaluations"])
                self.run = content["run"] | run
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{self.path} is not a results file of this program; move it away") from None

    def begin_training(self, num_updates: int) -> None:
        """Drop what a run that starts (again) at ``num_updates`` is about to make itself."""
        if num_updates == 0:
            self.entries = []
        self.entries = [e for e in self.entries if e["weights"] != TRAINING or e["update"] <= num_updates]

    def add(self, evaluations: list[Evaluation]) -> None:
        """Add entries, replacing those of the same weights, split and data set, and write the file."""
        new = [evaluation.entry() for evaluation in evaluations]
        identities = [_identity(entry) for entry in new]
        self.entries = [e for e in self.entries if _identity(e) not in identities] + new
        self.write()

    def write(self) -> None:
        """Write the file."""
        write_json(self.path, {"run": self.run, "evaluations": self.entries})


def _identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    update = entry["update"] if entry["weights"] == TRAINING else None
    return entry["weights"], update, entry["split"], entry["dataset"]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
