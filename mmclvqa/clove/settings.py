"""Settings: the tasks that are learned one after another, their task orders and image sources, read from YAML files.

``docs/your_own.md`` explains the keys of a file. :mod:`mmclvqa.clove.tasks` finds settings by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from mmclvqa.clove.errors import DataError, TaskError
from mmclvqa.clove.files import read_yaml
from mmclvqa.clove.text import did_you_mean

PACKAGE_FOLDER = Path(__file__).parents[1] / "settings"
"""Folder of this package's settings, which describe published data."""

GENERATED_SUFFIX = "_gen"
REPLAY_SUFFIX = "_replay"
MASKED_SUFFIX = "_##"
_SUFFIXES = re.compile(rf"({GENERATED_SUFFIX}|{REPLAY_SUFFIX}|{MASKED_SUFFIX})*$")

ALL_TASKS = "multitask"
"""Name of the current task in joint training on all tasks of a setting; no task has this name."""
PROMPT_KINDS = ("any", "object", "attribute", "relation", "comparison", "fact", "word")
"""How the scene-graph prompts of a task are sampled, see :mod:`mmclvqa.clove.prompts`."""
MOST_BYTES = 200
"""Limit for the part of a file name that names tasks; of 255 bytes, the rest is for a language model and suffixes."""
JOINT = "-"
"""Separator in orders of short names that are longer than one letter; short names do not contain it."""

_NAME = re.compile(r"[^\W\d_](?:[\w #.+-]*[\w#.+-])?")
"""A name, as it occurs in paths, shell words, Python literals, tokens of SRM and configuration overrides."""
_KEYS: dict[str, tuple[str, ...]] = {
    "": ("tasks", "orders", "image_sources", "annotations", "sweep_key", "description", "abbreviation", "task_configs",
         "published"),
    "tasks": ("letter", "name", "train", "val", "annotations", "prompts", "prompt_items", "description"),
    "image_sources": ("features", "prefix"),
}  # fmt: skip
"""Keys of a file, of one of its tasks, and of one of its image sources."""


def stage_suffixes(stage: str) -> str:
    """Return the suffixes of a stage, such as ``_replay_##``, in any order; empty for real records."""
    return _SUFFIXES.search(stage)[0]


def task_name(stage: str) -> str:
    """Return the task name of a stage, without replay suffixes."""
    return stage.removesuffix(stage_suffixes(stage))


@dataclass(frozen=True)
class Task:
    """One task of a setting.

    Attributes:
        setting: name of the setting.
        letter: the letter or short name of the task in a task order.
        name: the ``stage`` of its records, also used in file names.
        train_size: number of records in the train split; None if the setting does not say.
        val_size: number of records in the val split, which is also the test split; None if the setting does not say.
        annotations: path of the annotation files relative to the data root, with ``{split}``.
        sweep_key: the task as written in a sweep key such as ``o2a`` or ``a#2b#``.
        prompts: how its scene-graph prompts are sampled, one of :data:`PROMPT_KINDS`.
        prompt_items: maximum number of items of a prompt from which SRM generates a replay.
        description: for the report.
    """

    setting: str
    letter: str
    name: str
    train_size: int | None
    val_size: int | None
    annotations: str
    sweep_key: str
    prompts: str
    prompt_items: int
    description: str

    def annotation_path(self, split: str) -> str:
        """Return the annotation file of a split relative to the data root; ``test`` is ``val``."""
        return self.annotations.replace("{split}", "val" if split == "test" else split)


@dataclass(frozen=True)
class ImageSource:
    """A source of images, to which the ``image_source`` of records refers.

    Attributes:
        features: feature databases relative to the folder of features: object regions, then possibly OCR regions.
        prefix: start of the feature paths in the databases, which paths in records may lack.
    """

    features: tuple[str, ...]
    prefix: str = ""


