"""A run folder: whether it may be continued, and beginning anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import Task
from SRM.folders import RunFolder
from SRM.settings import SettingsError


def open_folder(folder: RunFolder, told: Mapping[str, Any], overwrite: bool, skipped: Sequence[Task]) -> None:
    """Make a run folder, or see that one may be continued.

    Args:
        folder: of the run.
        told: what decides its results, in plain JSON values.
        overwrite: throw away what is there, except for the models of ``skipped``.
        skipped: tasks whose models must be there.

    Raises:
        SettingsError: it was made with other settings (they are named), or holds replays of unknown settings.
        OSError: it cannot be written.
    """
    if overwrite:
        _clear(folder, skipped)
    for task in skipped:
        if not folder.model(task).is_dir():
            raise SettingsError(
                f"--skip_tasks: {folder.model(task)} is not there, so task {task.name} must be trained"
            )
    folder.unfinished.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.path.rglob(".*.tmp")]:
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    told = json.loads(json.dumps(told))
    if folder.settings.exists():
        _compare(folder.settings, told)
        return
    if any(folder.path.glob("*.npy")):
        raise SettingsError(
            f"{folder.path}: holds replay files but no {folder.settings.name}, so it is not known how they were made; "
            "choose another --model_dir_root, or --overwrite"
        )
    write_json(folder.settings, told)


def _compare(path: Path, told: Mapping[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        names = sorted({*before, *told})
        other = [
            f"{name} was {before.get(name)}, now {told.get(name)}"
            for name in names
            if before.get(name) != told.get(name)
        ]
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{path}: is broken ({error}); --overwrite begins anew") from None
    if other:
        raise SettingsError(
            f"{path.parent}: was made with other settings ({'; '.join(other)}); "
            "choose another --model_dir_root, or --overwrite"
        )


def _clear(folder: RunFolder, skipped: Sequence[Task]) -> None:
    """Remove what a run writes, and nothing else."""
    kept = {folder.model(task) for task in skipped}
    for path in folder.path.glob(f"{folder.order}_REPLAY*_AT*"):
        path.unlink()
    for path in folder.path.glob("models/*"):
        if path not in kept:
            shutil.rmtree(path)
    for path in (folder.unfinished, folder.tensorboard):
        shutil.rmtree(path, ignore_errors=True)
    for path in (folder.settings, folder.log):
        path.unlink(missing_ok=True)
