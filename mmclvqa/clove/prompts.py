"""Scene-graph prompts: their files, and sampling them from the training records of a task.

A prompt is a short list of items such as ``"red car"`` or ``"man on horse"`` with which SRM begins a pseudo scene
graph. A file contains ``{task name: [[item, ...], ...]}``; items do not have the `` [SEP]`` of the items of records.

The items of sampled prompts are drawn with weight log(1 + count) from the most frequent related items (mask 1) of the
task's training records. Only these counts outlive a task, not its records. The setting says which kind of prompts a
task has:

- any: one item; object: one object, with or without attributes; attribute: one object with attributes;
- relation: a triple, then a triple that shares an object with it;
- comparison: two objects with the same value of a kind of attribute, which is drawn with :data:`KIND_WEIGHTS`;
- fact: a fact, then an item about its subject;
- word: one item with ``[OCR] word``.

The two items of a prompt always differ.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmclvqa.clove.data_root import existing_annotation_file
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import read_json, write_json
from mmclvqa.clove.records import ITEM_END, load_records
from mmclvqa.clove.scene_graph_items import Item, head, read_item
from mmclvqa.clove.tasks import Task, task, tasks

MOST_FREQUENT = 5000
"""Number of the most frequent items of a task from which prompts are drawn."""
PUBLISHED_PROMPTS = 20000
"""Number of prompts per task in the published file."""
KIND_WEIGHTS = {"color": 10, "material": 5, "shape": 1}
"""Weights of the kinds of attribute by which comparison prompts compare objects."""
NO_FACT = "a type of"
"""Predicate of taxonomic facts, about which no question asks; such facts are not used as prompts."""


def load_prompts(path: str | os.PathLike[str], setting: str | None = None) -> dict[str, list[list[str]]]:
    """Read the prompts of a file by task name; the file may omit tasks, but has no others than those of ``setting``.

    Raises:
        DataError: the file is missing or malformed; the message names task, prompt and item.
        TaskError: unknown setting.
    """
    prompts = read_json(path)
    _check(prompts, str(path), setting)
    return prompts


def task_prompts(path: str | os.PathLike[str], setting: str, name: str) -> list[list[str]]:
    """Read the prompts of one task, given by its letter or name.

    Raises:
        DataError: the file is missing, malformed or has no prompt for the task.
        TaskError: unknown setting or task.
    """
    task_name = task(setting, name).name
    prompts = load_prompts(path, setting).get(task_name)
    if not prompts:
        raise DataError(f"{path}: has no prompt for task {task_name}")
    return prompts


def save_prompts(path: str | os.PathLike[str], prompts: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Write prompts by task name as JSON.

    Raises:
        DataError: the prompts are malformed, so that :func:`load_prompts` would reject them.
    """
    value = {name: [list(prompt) for prompt in task_prompts] for name, task_prompts in prompts.items()}
    _check(value, str(path), None)
    write_json(path, value, indent=None)


def _check(prompts: Any, where: str, setting: str | None) -> None:
    if not isinstance(prompts, dict):
        raise DataError(f"{where}: is {type(prompts).__name__} instead of a table of tasks")
    names = {candidate.name for candidate in tasks(setting).values()} if setting else prompts.keys()
    for name, task_prompts in prompts.items():
        if name not in names:
            raise DataError(f"{where}: {name!r} is not a task of the {setting} setting")
        if not isinstance(task_prompts, list):
            raise DataError(f"{where}: task {name}: {type(task_prompts).__name__} instead of a list of prompts")
        for index, prompt in enumerate(task_prompts):
            if not isinstance(prompt, list) or not prompt:
                raise DataError(f"{where}: task {name}: prompt {index} is not a list of items")
            for item in prompt:
                if not isinstance(item, str) or not item.strip():
                    raise DataError(f"{where}: task {name}: prompt {index} has the item {item!r}, which is not text")


Facts = dict[str, str]
"""The head noun of the subject of each supporting fact, by item, without facts with :data:`NO_FACT`."""


