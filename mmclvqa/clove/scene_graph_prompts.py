"""Sampling scene-graph prompts from the training records of a task.

A prompt is a short list of items with which SRM begins a pseudo scene graph. Its items are drawn with weight
log(1 + count) among the most frequent related items (mask 1) of the task's training records: only these counts
outlive a task, no record does.

In the functional setting a prompt holds

- object: one object, with or without attributes; attribute: one attributed object;
- relation: a triple, then one that shares an object with it;
- logical: two attributed objects with the same value of a kind of attribute, the kind drawn with :data:`KIND_WEIGHTS`;
- knowledge: a fact, then an item about its subject;
- scenetext: one item with ``[OCR] word``;

in the scene setting one item. The second item of a prompt is never the first one again.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmclvqa.clove.annotations import ITEM_END, load_records
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.layout import annotation_file
from mmclvqa.clove.scene_graph_items import Item, head, read_item
from mmclvqa.clove.tasks import Task, tasks

MOST_FREQUENT = 5000
"""How many different items of a task are drawn from."""
PUBLISHED_PROMPTS = 20000
"""Prompts of each task in the published file."""
KIND_WEIGHTS = {"color": 10, "material": 5, "shape": 1}
"""How often the logical task compares objects by each kind of attribute."""
NO_FACT = "a type of"
"""Facts of this kind are taxonomy, which no question asks about; they are no prompts."""


@dataclass
class ItemStatistics:
    """What is kept of a task's training records.

    Attributes:
        counts: how often each item is related to a question; facts count as related.
        facts: supporting facts as items -> the head of the fact's subject, without those of kind :data:`NO_FACT`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    facts: dict[str, str] = field(default_factory=dict)

    def weighted_items(self) -> list[tuple[Item, float]]:
        """The most frequent items and their weights, log(1 + count)."""
        return [(read_item(text), math.log1p(count)) for text, count in self.counts.most_common(MOST_FREQUENT)]


def fit_statistics(records: Iterable[Mapping[str, Any]]) -> ItemStatistics:
    """Count the related items of training records.

    Args:
        records: of one task, with ``gt_scene_graph_seq``, ``gt_scene_graph_mask`` and ``supporting_fact``.
    """
    found = ItemStatistics()
    for record in records:
        pairs = zip(record["gt_scene_graph_seq"], record["gt_scene_graph_mask"], strict=True)
        related = [item.removesuffix(ITEM_END) for item, marked in pairs if marked]
        found.counts.update(related)
        for fact in record["supporting_fact"][:1]:
            triplet = fact["triplet"]
            if not triplet or NO_FACT in " ".join(triplet):
                continue
            told = [text for text in related if _tells(text, triplet)]
            if not told:
                # The graph of the image does not hold the fact: it is an item of its own.
                told = [" ".join(triplet)]
                found.counts.update(told)
            found.facts.update(dict.fromkeys(told, head(triplet[0])))
    return found


def sample_prompts(records: Iterable[Mapping[str, Any]], task: Task, count: int, rng: random.Random) -> list[list[str]]:
    """``count`` prompts for a task, items without `` [SEP]``.

    Where no two items go together, prompts are single items that could be the first of two. Object, attribute and
    scenetext prompts are any items where none is of the task's kind.

    Args:
        records: the task's training records.
        task: whose prompts are wanted.
        count: how many.
        rng: the generator of every draw; equal records and generators give equal prompts.

    Raises:
        DataError: no record has a related item that the task's prompts may hold.
    """
    statistics = fit_statistics(records)
    items = statistics.weighted_items()
    if not items:
        raise DataError(f"task {task.name}: no training record has a related item (gt_scene_graph_mask 1)")
    name = task.name if task.setting == "functional" else ""
    if name in _USABLE:
        usable, kind = _USABLE[name]
        items = [pair for pair in items if usable(pair[0])]
        if not items:
            raise DataError(f"task {name}: no training record has a related item that is {kind}")
    if name in _PAIRS:
        pairs = _PAIRS[name](items, statistics)
        if pairs.firsts:
            return [pairs.draw(rng) for _ in range(count)]
    wanted = _SINGLES.get(name, _any)
    pool = _Pool([pair for pair in items if wanted(pair[0], statistics)] or items)
    return [[pool.draw(rng).text] for _ in range(count)]


def setting_prompts(
    root: str | os.PathLike[str], setting: str, per_task: int = PUBLISHED_PROMPTS, seed: int = 0
) -> dict[str, list[list[str]]]:
    """Prompts by task name, from the training records of a data root; one task in memory at a time.

    Args:
        root: the data root.
        setting: ``functional`` or ``scene``.
        per_task: prompts of each task.
        seed: of the draws; a task's prompts do not depend on the other tasks.

    Raises:
        TaskError: no such setting.
        DataError, RecordError, UnsafePickleError: a training file is missing or broken, or has no related item.
    """
    prompts = {}
    for known in tasks(setting).values():
        path = annotation_file(root, known, "train")
        if path is None:
            missing = os.path.join(root, known.annotation_path("train"))
            raise DataError(f"{missing}: there is no such file (nor .json)")
        rng = random.Random(f"{seed}/prompts/{setting}/{known.name}")
        try:
            prompts[known.name] = sample_prompts(load_records(path), known, per_task, rng)
        except DataError as error:
            raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None
    return prompts


