"""The question forms of the world: the one place where questions are worded, for asking and for checking."""

from __future__ import annotations

import re
from functools import cache

from mmclvqa.clove.mini.vocabulary import (
    ATTRIBUTE_KIND,
    ATTRIBUTES,
    CATEGORIES,
    CLASSES,
    COLORS,
    FACT_PREDICATES,
    PURPOSES,
    RELATIONS,
    SURFACES,
)

FORMS: dict[str, tuple[str, ...]] = {
    "thing": ("what {value} {category} is in the picture?", "which {value} {category} can be seen?"),
    "thing_choice": ("what is the {value} thing, {thing} or {other}?",),
    "place": ("what place is this?", "where was this picture taken?"),
    "color": ("what color is the {thing}?", "what is the color of the {thing}?"),
    "value_choice": ("is the {thing} {value} or {rival}?",),
    "subject": ("what {category} is {relation} the {thing}?", "which {category} is {relation} the {thing}?"),
    "object": ("what is the {thing} {relation}?",),
    "same": ("are the {thing} and the {other} the same {kind}?",),
    "which": ("which one is {value}, the {thing} or the {other}?",),
    "both": ("what {kind} are both the {thing} and the {other}?",),
    "fact_thing": ("what {value} thing is {predicate} {purpose}?", "which {value} thing is {predicate} {purpose}?"),
    "fact_purpose": ("what is the {value} {category} {predicate}?",),
    "fact_value": ("what {kind} is the thing that is {predicate} {purpose}?",),
    "text": ("what is written on the {color} {surface}, not on the {other_color} {other_surface}?",),
    "brand": ("what brand is on the {color} {surface}, not on the {other_color} {other_surface}?",),
    "number": ("what number is on the {color} {surface}, not on the {other_color} {other_surface}?",),
}
"""Kind of question -> its wordings."""

_SLOTS: dict[str, tuple[str, ...]] = {
    "category": tuple(CATEGORIES),
    "thing": CLASSES,
    "other": CLASSES,
    "color": COLORS,
    "other_color": COLORS,
    "value": tuple(ATTRIBUTE_KIND),
    "rival": tuple(ATTRIBUTE_KIND),
    "kind": tuple(ATTRIBUTES),
    "relation": RELATIONS,
    "predicate": FACT_PREDICATES,
    "purpose": PURPOSES,
    "surface": SURFACES,
    "other_surface": SURFACES,
}


def normalized(text: str) -> str:
    """Lower case, single spaces, none before a question mark or comma; ``[OCR]`` stands apart."""
    text = text.replace("[SEP]", " ").replace("[OCR]", " [OCR] ")
    text = " ".join(word if word == "[OCR]" else word.lower() for word in text.split())
    return re.sub(r"\s+([?,])", r"\1", text)


def parse_question(question: str) -> tuple[str, dict[str, str]] | None:
    """Kind and slots of a question, or None when it is not one of the world's."""
    question = normalized(question)
    for kind, pattern in _patterns():
        match = pattern.fullmatch(question)
        if match:
            return kind, match.groupdict()
    return None


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    groups = {slot: f"(?P<{slot}>{'|'.join(words)})" for slot, words in _SLOTS.items()}
    return tuple(
        (kind, re.compile(form.replace("?", r"\?").format(**groups)))
        for kind, forms in FORMS.items()
        for form in forms
    )
