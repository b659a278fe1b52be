"""Sampling scene-graph prompts from the training records of a task, SPEC section 10.

A prompt is a short list of items with which SRM begins a pseudo scene graph. Its items are drawn with weight
log(1 + count) among the most frequent related items (mask 1) of the task's training records: only these counts
outlive a task, no record does.

One item for object, attribute and the tasks of the scene setting. Two for the others, the second one drawn among
those that go with the first: relation takes triples that share an object, logical attributed objects that share a
kind of attribute, knowledge a fact and an item about its subject, scenetext words on different objects. Relations go
together only as they did in a record, and nothing is compared with itself.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
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
DRAWS_PER_PROMPT = 10
"""Draws for each prompt wanted: a second item can turn out to be the first one again."""

Key = tuple[str, str]
"""What two items have in common: the role of an object and its name, or ``kind`` and a kind of attribute."""
Link = tuple[str, str]
"""The roles that one object has in two triples."""


@dataclass
class ItemStatistics:
    """What is kept of a task's training records: counts, and how items go together.

    Attributes:
        counts: how often each item is related to a question.
        facts: items that are supporting facts -> the head of the fact's subject.
        links: how related triples of one record share an object: roles (``subject`` or ``object``) in the one and
            the other.
        predicates: those of two related triples of one record that share an object, either way round.
    """

    counts: Counter[str] = field(default_factory=Counter)
    facts: dict[str, str] = field(default_factory=dict)
    links: set[Link] = field(default_factory=set)
    predicates: set[tuple[str, str]] = field(default_factory=set)

    def weighted_items(self) -> tuple[list[Item], list[float]]:
        """The most frequent items and their weights, log(1 + count)."""
        frequent = self.counts.most_common(MOST_FREQUENT)
        return [read_item(text) for text, _ in frequent], [math.log1p(count) for _, count in frequent]


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
            for text in related:
                if _tells(text, fact["triplet"]):
                    found.facts[text] = head(fact["triplet"][0])
        triples = [item for item in map(read_item, dict.fromkeys(related)) if item.is_triple]
        for first in triples:
            for other in triples:
                links = list(_links(first, other)) if other != first else []
                found.links.update(links)
                if links:
                    found.predicates.add((first.predicate, other.predicate))
    return found


def sample_prompts(records: Iterable[Mapping[str, Any]], task: Task, count: int, rng: random.Random) -> list[list[str]]:
    """``count`` prompts for a task, items without `` [SEP]``; fewer where its items go together too rarely.

    Args:
        records: the task's training records.
        task: whose prompts are wanted.
        count: how many.
        rng: the generator of every draw; equal records and generators give equal prompts.

    Raises:
        DataError: no record has a related item.
    """
    statistics = fit_statistics(records)
    items, weights = statistics.weighted_items()
    if not items:
        raise DataError(f"task {task.name}: no training record has a related item (gt_scene_graph_mask 1)")
    if task.setting == "functional" and task.name in _JOINS:
        join = _JOINS[task.name]
        fits = _FITS.get(task.name, _differ)
        pairs = _pairs(
            items,
            weights,
            lambda item: join(item, statistics),
            lambda first, second: fits(first, second, statistics),
            count,
            rng,
        )
        if pairs:
            return pairs
    wanted = _SINGLES.get(task.name, _any) if task.setting == "functional" else _any
    kept = [(item, weight) for item, weight in zip(items, weights, strict=True) if wanted(item)]
    items, weights = map(list, zip(*kept, strict=True)) if kept else (items, weights)
    return [[item.text] for item in rng.choices(items, weights, k=count)]


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


def _pairs(
    items: list[Item],
    weights: list[float],
    join: Callable[[Item], tuple[list[Key], list[Key]]],
    fits: Callable[[Item, Item], bool],
    count: int,
    rng: random.Random,
) -> list[list[str]]:
    """Draw a first item, then a second one among those that offer a key which the first one seeks."""
    joined = [join(item) for item in items]
    offering: dict[Key, tuple[list[Item], list[float]]] = defaultdict(lambda: ([], []))
    for item, weight, (_, offers) in zip(items, weights, joined, strict=True):
        for key in offers:
            offering[key][0].append(item)
            offering[key][1].append(weight)
    firsts = [(item, weight, seeks) for item, weight, (seeks, _) in zip(items, weights, joined, strict=True) if seeks]
    if not firsts:
        return []
    prompts: list[list[str]] = []
    population = [(item, seeks) for item, _, seeks in firsts]
    for first, seeks in rng.choices(population, [weight for _, weight, _ in firsts], k=count * DRAWS_PER_PROMPT):
        others, other_weights = offering[rng.choice(seeks)]
        second = rng.choices(others, other_weights)[0] if others else first
        if fits(first, second):
            prompts.append([first.text, second.text])
        if len(prompts) == count:
            break
    return prompts


def _any(item: Item) -> bool:
    return True


_SINGLES: dict[str, Callable[[Item], bool]] = {
    "object": lambda item: not item.is_triple,
    "attribute": lambda item: item.is_attributed,
}
"""Which items a task's prompts of one item are made of; all of them where none is of this kind."""


