"""Settings made for tests: their files, and clove-mini's records rearranged as their tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mmclvqa.clove.data_root import GQA_FEATURES
from mmclvqa.clove.records import load_records, save_records
from mmclvqa.clove.tasks import find_setting, tasks

NAMES = {
    "two": ("shape", "colour"),
    "ten": ("shape", "colour", "count", "size", "place", "text", "time", "use", "owner", "sound"),
    "odd": ("rot #1", "grün + b", "Ω"),
}
"""Names of the tasks of each setting."""


def write_setting(root: Path, name: str, **more: Any) -> Path:
    """Write one of the settings into a data root and return the path of its file."""
    path = root / "settings" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"tasks": [{"name": task, "description": f"about {task}"} for task in NAMES[name]], **more}
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def write_config(project: Path, folder: Path) -> Path:
    """Write a configuration folder with clove-mini's sizes, for which the workflow does not generate clove-mini.

    Args:
        project: the project's folder.
        folder: the folder to make.
    """
    folder.mkdir()
    (folder / "setting.yaml").write_text(f"includes: [{project}/EXP_CONFIG/mini/setting.yaml]\n")
    return folder


def rearrange(mini: Path, root: Path, file: Path, records: int = 16, source: str | None = None) -> None:
    """Fill a data root with clove-mini's models and images, and its records as tasks of the setting of a file.

    Args:
        mini: clove-mini.
        root: the data root.
        file: the setting file.
        records: records of each split of a task.
        source: name of an image source; None keeps clove-mini's.
    """
    for shared in ("pretrained", "vocab"):
        (root / shared).symlink_to(mini / shared)
    setting = find_setting(file)
    databases = {name: path for name, one in setting.image_sources.items() for path in one.features}
    links = {f"features/{databases[source]}": GQA_FEATURES} if source else {"features": "features"}
    for link, target in links.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(mini / target)
    originals = list(tasks("functional").values())[:2]
    for number, task in enumerate(setting.tasks.values()):
        for split in ("train", "val"):
            loaded = load_records(mini / originals[number % 2].annotation_path(split))[:records]
            changed = {"stage": task.name} | ({"image_source": source} if source else {})
            save_records(root / task.annotation_path(split), [record | changed for record in loaded])
