"""The judge of replays: whether an answer to a question follows from scene-graph items and the facts of clove-mini.

SRM's replays on clove-mini have a scene graph and no image. Items are ``red cup``, ``cup left of plate``,
``red sign with [OCR] kavo``, ``cup used for drinking`` or ``kitchen``. The facts are those of the vocabulary, whatever
an item states.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mmclvqa.mini.vocabulary import (
    ATTRIBUTE_KIND,
    CATEGORY_OF,
    CLASSES,
    FACTS,
    NO,
    PLACES,
    RELATIONS,
    SURFACES,
    YES,
    normalized,
    parse_question,
)

_OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_FACT_ITEMS = frozenset(f"{name} {predicate} {purpose}" for name, (predicate, purpose) in FACTS.items())


@dataclass
class Graph:
    """Parsed scene-graph items.

    Attributes:
        attributes: class -> attribute values, empty if the class occurs without attributes.
        relations: triples (subject, predicate, object), including the inverse triples.
        places: names of places.
        texts: triples (color or None, surface, word).
        unread: items that have none of the known forms.
    """

    attributes: dict[str, set[str]] = field(default_factory=dict)
    relations: set[tuple[str, str, str]] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    texts: set[tuple[str | None, str, str]] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)

    def values(self, name: str, kind: str) -> set[str]:
        """Return the attribute values of a kind that the class ``name`` has."""
        return {value for value in self.attributes.get(name, ()) if ATTRIBUTE_KIND[value] == kind}


def read_items(items: Iterable[str]) -> Graph:
    """Parse scene-graph items, with or without `` [SEP]``."""
    graph = Graph()
    for item in items:
        text = normalized(item)
        if text and not (
            _read_text(text, graph)
            or _read_place(text, graph)
            or _read_relation(text, graph)
            or text in _FACT_ITEMS
            or _read_thing(text, graph)
        ):
            graph.unread.append(item)
    return graph


def is_true(question: str, answer: str, items: Iterable[str]) -> bool | None:
    """Return whether the answer to a question follows from scene-graph items and the facts of the world.

    If several answers fit the items (for example with two red cups), each of them is true.

    Returns:
        True or False; None if the question matches no template.
    """
    parsed = parse_question(question)
    if parsed is None:
        return None
    kind, slots = parsed
    return normalized(answer) in _answers(kind, slots, read_items(items))


def _read_thing(text: str, graph: Graph) -> bool:
    name = next((name for name in CLASSES if text == name or text.endswith(f" {name}")), "")
    attributes = text.removesuffix(name).split()
    if not name or any(word not in ATTRIBUTE_KIND for word in attributes):
        return False
    graph.attributes.setdefault(name, set()).update(attributes)
    return True


def _read_place(text: str, graph: Graph) -> bool:
    if text in PLACES:
        graph.places.add(text)
    return text in PLACES


def _read_relation(text: str, graph: Graph) -> bool:
    for word in RELATIONS:
        subject, separator, object_ = text.partition(f" {word} ")
        if separator and subject in CLASSES and object_ in CLASSES:
            for name in (subject, object_):
                graph.attributes.setdefault(name, set())
            graph.relations.add((subject, word, object_))
            if word in _OPPOSITES:
                graph.relations.add((object_, _OPPOSITES[word], subject))
            return True
    return False


def _read_text(text: str, graph: Graph) -> bool:
    surface, separator, word = text.partition(" with [OCR] ")
    *colors, name = surface.split()
    if not separator or not word or name not in SURFACES or len(colors) > 1:
        return False
    graph.texts.add((colors[0] if colors else None, name, word))
    return True


def _answers(kind: str, slots: dict[str, str], graph: Graph) -> set[str]:
    """Return the answers to a question, given by its kind and slots, that follow from a scene graph."""
    thing, other, value = (slots.get(name, "") for name in ("thing", "other", "value"))
    if thing and thing == other:
        return set()
    match kind:
        case "thing" | "fact_purpose":
            candidates = graph.attributes.items()
            things = {name for name, own in candidates if CATEGORY_OF[name] == slots["category"] and value in own}
            if kind == "thing":
                return things
            return {purpose for predicate, purpose in map(FACTS.get, things) if predicate == slots["predicate"]}
        case "thing_choice":
            return {name for name in (thing, other) if value in graph.attributes.get(name, ())}
        case "place":
            return graph.places
        case "color":
            return graph.values(thing, "color")
        case "value_choice":
            rival = slots["rival"]
            is_choice = value != rival and ATTRIBUTE_KIND[value] == ATTRIBUTE_KIND[rival]
            return graph.attributes.get(thing, set()) & {value, rival} if is_choice else set()
        case "subject":
            end = (slots["relation"], thing)
            subjects = {subject for subject, word, object_ in graph.relations if (word, object_) == end}
            return {name for name in subjects if CATEGORY_OF[name] == slots["category"]}
        case "object":
            begin = (thing, slots["relation"])
            return {object_ for subject, word, object_ in graph.relations if (subject, word) == begin}
        case "same":
            first, second = (graph.values(name, slots["kind"]) for name in (thing, other))
            if not first or not second:
                return set()
            return ({YES} if first & second else set()) | ({NO} if first != second else set())
        case "which":
            first, second = (graph.values(name, ATTRIBUTE_KIND[value]) for name in (thing, other))
            if not first or not second or (value in first) == (value in second):
                return set()
            return {thing if value in first else other}
        case "both":
            return graph.values(thing, slots["kind"]) & graph.values(other, slots["kind"])
        case "fact_thing" | "fact_value":
            things = {name for name in graph.attributes if FACTS[name] == (slots["predicate"], slots["purpose"])}
            if kind == "fact_thing":
                return {name for name in things if value in graph.attributes[name]}
            return set().union(*(graph.values(name, slots["kind"]) for name in things))
        case _:  # about a text: text, brand and number
            return {word for color, name, word in graph.texts if (color, name) == (slots["color"], slots["surface"])}