def _relation_join(item: Item, statistics: ItemStatistics) -> tuple[list[Key], list[Key]]:
    if not item.is_triple:
        return [], []
    names = {"subject": head(item.subject), "object": head(item.object)}
    links = sorted(statistics.links) or [(mine, other) for mine in names for other in names]
    seeks = [(other, names[mine]) for mine, other in links]
    return seeks, list(names.items())


def _logical_join(item: Item, statistics: ItemStatistics) -> tuple[list[Key], list[Key]]:
    keys = [("kind", kind) for kind in item.kinds()]
    return keys, keys


def _knowledge_join(item: Item, statistics: ItemStatistics) -> tuple[list[Key], list[Key]]:
    subject = statistics.facts.get(item.text)
    if subject is not None:
        return [("about", subject)], []
    about = dict.fromkeys((head(item.subject), head(item.object)))
    return [], [("about", name) for name in about if name]


def _text_join(item: Item, statistics: ItemStatistics) -> tuple[list[Key], list[Key]]:
    keys = [("has", "word")] if item.has_word else []
    return keys, keys


_JOINS: dict[str, Callable[[Item, ItemStatistics], tuple[list[Key], list[Key]]]] = {
    "relation": _relation_join,
    "logical": _logical_join,
    "knowledge": _knowledge_join,
    "scenetext": _text_join,
}
"""What an item seeks in the second item of a prompt, and what it offers to a first one."""


def _links(first: Item, other: Item) -> Iterable[Link]:
    for mine, name in (("subject", first.subject), ("object", first.object)):
        for its, same in (("subject", other.subject), ("object", other.object)):
            if head(name) == head(same):
                yield mine, its


def _tells(text: str, triplet: list[str]) -> bool:
    """Whether an item is the fact: it names both ends of it."""
    lowered = text.lower()
    return bool(triplet) and all(end.lower() in lowered for end in (triplet[0], triplet[-1]))


def _differ(first: Item, second: Item, statistics: ItemStatistics) -> bool:
    return first != second


def _related_before(first: Item, second: Item, statistics: ItemStatistics) -> bool:
    pairs = statistics.predicates
    return first != second and (not pairs or (first.predicate, second.predicate) in pairs)


def _other_noun(first: Item, second: Item, statistics: ItemStatistics) -> bool:
    return head(first.subject) != head(second.subject)


def _other_subject(first: Item, second: Item, statistics: ItemStatistics) -> bool:
    return first.subject != second.subject


_FITS: dict[str, Callable[[Item, Item, ItemStatistics], bool]] = {
    "relation": _related_before,
    "logical": _other_noun,
    "scenetext": _other_subject,
}
"""Whether a second item goes with a first one."""
