"""The judge of replays: whether an answer to a question follows from scene-graph items and the facts of clove-mini.

SRM's replays on clove-mini have a scene graph and no image. Items are ``red cup``, ``cup left of plate``,
``red sign with [OCR] kavo``, ``cup used for drinking`` or ``kitchen``. The facts are those of the vocabulary, whatever
an item states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    return normalized(answer) in _ANSWERS[kind](slots, read_items(items))


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


def _answers_same(slots: dict[str, str], graph: Graph) -> set[str]:
    first, second = (graph.values(slots[slot], slots["kind"]) for slot in ("thing", "other"))
    if slots["thing"] == slots["other"] or not first or not second:
        return set()
    return ({YES} if first & second else set()) | ({NO} if first - second or second - first else set())


def _answers_which(slots: dict[str, str], graph: Graph) -> set[str]:
    value, kind = slots["value"], ATTRIBUTE_KIND[slots["value"]]
    pair = (slots["thing"], slots["other"])
    values = [graph.values(name, kind) for name in pair]
    if pair[0] == pair[1] or not all(values):
        return set()
    return {
        name for name, own, other in zip(pair, values, values[::-1], strict=True) if value in own and value not in other
    }


def _answers_thing(slots: dict[str, str], graph: Graph) -> set[str]:
    return {
        name
        for name, values in graph.attributes.items()
        if CATEGORY_OF[name] == slots["category"] and slots["value"] in values
    }


def _answers_thing_choice(slots: dict[str, str], graph: Graph) -> set[str]:
    if slots["thing"] == slots["other"]:
        return set()
    return {name for name in (slots["thing"], slots["other"]) if slots["value"] in graph.attributes.get(name, ())}


def _answers_value_choice(slots: dict[str, str], graph: Graph) -> set[str]:
    options = {slots["value"], slots["rival"]}
    if len(options) < 2 or len({ATTRIBUTE_KIND[value] for value in options}) > 1:
        return set()
    return graph.attributes.get(slots["thing"], set()) & options


def _answers_subject(slots: dict[str, str], graph: Graph) -> set[str]:
    return {
        subject
        for subject, relation, object_ in graph.relations
        if (relation, object_) == (slots["relation"], slots["thing"]) and CATEGORY_OF[subject] == slots["category"]
    }


def _answers_object(slots: dict[str, str], graph: Graph) -> set[str]:
    wanted = (slots["thing"], slots["relation"])
    return {object_ for subject, relation, object_ in graph.relations if (subject, relation) == wanted}


def _answers_both(slots: dict[str, str], graph: Graph) -> set[str]:
    if slots["thing"] == slots["other"]:
        return set()
    return graph.values(slots["thing"], slots["kind"]) & graph.values(slots["other"], slots["kind"])


def _serving(slots: dict[str, str], graph: Graph) -> list[str]:
    return [name for name in graph.attributes if FACTS[name] == (slots["predicate"], slots["purpose"])]


def _answers_text(slots: dict[str, str], graph: Graph) -> set[str]:
    return {word for color, name, word in graph.texts if (color, name) == (slots["color"], slots["surface"])}


_ANSWERS: dict[str, Callable[[dict[str, str], Graph], set[str]]] = {
    "thing": _answers_thing,
    "thing_choice": _answers_thing_choice,
    "place": lambda slots, graph: graph.places,
    "color": lambda slots, graph: graph.values(slots["thing"], "color"),
    "value_choice": _answers_value_choice,
    "subject": _answers_subject,
    "object": _answers_object,
    "same": _answers_same,
    "which": _answers_which,
    "both": _answers_both,
    "fact_value": lambda slots, graph: set().union(
        *(graph.values(name, slots["kind"]) for name in _serving(slots, graph))
    ),
    "fact_thing": lambda slots, graph: {
        name for name in _serving(slots, graph) if slots["value"] in graph.attributes[name]
    },
    "fact_purpose": lambda slots, graph: {
        FACTS[name][1] for name in _answers_thing(slots, graph) if FACTS[name][0] == slots["predicate"]
    },
    "text": _answers_text,
    "brand": _answers_text,
    "number": _answers_text,
}