class _Pool:
    """Items to draw from by their weights.

    Args:
        items: different ones, with weights above 0.
    """

    def __init__(self, items: Sequence[tuple[Item, float]]) -> None:
        self.items = items
        self._bounds = [0.0, *itertools.accumulate(weight for _, weight in items)]
        self._index = {item: index for index, (item, _) in enumerate(items)}

    def weight(self, without: Item | None = None) -> float:
        """The weight of all items but one."""
        skipped = self._index.get(without)
        if skipped is None:
            return self._bounds[-1]
        return self._bounds[-1] - self.items[skipped][1] if len(self.items) > 1 else 0.0

    def draw(self, rng: random.Random, without: Item | None = None) -> Item:
        """An item other than ``without``, which is drawn past as if it were not there."""
        point = rng.random() * self.weight(without)
        skipped = self._index.get(without)
        if skipped is not None and point >= self._bounds[skipped]:
            point += self.items[skipped][1]
        # Rounding may reach the end of the last item, or the beginning of the skipped one.
        index = min(bisect_right(self._bounds, point) - 1, len(self.items) - 1)
        if index == skipped:
            index += 1 if index + 1 < len(self.items) else -1
        return self.items[index][0]


Group = str
"""What first items are drawn by before their weights: a kind of attribute; one for all where nothing is to be drawn."""


class _Pairs:
    """Draws two items that share a key: a group by its weight, a first item of it, a second one that has its key.

    Args:
        seeking: first items by group, each with its weight and the keys that its second item may have.
        offering: second items with their weights and the keys they have.
        weights: of the groups.
    """

    def __init__(
        self,
        seeking: Mapping[Group, Sequence[tuple[Item, float, Sequence[str]]]],
        offering: Sequence[tuple[Item, float, Sequence[str]]],
        weights: Mapping[Group, float],
    ) -> None:
        by_key: dict[str, list[tuple[Item, float]]] = {}
        for item, weight, keys in offering:
            for key in keys:
                by_key.setdefault(key, []).append((item, weight))
        self._seconds = {key: _Pool(items) for key, items in by_key.items()}
        self._keys: dict[tuple[Group, Item], list[str]] = {}
        self.firsts: dict[Group, _Pool] = {}
        for group, items in seeking.items():
            having = []
            for item, weight, keys in items:
                open_keys = [key for key in keys if key in self._seconds and self._seconds[key].weight(item) > 0]
                if open_keys:
                    self._keys[group, item] = open_keys
                    having.append((item, weight))
            if having:
                self.firsts[group] = _Pool(having)
        self._groups = list(self.firsts)
        self._weights = [weights[group] for group in self._groups]

    def draw(self, rng: random.Random) -> list[str]:
        """The texts of two items."""
        group = rng.choices(self._groups, self._weights)[0]
        first = self.firsts[group].draw(rng)
        pools = [self._seconds[key] for key in self._keys[group, first]]
        pool = rng.choices(pools, [pool.weight(first) for pool in pools])[0]
        return [first.text, pool.draw(rng, without=first).text]


def _relation_pairs(items: Sequence[tuple[Item, float]], statistics: ItemStatistics) -> _Pairs:
    objects = [
        (item, weight, list(dict.fromkeys((head(item.subject), head(item.object))))) for item, weight in items
    ]
    return _Pairs({"": objects}, objects, {"": 1})


def _logical_pairs(items: Sequence[tuple[Item, float]], statistics: ItemStatistics) -> _Pairs:
    seeking = {
        kind: [(item, weight, sorted(values)) for item, weight in items if (values := item.values(kind))]
        for kind in KIND_WEIGHTS
    }
    offering = [(item, weight, sorted(set().union(*map(item.values, KIND_WEIGHTS)))) for item, weight in items]
    return _Pairs(seeking, offering, KIND_WEIGHTS)


def _knowledge_pairs(items: Sequence[tuple[Item, float]], statistics: ItemStatistics) -> _Pairs:
    facts = [
        (item, weight, [statistics.facts[item.text]]) for item, weight in items if item.text in statistics.facts
    ]
    others = [
        (item, weight, [name for name in dict.fromkeys((head(item.subject), head(item.object))) if name])
        for item, weight in items
        if item.text not in statistics.facts
    ]
    return _Pairs({"": facts}, others, {"": 1})


_PAIRS: dict[str, Callable[[Sequence[tuple[Item, float]], ItemStatistics], _Pairs]] = {
    "relation": _relation_pairs,
    "logical": _logical_pairs,
    "knowledge": _knowledge_pairs,
}
"""How the tasks whose prompts hold two items pair them."""


_USABLE: dict[str, tuple[Callable[[Item], bool], str]] = {
    "relation": (lambda item: item.is_triple, "a triple"),
    "knowledge": (lambda item: NO_FACT not in item.text, f"not of the kind '{NO_FACT}'"),
}
"""Items that a task's prompts may hold, and what they are; any where a task is not listed."""


def _any(item: Item, statistics: ItemStatistics) -> bool:
    return True


_SINGLES: dict[str, Callable[[Item, ItemStatistics], bool]] = {
    "object": lambda item, statistics: not item.is_triple,
    "attribute": lambda item, statistics: item.is_attributed,
    "scenetext": lambda item, statistics: item.has_word,
    "logical": lambda item, statistics: any(map(item.values, KIND_WEIGHTS)),
    "knowledge": lambda item, statistics: item.text in statistics.facts,
}
"""Which items a task's prompts of one item are made of; all of them where none is of this kind."""


def _tells(text: str, triplet: list[str]) -> bool:
    """Whether an item is the fact: it names both ends of it."""
    lowered = text.lower()
    return all(end.lower() in lowered for end in (triplet[0], triplet[-1]))
