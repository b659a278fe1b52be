"""Reading scene-graph items: which are triples, which attributed objects, and what they are about.

Items are plain text (``red metal cup``, ``standing man to the left of long building``), as the benchmark derived
them from Visual Genome's graphs: attributes before their object, a predicate between two objects. Nothing marks the
parts, so a predicate is known by its words.
"""

from __future__ import annotations

from dataclasses import dataclass

OCR = "[OCR]"
"""Stands before a word that is written in the picture."""


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
"""Kind of attribute -> its words; the logical task compares objects by these."""

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
"""Predicates of several words that do not begin with a preposition of their own, or go on after it."""

_TRANSITIVE = _words(
    "wearing holding carrying watching eating covering riding using pulling hitting touching crossing drinking "
    "surrounding throwing driving facing catching boarding kicking reading pushing cutting leaving chasing feeding "
    "entering exiting wears has"
)
"""Verbs that are a predicate without a preposition."""

_NOT_VERBS = _words(
    "building ceiling string ring king wing bed shed sled clothing railing awning painting topping frosting icing "
    "dressing earring drawing scaffolding bedding pudding stocking weed seed"
)
"""Objects that end as participles do."""


@dataclass(frozen=True)
class Item:
    """The parts of one item.

    Attributes:
        text: the item, without `` [SEP]``.
        subject: its object with attributes; of a triple the one before the predicate.
        predicate: empty when the item is no triple.
        object: of a triple the object after the predicate.
    """

    text: str
    subject: str
    predicate: str = ""
    object: str = ""

    @property
    def is_triple(self) -> bool:
        """Whether it relates two objects."""
        return bool(self.predicate)

    @property
    def is_attributed(self) -> bool:
        """Whether it is one object of several words: attributes and the object's name."""
        return not self.is_triple and len(self.subject.split()) > 1

    @property
    def has_word(self) -> bool:
        """Whether it says which word is written on something."""
        return bool(self.text.partition(OCR)[2].strip())

    def values(self, kind: str) -> frozenset[str]:
        """The attributes of a kind that it tells of one object; empty for a triple."""
        return frozenset() if self.is_triple else ATTRIBUTE_KINDS[kind] & set(self.subject.split()[:-1])


def read_item(text: str) -> Item:
    """Take an item apart; what follows ``[OCR]`` is no part of an object."""
    words = text.partition(OCR)[0].split() if OCR in text else text.split()
    for start in range(1, len(words) - 1):
        end = start + _predicate_length(words, start)
        if start < end < len(words):
            parts = (words[:start], words[start:end], words[end:])
            return Item(text, *map(" ".join, parts))
    if OCR in text and words and words[-1] in _PREPOSITIONS:
        words = words[:-1]
    return Item(text, " ".join(words))


def head(phrase: str) -> str:
    """The noun of an object with attributes: its last word."""
    return phrase.split()[-1] if phrase.strip() else ""


def _predicate_length(words: list[str], start: int) -> int:
    """How many words from ``start`` on are a predicate; 0 when none begins there."""
    for phrase in _PHRASES:
        if tuple(words[start : start + len(phrase)]) == phrase:
            return len(phrase)
    word = words[start]
    if word in _PREPOSITIONS:
        return 1
    if _is_participle(words[start - 1]):
        return 0  # "standing eating zebra": attributes, which no verb follows
    if _is_participle(word) and words[start + 1] not in _TRANSITIVE:
        # "standing on", "covered with": a participle belongs to the preposition after it.
        more = _predicate_length(words, start + 1)
        if more:
            return 1 + more
    return 1 if word in _TRANSITIVE else 0


def _is_participle(word: str) -> bool:
    return word.endswith(("ing", "ed")) and word not in _NOT_VERBS
