"""Pairs of a checkpoint and a task, and the accuracies that are kept of them: ``<learned>2<tested>/results.json``.

The file is of the form that every run writes (:mod:`mmclvqa.trainers.results`); its ``run`` block also tells what
was evaluated, by hash, so that a changed checkpoint, data set or configuration is evaluated again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import Task
from mmclvqa.evaluation.setup import Setup, file_sha256

METRIC = "textvqa_accuracy"
RESULTS = "results.json"


@dataclass(frozen=True)
class Pair:
    """One checkpoint to be evaluated on one task.

    Attributes:
        key: such as ``o2a``.
        learned: what the checkpoint is called.
        checkpoint: the file.
        tested: the task on whose val split it is evaluated.
        folder: where the result is kept.
    """

    key: str
    learned: str
    checkpoint: Path
    tested: Task
    folder: Path

    def identity(self, setup: Setup) -> dict[str, str]:
        """What the result depends on, by hash.

        Raises:
            DataError: the task's configuration file is missing or broken.
            OSError: the checkpoint cannot be read.
        """
        return {
            "checkpoint_sha256": file_sha256(self.checkpoint),
            "inputs_sha256": setup.inputs_sha256(self.tested),
        }

    def kept(self, identity: Mapping[str, str]) -> dict[str, Any] | None:
        """The result entry that is kept, None where there is none of this very identity."""
        try:
            content = json.loads((self.folder / RESULTS).read_text(encoding="utf-8"))
            run, entry = content["run"], content["evaluations"][-1]
            same = all(run[name] == value for name, value in identity.items())
            return entry if same and _is_accuracy(entry["metrics"][METRIC]) else None
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            # Made by something else, or never finished: to be evaluated (again).
            return None

    def keep(self, identity: Mapping[str, str], entry: Mapping[str, Any]) -> None:
        """Write a result entry.

        Raises:
            OSError: the folder cannot be written.
        """
        run = {"learned": self.learned, "tested": self.tested.name, **identity}
        write_json(self.folder / RESULTS, {"run": run, "evaluations": [entry]})


def _is_accuracy(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