def _fit_statistics(records: Iterable[Mapping[str, Any]]) -> tuple[Counter[str], Facts]:
    """Return the statistics that outlive a task: the number of questions about each item or fact, and the facts."""
    counts: Counter[str] = Counter()
    facts: Facts = {}
    for record in records:
        pairs = zip(record["gt_scene_graph_seq"], record["gt_scene_graph_mask"], strict=True)
        related = [item.removesuffix(ITEM_END) for item, is_related in pairs if is_related]
        counts.update(related)
        for fact in record["supporting_fact"][:1]:
            triplet = fact["triplet"]
            if not triplet or NO_FACT in " ".join(triplet):
                continue
            ends = (triplet[0].lower(), triplet[-1].lower())
            items = [text for text in related if all(end in text.lower() for end in ends)]
            if not items:
                # The scene graph does not contain the fact, so the fact is an additional item.
                items = [" ".join(triplet)]
                counts.update(items)
            facts.update(dict.fromkeys(items, head(triplet[0])))
    return counts, facts


def sample_prompts(records: Iterable[Mapping[str, Any]], task: Task, count: int, rng: random.Random) -> list[list[str]]:
    """Sample ``count`` prompts for a task from its training records; equal states of ``rng`` give equal prompts.

    If no two items match, the prompts of a task with pairs are single items that may come first in a pair. If no item
    fits an object, attribute or word prompt, all items are used.

    Raises:
        DataError: no record has a related item that is allowed in prompts of the task.
    """
    counts, facts = _fit_statistics(records)
    items = [(read_item(text), math.log1p(count)) for text, count in counts.most_common(MOST_FREQUENT)]
    if not items:
        raise DataError(f"task {task.name}: no training record has a related item (gt_scene_graph_mask 1)")
    if task.prompts in _USABLE:
        usable, kind = _USABLE[task.prompts]
        items = [pair for pair in items if usable(pair[0])]
        if not items:
            raise DataError(f"task {task.name}: no training record has a related item that is {kind}")
    if task.prompts in _PAIRS:
        pairs = _PAIRS[task.prompts](items, facts)
        if pairs.firsts:
            return [pairs.draw(rng) for _ in range(count)]
    is_preferred = _SINGLES.get(task.prompts)
    pool = _Pool([pair for pair in items if is_preferred and is_preferred(pair[0], facts)] or items)
    return [[pool.draw(rng).text] for _ in range(count)]


def setting_prompts(
    root: str | os.PathLike[str], setting: str, per_task: int = PUBLISHED_PROMPTS, seed: int = 0
) -> dict[str, list[list[str]]]:
    """Sample prompts by task for a setting from the records of a data root, with one task in memory at a time.

    Args:
        seed: seed of the draws; the prompts of a task do not depend on the other tasks.

    Raises:
        TaskError: unknown setting.
        DataError, RecordError, UnsafePickleError: a training file is missing or damaged, or has no related item.
    """
    prompts = {}
    for candidate in tasks(setting).values():
        path = existing_annotation_file(root, candidate, "train")
        rng = random.Random(f"{seed}/prompts/{setting}/{candidate.name}")
        try:
            prompts[candidate.name] = sample_prompts(load_records(path), candidate, per_task, rng)
        except DataError as error:
            raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None
    return prompts


class _Pool:
    """Draws distinct items with probability proportional to their weights."""

    def __init__(self, items: Sequence[tuple[Item, float]]) -> None:
        self.items = items
        self._bounds = [0.0, *itertools.accumulate(weight for _, weight in items)]
        self._index = {item: index for index, (item, _) in enumerate(items)}

    def weight(self, without: Item | None = None) -> float:
        """Return the total weight of all items except ``without``."""
        skipped = self._index.get(without)
        if skipped is None:
            return self._bounds[-1]
        return self._bounds[-1] - self.items[skipped][1] if len(self.items) > 1 else 0.0

    def draw(self, rng: random.Random, without: Item | None = None) -> Item:
        """Draw an item other than ``without``."""
        point = rng.random() * self.weight(without)
        skipped = self._index.get(without)
        if skipped is not None and point >= self._bounds[skipped]:
            point += self.items[skipped][1]
        # Rounding may reach the end of the last item or the beginning of the skipped item.
        index = min(bisect_right(self._bounds, point) - 1, len(self.items) - 1)
        if index == skipped:
            index += 1 if index + 1 < len(self.items) else -1
        return self.items[index][0]


