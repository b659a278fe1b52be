"""Names and places of a run's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmclvqa.clove import experiments
from mmclvqa.clove.tasks import Task
from SRM.settings import Settings


@dataclass(frozen=True)
class RunFolder:
    """The folder of one model along one task order.

    Attributes:
        path: ``<model_dir_root>/<model>_replay/<model>_<setting>_<order>``, with ``_tr<p>`` behind the root for
            ``--train_perc p``.
        order: the task order, six letters.
    """

    path: Path
    order: str

    @classmethod
    def of(cls, settings: Settings) -> RunFolder:
        """The run folder that ``settings`` name."""
        folder = experiments.srm_folder(settings.model_name, settings.cl_setting, settings.task_seq)
        return cls(settings.model_root / folder, settings.task_seq)

    def replay(self, past: Task, current: Task) -> Path:
        """Replays of task ``past`` made when ``current`` is about to be learned."""
        return self.path / experiments.replay_file(self.order, past, current)

    def joined_replay(self, current: Task) -> Path:
        """All replays made when ``current`` is about to be learned."""
        return self.path / f"{self.order}_REPLAY_AT[{current.letter}].npy"

    def model(self, learned: Task) -> Path:
        """Model, tokenizer and configuration after task ``learned``."""
        return self.path / "models" / learned.name

    @property
    def settings(self) -> Path:
        """What the run was told."""
        return self.path / "settings.json"

    @property
    def log(self) -> Path:
        """The log, appended to by every start of the run."""
        return self.path / "log_train.txt"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def unfinished(self) -> Path:
        """What is kept of a task in training and of a replay file in the making, gone when the run is done."""
        return self.path / "unfinished"


def sidecar(replay: Path) -> Path:
    """The statistics beside a replay file."""
    return replay.with_suffix(".json")
