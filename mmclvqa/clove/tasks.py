"""Settings, tasks, task orders and train sizes of CLOVE: the one place they are written down.

Source: "Symbolic Replay: Scene Graph as Prompt for Continual Learning on VQA Task", AAAI 2023.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

from mmclvqa.clove.errors import TaskError


@dataclass(frozen=True)
class Task:
    """One task of a setting.

    Attributes:
        setting: ``functional`` or ``scene``.
        letter: its letter in a task order.
        name: the ``stage`` its records carry, also used in file names.
        train_size: records in its published train split.
        val_size: records in its published val split (which is also the test split).
    """

    setting: str
    letter: str
    name: str
    train_size: int
    val_size: int

    @property
    def sweep_key(self) -> str:
        """How the task is written in a sweep key such as ``o2a`` or ``a#2b#``."""
        return self.letter if self.setting == "functional" else f"{self.letter}#"

    def annotation_path(self, split: str) -> str:
        """Its annotation file relative to the data root; ``test`` is ``val``."""
        split = "val" if split == "test" else split
        return f"{self.setting}/fcl_mmf_{self.name}_{split}.npy"


_TABLE: dict[str, tuple[tuple[str, str, int, int], ...]] = {
    "functional": (
        ("o", "object", 20000, 3000),
        ("a", "attribute", 18673, 3000),
        ("r", "relation", 20000, 3000),
        ("l", "logical", 20000, 3000),
        ("k", "knowledge", 20000, 3000),
        ("s", "scenetext", 16868, 2422),
    ),
    "scene": (
        ("a", "a#ShopAndDining", 20000, 3000),
        ("b", "b#Workplace", 20000, 3000),
        ("c", "c#HomeOrHotel", 20000, 3000),
        ("d", "d#Transportation", 20000, 3000),
        ("e", "e#SportAndLeisure", 20000, 3000),
        ("f", "f#Outdoors", 20000, 3000),
    ),
}

SETTINGS: tuple[str, ...] = tuple(_TABLE)

REPORTED_ORDERS: dict[str, tuple[str, ...]] = {
    "functional": ("oarlks", "roslak", "rklsao", "rsolak", "lkosra", "kaorls"),
    "scene": ("abcdef", "bdfcae", "beacfd", "beadcf", "bedfca", "ecdfab"),
}


@cache
def tasks(setting: str) -> dict[str, Task]:
    """The six tasks of ``setting`` by letter, in the setting's base order.

    Raises:
        TaskError: ``setting`` is not one of :data:`SETTINGS`.
    """
    if setting not in _TABLE:
        raise TaskError(f"unknown setting {setting!r}; the settings are {', '.join(SETTINGS)}")
    return {row[0]: Task(setting, *row) for row in _TABLE[setting]}


def task(setting: str, name: str) -> Task:
    """A task by its letter, its name, or the stage of a record made from it.

    ``attribute_gen``, ``attribute_replay`` and ``attribute_replay_##`` all name task ``attribute``.

    Raises:
        TaskError: no such task in ``setting``.
    """
    known = tasks(setting)
    if name in known:
        return known[name]
    bare = name.removesuffix("_##").removesuffix("_replay").removesuffix("_gen")
    for candidate in known.values():
        if candidate.name == bare:
            return candidate
    names = ", ".join(f"{t.letter} {t.name}" for t in known.values())
    raise TaskError(f"unknown task {name!r} of the {setting} setting; its tasks are {names}")


def parse_order(setting: str, order: str) -> list[Task]:
    """The tasks of a task order such as ``oarlks``, in learning order.

    Raises:
        TaskError: a foreign or repeated letter, or not all six letters.
    """
    known = tasks(setting)
    foreign = sorted(set(order) - set(known))
    if foreign:
        raise TaskError(
            f"task order {order!r}: {', '.join(foreign)} is no task of the {setting} setting "
            f"(its letters are {''.join(known)})"
        )
    repeated = sorted({letter for letter in order if order.count(letter) > 1})
    if repeated:
        raise TaskError(f"task order {order!r}: {', '.join(repeated)} stands more than once")
    if len(order) != len(known):
        missing = [letter for letter in known if letter not in order]
        raise TaskError(f"task order {order!r}: {', '.join(missing)} is missing")
    return [known[letter] for letter in order]


def order_index(setting: str, order: str) -> int:
    """The index N of a task order in ``itertools.permutations`` of the base order, counted from 1.

    It is the number in ``setting_<N>_<order>`` and ``S<N>``: oarlks 1, roslak 261, ...
    """
    wanted = tuple(t.letter for t in parse_order(setting, order))
    permutations = itertools.permutations(tasks(setting))
    return next(index for index, letters in enumerate(permutations, start=1) if letters == wanted)