@dataclass(frozen=True)
class Setting:
    """Tasks that are learned one after another.

    Attributes:
        name: name of the file without extension.
        file: the YAML file.
        tasks: the tasks by letter, in the base order.
        orders: the reported task orders, or the base order.
        image_sources: image sources by name; empty if the images are those of this package's settings.
        description: for the report.
        abbreviation: start of the names of run scripts.
        task_configs: whether a folder of configuration files has one for each task of the setting.
        published: JSON file of published results in the format of ``mmclvqa/evaluation/published.json``.
    """

    name: str
    file: Path
    tasks: dict[str, Task]
    orders: tuple[str, ...]
    image_sources: dict[str, ImageSource]
    description: str
    abbreviation: str
    task_configs: bool
    published: Path | None

    @property
    def in_package(self) -> bool:
        """Whether it is one of this package's settings."""
        return self.file.parent == PACKAGE_FOLDER

    def reference(self) -> dict[str, str]:
        """Return entries that identify the setting in results: its name, and its file unless it is in the package."""
        return {"cl_setting": self.name} | ({} if self.in_package else {"setting_file": str(self.file)})

    def parse_order(self, order: str) -> list[Task]:
        """Return the tasks of a task order, in the order they are learned.

        Raises:
            TaskError: an unknown, repeated or missing task.
        """
        letters = _are_letters(self.tasks)
        if "," in order:
            by_name = {task.name: task.letter for task in self.tasks.values()}
            parts = [by_name.get(part.strip(), part.strip()) for part in order.split(",")]
        else:
            parts = list(order) if letters else order.split(JOINT)
        unknown = sorted(set(parts) - set(self.tasks))
        if unknown:
            known = f"letters are {''.join(self.tasks)}" if letters else f"tasks are {', '.join(self.tasks)}"
            names = ", ".join(part or repr(part) for part in unknown)
            verb = "is not a task" if len(unknown) == 1 else "are not tasks"
            raise TaskError(f"task order {order!r}: {names} {verb} of the {self.name} setting (its {known})")
        repeated = sorted({part for part in parts if parts.count(part) > 1})
        if repeated:
            verb = "occurs" if len(repeated) == 1 else "occur"
            raise TaskError(f"task order {order!r}: {', '.join(repeated)} {verb} more than once")
        missing = [letter for letter in self.tasks if letter not in parts]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            raise TaskError(f"task order {order!r}: {', '.join(missing)} {verb} missing")
        return [self.tasks[part] for part in parts]

    def order_index(self, order: str) -> int:
        """Return the position of a task order in ``itertools.permutations(base order)``, counted from 1.

        Raises:
            TaskError: an unknown, repeated or missing task.
        """
        remaining_tasks, index = list(self.tasks.values()), 1
        for task in self.parse_order(order):
            position = remaining_tasks.index(task)
            del remaining_tasks[position]
            index += position * math.factorial(len(remaining_tasks))
        return index


def order_text(order: Sequence[Task]) -> str:
    """Return a task order as in file names: ``oarlks``, or ``shape-color-count`` if short names are longer."""
    letters = [task.letter for task in order]
    return ("" if _are_letters(letters) else JOINT).join(letters)


def _are_letters(short_names: Iterable[str]) -> bool:
    return all(len(short_name) == 1 for short_name in short_names)


def read_setting(path: Path, content: Any = None) -> Setting:
    """Return the setting of a file, or the one that a file with the given content would describe.

    Raises:
        TaskError: the file cannot be read, or the content is not valid; the message names the key and what to do.
    """
    try:
        return _Reader(path).setting(read_yaml(path) if content is None else content)
    except DataError as error:
        raise TaskError(str(error)) from None


