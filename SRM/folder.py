"""The run folder: the paths of its files, and the checks made before a run uses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from numpy.lib.format import MAGIC_PREFIX
from safetensors import SafetensorError, safe_open

from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.errors import ConfigError, DataError
from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import Task
from SRM.settings import Settings

ELSEWHERE = "choose another --model_dir_root, or pass --overwrite"


class RunFolder:
    """The folder of one language model trained along one task order.

    Attributes:
        settings: the settings of the run.
        skipped: the tasks of ``--skip_tasks``, which are not trained.
        path: ``<model_dir_root>/<model>_replay/<model>_<setting>_<order>``; ``--train_perc p`` appends ``_tr<p>`` to
            the root, and ``--lora_rank r`` appends ``_lora<r>`` to the model's name.
        settings_file: the file of the settings that determine the results.
        log: the log file; every start of the run appends to it.
        tensorboard: the folder of TensorBoard's event files.
        unfinished: the folder of the training checkpoint and of partly generated replays; removed when the run is
            complete.
    """

    def __init__(self, settings: Settings) -> None:
        model = experiments.language_model_name(settings.model_name, settings.lora_rank)
        self.settings, self.skipped = settings, settings.order[: len(settings.skip_tasks)]
        self.path = settings.model_root / experiments.srm_folder(model, settings.cl_setting, settings.task_seq)
        self.settings_file, self.log = self.path / "settings.json", self.path / "log_train.txt"
        self.tensorboard, self.unfinished = self.path / "tensorboard", self.path / "unfinished"

    def replay(self, past: Task, current: Task) -> Path:
        """Return the path of the replays of ``past`` that are generated before ``current`` is trained."""
        return self.path / experiments.replay_file(self.settings.task_seq, past, current)

    def joined_replay(self, current: Task) -> Path:
        """Return the path of the replays of all earlier tasks, generated before ``current`` is trained."""
        return self.path / f"{self.settings.task_seq}_REPLAY_AT[{current.letter}].npy"

    def model(self, task: Task) -> Path:
        """Return the folder of the model, configuration and tokenizer after training on ``task``."""
        return self.path / "models" / task.name

    def check_results(self) -> None:
        """Check the header and the end of files of an earlier run that this one would take for finished results.

        Raises:
            DataError: a replay file or the weights of a model are empty or truncated.
        """
        overwrite = self.settings.overwrite
        for task in self.skipped if overwrite else self.settings.order:
            if self.model(task).is_dir() and not _has_weights(self.model(task)):
                damage = f"{self.model(task)}: model.safetensors is missing, empty or truncated"
                raise DataError(f"{damage}; remove this folder to train task {task.name} again")
        for path in [] if overwrite else sorted(self.path.glob(f"{self.settings.task_seq}_REPLAY*_AT*.npy")):
            if not _is_complete(path):
                raise DataError(f"{path}: is empty or truncated; remove it to generate it again")

    def open(self, inputs: Mapping[str, int]) -> None:
        """Create the folder, or check that the run may resume in it, and remove temporary files.

        With ``--overwrite``, the files of an earlier run are deleted, except the models of skipped tasks.

        Args:
            inputs: the sizes of the input files by name, which determine the results as the settings do.

        Raises:
            ConfigError: the folder was made with other settings (the message names them), contains results without
                settings, or lacks the model of a skipped task.
            OSError: the folder cannot be written.
        """
        for task in self.skipped:
            if not self.model(task).is_dir():
                raise ConfigError(f"--skip_tasks: {self.model(task)} does not exist; train task {task.name} first")
        if self.settings.overwrite:
            self._clear()
        self.unfinished.mkdir(parents=True, exist_ok=True)
        for stale in [*self.path.rglob(".*.tmp")]:
            # A temporary folder that was removed may have contained a temporary file.
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        result_settings = self.settings.result_settings() | inputs
        results = (*self.path.glob("models/*"), *self.path.glob("*.npy"), *self.unfinished.iterdir())
        if self.settings_file.exists() and results:
            self._check_settings(result_settings)
            return
        if {*results} - {*map(self.model, self.skipped)}:
            reason = f"contains results but no {self.settings_file.name}, so their settings are unknown"
            raise ConfigError(f"{self.path}: {reason}; {ELSEWHERE}")
        write_json(self.settings_file, result_settings)

    def _check_settings(self, result_settings: Mapping[str, Any]) -> None:
        try:
            previous = json.loads(self.settings_file.read_text(encoding="utf-8"))
            # A setting that one of them lacks, because it was added to the code in between, has its default there.
            defaults = {one.name: one.default for one in fields(Settings)}
            names = sorted({*previous, *result_settings})
            values = {
                name: [run.get(name, defaults.get(name)) for run in (previous, result_settings)] for name in names
            }
            changes = [f"{name} was {before}, now {now}" for name, (before, now) in values.items() if before != now]
        except (ValueError, TypeError, AttributeError) as error:
            advice = "--overwrite deletes the results and starts over"
            raise ConfigError(f"{self.settings_file}: is not a valid settings file ({error}); {advice}") from None
        if changes:
            raise ConfigError(f"{self.path}: was made with other settings ({'; '.join(changes)}); {ELSEWHERE}")

    def _clear(self) -> None:
        """Delete the files that a run writes, except the models of skipped tasks, and nothing else."""
        for path in self.path.glob(f"{self.settings.task_seq}_REPLAY*_AT*"):
            path.unlink()
        for path in {*self.path.glob("models/*")} - {*map(self.model, self.skipped)}:
            shutil.rmtree(path)
        for path in (self.unfinished, self.tensorboard):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.settings_file, self.log):
            path.unlink(missing_ok=True)


def _has_weights(model: Path) -> bool:
    """Return whether a model's folder has safetensors files whose sizes are those that their headers declare."""
    files = [*model.glob("*.safetensors")]
    try:
        for path in files:
            with safe_open(path, "np"):
                pass
    except (SafetensorError, OSError):
        return False
    return bool(files)


def _is_complete(replay: Path) -> bool:
    """Return whether a replay file begins as an ``.npy`` file and ends as a pickled array."""
    content_end = b"b."  # the opcodes BUILD and STOP
    with replay.open("rb") as file:
        begins = file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
        file.seek(max(0, replay.stat().st_size - len(content_end)))
        return begins and file.read() == content_end


def statistics_file(replay: Path) -> Path:
    """Return the path of the statistics beside a replay file."""
    return replay.with_suffix(".json")