class _Pairs:
    """Draws pairs of items that share a key: first a group, then a first item of it, then a second item with its key.

    A group of first items is a kind of attribute, or there is one group of all items.

    Args:
        first_items: first items by group, each with its weight and the keys that its second item may have.
        second_items: second items, each with its weight and its keys.
        weights: weights of the groups.
    """

    def __init__(
        self,
        first_items: Mapping[str, Sequence[tuple[Item, float, Sequence[str]]]],
        second_items: Sequence[tuple[Item, float, Sequence[str]]],
        weights: Mapping[str, float],
    ) -> None:
        by_key: dict[str, list[tuple[Item, float]]] = {}
        for item, weight, keys in second_items:
            for key in keys:
                by_key.setdefault(key, []).append((item, weight))
        self._seconds = {key: _Pool(items) for key, items in by_key.items()}
        self._keys: dict[tuple[str, Item], list[str]] = {}
        self.firsts: dict[str, _Pool] = {}
        for group, items in first_items.items():
            for item, _, keys in items:
                self._keys[group, item] = [key for key in keys if key in by_key and self._seconds[key].weight(item) > 0]
            usable = [(item, weight) for item, weight, _ in items if self._keys[group, item]]
            if usable:
                self.firsts[group] = _Pool(usable)
        self._weights = [weights[group] for group in self.firsts]

    def draw(self, rng: random.Random) -> list[str]:
        """Draw the texts of two items."""
        group = rng.choices(list(self.firsts), self._weights)[0]
        first = self.firsts[group].draw(rng)
        pools = [self._seconds[key] for key in self._keys[group, first]]
        pool = rng.choices(pools, [pool.weight(first) for pool in pools])[0]
        return [first.text, pool.draw(rng, without=first).text]


def _objects(item: Item) -> list[str]:
    """Return the head nouns of the objects of an item."""
    return [name for name in dict.fromkeys((head(item.subject), head(item.object))) if name]


def _relation_pairs(items: Sequence[tuple[Item, float]], facts: Facts) -> _Pairs:
    objects = [(item, weight, _objects(item)) for item, weight in items]
    return _Pairs({"": objects}, objects, {"": 1})


def _comparison_pairs(items: Sequence[tuple[Item, float]], facts: Facts) -> _Pairs:
    first_items = {
        kind: [(item, weight, sorted(values)) for item, weight in items if (values := item.values(kind))]
        for kind in KIND_WEIGHTS
    }
    second_items = [(item, weight, sorted(set().union(*map(item.values, KIND_WEIGHTS)))) for item, weight in items]
    return _Pairs(first_items, second_items, KIND_WEIGHTS)


def _fact_pairs(items: Sequence[tuple[Item, float]], facts: Facts) -> _Pairs:
    firsts = [(item, weight, [facts[item.text]]) for item, weight in items if item.text in facts]
    others = [(item, weight, _objects(item)) for item, weight in items if item.text not in facts]
    return _Pairs({"": firsts}, others, {"": 1})


_PAIRS: dict[str, Callable[[Sequence[tuple[Item, float]], Facts], _Pairs]] = {
    "relation": _relation_pairs,
    "comparison": _comparison_pairs,
    "fact": _fact_pairs,
}
"""How items are paired, for prompts of two items."""


_USABLE: dict[str, tuple[Callable[[Item], bool], str]] = {
    "relation": (lambda item: item.is_triple, "a triple"),
    "fact": (lambda item: NO_FACT not in item.text, f"not of the kind '{NO_FACT}'"),
}
"""Items that are allowed in prompts, and their description; other prompts allow any item."""


_SINGLES: dict[str, Callable[[Item, Facts], bool]] = {
    "object": lambda item, facts: not item.is_triple,
    "attribute": lambda item, facts: item.is_attributed,
    "word": lambda item, facts: item.has_word,
    "comparison": lambda item, facts: any(map(item.values, KIND_WEIGHTS)),
    "fact": lambda item, facts: item.text in facts,
}
"""Items preferred for prompts of one item; if no item qualifies, all items are used."""