@dataclass(frozen=True)
class _Reader:
    """Reads the content of a setting file."""

    file: Path

    def setting(self, content: Any) -> Setting:
        self._check_name("the file's name", self.file.stem)
        self._check_keys("", content)
        tasks = self._tasks(content)
        sources = content.get("image_sources") or {}
        if not isinstance(sources, dict):
            raise self._error("image_sources", "must be a table of sources by name")
        published = self._text(content, "published", default="")
        abbreviation = self._text(content, "abbreviation", default=self.file.stem)
        self._check_name("abbreviation", abbreviation)
        setting = Setting(
            name=self.file.stem,
            file=self.file,
            tasks=tasks,
            orders=(order_text(list(tasks.values())),),
            image_sources={name: self._source(f"image_sources.{name}", row) for name, row in sources.items()},
            description=self._text(content, "description", default=""),
            abbreviation=abbreviation,
            task_configs=self._value(content, "task_configs", "", False, bool, "true or false"),
            published=self.file.parent / published if published else None,
        )
        return replace(setting, orders=self._orders(setting, content.get("orders")))

    def _tasks(self, content: Mapping[str, Any]) -> dict[str, Task]:
        rows = content.get("tasks")
        if not isinstance(rows, list) or len(rows) < 2:
            raise self._error("tasks", "must be a list of at least two tasks")
        tasks: list[Task] = []
        for number, row in enumerate(rows):
            task = self._task(f"tasks[{number}]", row, content)
            for key, text in (("letter", task.letter), ("name", task.name)):
                for index, other in enumerate(tasks):
                    if text in (other.letter, other.name):
                        problem = f"{text!r} is also that of tasks[{index}]; rename one"
                        raise self._error(f"tasks[{number}].{key}", problem)
            for index, other in enumerate(tasks):
                if task.annotations == other.annotations:
                    problem = f"{task.annotations!r} is also that of tasks[{index}], whose records it would train on"
                    raise self._error(f"tasks[{number}].annotations", f"{problem}; add {{name}} to the path")
            tasks.append(task)
        longest = max(len(text.encode()) for task in tasks for text in (task.letter, task.name))
        size = len(f"{self.file.stem}_{order_text(tasks)}_REPLAY[]_AT[]".encode()) + 2 * longest
        if size > MOST_BYTES:
            problem = f"file names would have {size} bytes for the tasks and their order, and {MOST_BYTES} are possible"
            raise self._error("tasks", f"{problem}; give the tasks shorter letters or names")
        keys = [f"{learned.sweep_key}2{tested.sweep_key}" for learned, tested in product(tasks, tasks)]
        if len(set(keys)) < len(keys):
            raise self._error("tasks", "sweep keys such as a2b are ambiguous; use letters without the digit 2")
        return {task.letter: task for task in tasks}

    def _task(self, key: str, row: Any, content: Mapping[str, Any]) -> Task:
        self._check_keys(key, row)
        name = self._text(row, "name", key)
        letter = self._text(row, "letter", key, name.replace(JOINT, "_"))
        self._check_name(f"{key}.name", name)
        self._check_name(f"{key}.letter", letter)
        if task_name(name) != name or name == ALL_TASKS:
            raise self._error(f"{key}.name", f"{name!r} is reserved for replays and joint training; use another name")
        if JOINT in letter:
            raise self._error(f"{key}.letter", f"{letter!r} contains {JOINT!r}, which joins short names in task orders")
        annotations = self._text(content, "annotations", default="{setting}/{name}_{split}.npy")
        annotations = self._text(row, "annotations", key, annotations)
        if "{split}" not in annotations:
            raise self._error(f"{key}.annotations", f"{annotations!r} must contain {{split}}, for train and val")
        prompts = self._text(row, "prompts", key, PROMPT_KINDS[0])
        if prompts not in PROMPT_KINDS:
            raise self._error(f"{key}.prompts", f"{prompts!r} is not one of {', '.join(PROMPT_KINDS)}")
        fields = {"{setting}": self.file.stem, "{name}": name, "{letter}": letter}
        return Task(
            setting=self.file.stem,
            letter=letter,
            name=name,
            train_size=self._count(row, "train", key),
            val_size=self._count(row, "val", key),
            annotations=_filled(annotations, fields),
            sweep_key=_filled(self._text(content, "sweep_key", default="{letter}"), fields),
            prompts=prompts,
            prompt_items=self._count(row, "prompt_items", key) or 1,
            description=self._text(row, "description", key, ""),
        )

    def _source(self, key: str, row: Any) -> ImageSource:
        self._check_keys(key, row)
        features = row.get("features")
        features = [features] if isinstance(features, str) else features
        if not isinstance(features, list) or len(features) not in (1, 2) or set(map(type, features)) != {str}:
            raise self._error(f"{key}.features", "must be one or two databases: of objects, then of OCR tokens")
        return ImageSource(tuple(features), self._text(row, "prefix", key, ""))

    def _orders(self, setting: Setting, orders: Any) -> tuple[str, ...]:
        if orders is None:
            return setting.orders
        if not isinstance(orders, list | dict) or not orders:
            raise self._error("orders", "must be a list of task orders, or a table of task orders and their indices")
        try:
            indices = {order: setting.order_index(str(order)) for order in orders}
        except TaskError as error:
            raise self._error("orders", f"{error}; correct the order") from None
        for order, index in orders.items() if isinstance(orders, dict) else ():
            if index != indices[order]:
                raise self._error(f"orders.{order}", f"its index is {indices[order]}, not {index!r}; correct the index")
        return tuple(order_text(setting.parse_order(str(order))) for order in orders)

    def _check_keys(self, key: str, content: Any) -> None:
        if not isinstance(content, dict):
            raise self._error(key or "the file", "must be a table of keys and values")
        allowed_keys = _KEYS[re.split(r"[.\[]", key)[0]]
        for name in content:
            if name not in allowed_keys:
                hint = did_you_mean(name, allowed_keys) or f"; the keys are {', '.join(allowed_keys)}"
                raise self._error(f"{key}.{name}".lstrip("."), f"there is no such key{hint}")

    def _check_name(self, key: str, name: str) -> None:
        if not _NAME.fullmatch(name):
            allowed = "a letter, then letters, digits, spaces and _ # . + - are allowed"
            raise self._error(key, f"{name!r} is not a name: {allowed}")

    def _value(self, row: Mapping[str, Any], name: str, key: str, default: Any, kind: type, what: str) -> Any:
        value = row.get(name, default)
        if type(value) is not kind:
            problem = "is missing" if value is None else f"is {value!r}"
            raise self._error(f"{key}.{name}".lstrip("."), f"{problem}; it must be {what}")
        return value

    def _text(self, row: Mapping[str, Any], name: str, key: str = "", default: str | None = None) -> str:
        return self._value(row, name, key, default, str, "text; put quotes around it if YAML reads it as another type")

    def _count(self, row: Mapping[str, Any], name: str, key: str) -> int | None:
        value = row.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise self._error(f"{key}.{name}", f"is {value!r}; it must be a whole number above 0")
        return value

    def _error(self, key: str, message: str) -> TaskError:
        return TaskError(f"{self.file}: {key}: {message}")


def _filled(pattern: str, fields: Mapping[str, str]) -> str:
    """Replace all fields at once, so that values that contain a field stay unchanged."""
    return re.sub("|".join(map(re.escape, fields)), lambda match: fields[match[0]], pattern)
