"""Writes graphs as scene-graph items, and parses items into objects with attributes and triples.

Items are plain text such as ``red metal cup`` or ``standing man to the left of long building``, which the benchmark
derives from the graphs of Visual Genome: attributes before their object, a predicate between two objects. The parts
are not marked, so predicates are recognized by their words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OCR = "[OCR]"
"""Token before a word that is written in the image."""

SCENE_KEYS = ("location", "weather")
"""Keys of a GQA graph that describe the whole image; CLOVE has their values as items."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ATTRIBUTE_KINDS: dict[str, frozenset[str]] = {
    kind: _words(words)
    for kind, words in {
        "color": "red blue green yellow white black brown pink gray grey orange purple silver gold golden beige tan "
        "blond blonde dark light bright cream maroon teal turquoise violet navy burgundy ivory bronze khaki",
        "material": "metal wood wooden plastic glass leather brick stone concrete paper ceramic porcelain cloth cotton "
        "steel metallic iron marble rubber cardboard wicker denim granite silk wool copper brass clay vinyl chrome "
        "stainless aluminum straw wire",
        "shape": "round square oval flat rectangular circular triangular curved octagonal cylindrical long short "
        "rounded pointy straight arched",
    }.items()
}
"""Values of each kind of attribute, by which comparison prompts compare objects."""

_PREPOSITIONS = _words(
    "on in of near with behind above below under by at over around beside inside between against across along from "
    "off onto into to for through toward towards beneath underneath among outside atop past"
)
_PHRASES = tuple(
    tuple(phrase.split())
    for phrase in (
        "to the left of", "to the right of", "on the left of", "on the right of", "on the side of", "on the front of",
        "on the back of", "on the bottom of", "at the bottom of", "in the middle of", "on top of", "in front of",
        "left of", "right of", "next to", "close to", "attached to", "used for", "capable of",
    )
)  # fmt: skip
"""Predicates of several words that are more than a single preposition."""

_TRANSITIVE = _words(
    "wearing holding carrying watching eating covering riding using pulling hitting touching crossing drinking "
    "surrounding throwing driving facing catching boarding kicking reading pushing cutting leaving chasing feeding "
    "entering exiting wears has"
)
"""Verbs that form a predicate without a preposition."""

_NOT_VERBS = _words(
    "building ceiling string ring king wing bed shed sled clothing railing awning painting topping frosting icing "
    "dressing earring drawing scaffolding bedding pudding stocking weed seed"
)
"""Nouns with the ending of a participle."""


@dataclass(frozen=True)
class Item:
    """A parsed item.

    Attributes:
        text: the item, without `` [SEP]``.
        subject: the object with its attributes; in a triple, the object before the predicate.
        predicate: the predicate of a triple, otherwise empty.
        object: the object after the predicate of a triple, otherwise empty.
    """

    text: str
    subject: str
    predicate: str = ""
    object: str = ""

    @property
    def is_triple(self) -> bool:
        """Whether the item relates two objects."""
        return bool(self.predicate)

    @property
    def is_attributed(self) -> bool:
        """Whether the item is one object of several words: attributes and a noun."""
        return not self.is_triple and len(self.subject.split()) > 1

    @property
    def has_word(self) -> bool:
        """Whether the item contains a word written in the image."""
        return bool(self.text.partition(OCR)[2].strip())

    def values(self, kind: str) -> frozenset[str]:
        """Return the attribute values of a kind; empty for a triple."""
        return frozenset() if self.is_triple else ATTRIBUTE_KINDS[kind] & set(self.subject.split()[:-1])


def read_item(text: str) -> Item:
    """Parse an item; the text after ``[OCR]`` is not part of an object."""
    words = text.partition(OCR)[0].split()
    for start in range(1, len(words) - 1):
        end = start + _predicate_length(words, start)
        if start < end < len(words):
            parts = (words[:start], words[start:end], words[end:])
            return Item(text, *map(" ".join, parts))
    if OCR in text and words and words[-1] in _PREPOSITIONS:
        words = words[:-1]
    return Item(text, " ".join(words))


def graph_items(graph: Mapping[str, Any]) -> list[tuple[str, frozenset[str]]]:
    """Write a graph as items: the image's location and weather, its objects, then their relations.

    Args:
        graph: a scene graph in GQA's form, with ``objects`` by id; they have a ``name``, ``attributes`` and
            ``relations`` to other objects, each with the ``name`` of the predicate and the id of the ``object``.

    Returns:
        Items without `` [SEP]``, each with the ids of its objects, or with a key of :data:`SCENE_KEYS`.

    Raises:
        KeyError, TypeError, AttributeError: the graph has another form.
    """
    objects = graph["objects"]
    phrases = {key: " ".join((*one.get("attributes", ()), one["name"])) for key, one in objects.items()}
    items = [(graph[key], frozenset([key])) for key in SCENE_KEYS if graph.get(key) not in (None, "", "none")]
    items += [(phrase, frozenset([key])) for key, phrase in phrases.items()]
    items += [
        (f"{phrases[key]} {relation['name']} {phrases[relation['object']]}", frozenset([key, relation["object"]]))
        for key, one in objects.items()
        for relation in one.get("relations", ())
    ]
    return items


def head(phrase: str) -> str:
    """Return the head noun of an object with attributes: its last word, empty without words."""
    return phrase.split()[-1] if phrase.strip() else ""


def _predicate_length(words: list[str], start: int) -> int:
    """Return the number of words of the predicate that begins at ``start``, 0 if none does."""
    for phrase in _PHRASES:
        if tuple(words[start : start + len(phrase)]) == phrase:
            return len(phrase)
    word = words[start]
    if word in _PREPOSITIONS:
        return 1
    if _is_participle(words[start - 1]):
        return 0  # in "standing eating zebra", both participles are attributes
    if _is_participle(word) and words[start + 1] not in _TRANSITIVE:
        # In "standing on" or "covered with", the participle is part of the predicate.
        rest = _predicate_length(words, start + 1)
        if rest:
            return 1 + rest
    return 1 if word in _TRANSITIVE else 0


def _is_participle(word: str) -> bool:
    return word.endswith(("ing", "ed")) and word not in _NOT_VERBS
