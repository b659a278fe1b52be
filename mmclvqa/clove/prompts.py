"""Scene-graph prompts: what SRM begins a pseudo scene graph with.

A file holds ``{task name: [[item, ...], ...]}``: per task a list of prompts, each a short list of items
such as ``"red car"`` or ``"man on horse"``, without the `` [SEP]`` of a record's items.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import task, tasks


def load_prompts(path: str | os.PathLike[str], setting: str | None = None) -> dict[str, list[list[str]]]:
    """The prompts of a file by task name; it may have fewer tasks than the setting.

    Args:
        path: the JSON file.
        setting: when given, its tasks are the only names allowed.

    Raises:
        DataError: the file is missing or malformed; the message names task, prompt and item.
        TaskError: no such setting.
    """
    path = Path(path)
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no valid JSON ({error})") from None
    _check(prompts, str(path), setting)
    return prompts


def task_prompts(path: str | os.PathLike[str], setting: str, name: str) -> list[list[str]]:
    """The prompts of one task.

    Args:
        path: the JSON file.
        setting: the setting it belongs to.
        name: the task's letter or name.

    Raises:
        DataError: the file is missing, malformed or has no prompt for the task.
        TaskError: no such setting or task.
    """
    wanted = task(setting, name).name
    prompts = load_prompts(path, setting).get(wanted)
    if not prompts:
        raise DataError(f"{path}: has no prompt for task {wanted}")
    return prompts


def save_prompts(path: str | os.PathLike[str], prompts: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Write prompts by task name as JSON.

    Raises:
        DataError: they are not what :func:`load_prompts` would read.
    """
    kept = {name: [list(prompt) for prompt in listed] for name, listed in prompts.items()}
    _check(kept, str(path), None)
    write_json(path, kept, indent=None)


def _check(prompts: Any, where: str, setting: str | None) -> None:
    if not isinstance(prompts, dict):
        raise DataError(f"{where}: holds {type(prompts).__name__} instead of a table of tasks")
    names = {known.name for known in tasks(setting).values()} if setting else prompts.keys()
    for name, listed in prompts.items():
        if name not in names:
            raise DataError(f"{where}: {name!r} is no task of the {setting} setting")
        if not isinstance(listed, list):
            raise DataError(f"{where}: task {name}: {type(listed).__name__} instead of a list of prompts")
        for index, prompt in enumerate(listed):
            if not isinstance(prompt, list) or not prompt:
                raise DataError(f"{where}: task {name}: prompt {index} is no list of items")
            for item in prompt:
                if not isinstance(item, str) or not item.strip():
                    raise DataError(f"{where}: task {name}: prompt {index} has the item {item!r}, no text")
