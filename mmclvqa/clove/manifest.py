"""The manifest of a data root: which tasks it has and how many records each.

``manifest.json`` is written beside generated data; published CLOVE has none and its sizes are those of
:mod:`mmclvqa.clove.tasks`. Replay counts on these numbers, see :mod:`mmclvqa.datasets.replay`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmclvqa.clove import layout
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import SETTINGS, Task, task, tasks

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes:
        name: of the data set, such as ``clove-mini``.
        seed: it was generated with, None where it was not.
        tasks: ``{setting: {task name: {"train": records, "val": records}}}``.
        shape: sizes of features and texts, free.
    """

    name: str
    seed: int | None
    tasks: dict[str, dict[str, dict[str, int]]]
    shape: dict[str, Any] = field(default_factory=dict)


def load_manifest(root: str | os.PathLike[str]) -> Manifest | None:
    """The manifest of a data root, None where it has none.

    Raises:
        DataError: the file is there and is no manifest.
    """
    path = Path(root) / layout.MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise DataError(f"{path}: is no valid JSON ({error})") from None
    if not isinstance(value, dict) or not isinstance(value.get("tasks"), dict):
        raise DataError(f"{path}: is no manifest: it has no 'tasks' by setting")
    for setting, sizes in value["tasks"].items():
        _check_setting(path, setting, sizes)
    return Manifest(str(value.get("name", "")), value.get("seed"), value["tasks"], value.get("shape") or {})


def _check_setting(path: Path, setting: str, sizes: Any) -> None:
    if setting not in SETTINGS:
        raise DataError(f"{path}: {setting!r} is no setting; the settings are {', '.join(SETTINGS)}")
    if not isinstance(sizes, dict):
        raise DataError(f"{path}: the {setting} setting is no table of tasks")
    names = [known.name for known in tasks(setting).values()]
    for name, counts in sizes.items():
        if name not in names:
            raise DataError(f"{path}: {name!r} is no task of the {setting} setting ({', '.join(names)})")
        for split in SPLITS:
            count = counts.get(split) if isinstance(counts, dict) else None
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise DataError(f"{path}: {setting}, {name}: {split!r} is no number of records")


def save_manifest(root: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write ``manifest.json`` into a data root."""
    value = {
        "name": manifest.name,
        "seed": manifest.seed,
        "tasks": manifest.tasks,
        "shape": manifest.shape,
    }
    write_json(Path(root) / layout.MANIFEST, value)


def sizes(root: str | os.PathLike[str], setting: str, name: str | Task) -> dict[str, int]:
    """How many records a task has by split: the manifest's numbers, the published ones where there is none.

    Args:
        root: the data root.
        setting: ``functional`` or ``scene``.
        name: a task, its letter, its name or a stage made from it.

    Raises:
        DataError: the manifest is broken or does not have the task.
        TaskError: no such setting or task.
    """
    wanted = name if isinstance(name, Task) else task(setting, name)
    manifest = load_manifest(root)
    if manifest is None:
        return {"train": wanted.train_size, "val": wanted.val_size}
    try:
        return manifest.tasks[setting][wanted.name]
    except KeyError:
        path = Path(root) / layout.MANIFEST
        raise DataError(f"{path}: does not have task {wanted.name} of the {setting} setting") from None


def train_size(root: str | os.PathLike[str], setting: str, name: str | Task) -> int:
    """The train size n(t) of a task, as the replay rule counts it; see :func:`sizes`."""
    return sizes(root, setting, name)["train"]
