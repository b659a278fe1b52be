"""The language of clove-mini: classes, attributes, relations, places, facts, sign words and question templates.

The language is the same for every seed; scenes, codewords and questions depend on the seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from mmclvqa.clove.data_root import SPECIALS

COLORS = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink")
MATERIALS = ("metal", "wood", "plastic", "glass")
SHAPES = ("round", "square", "oval", "flat")
ATTRIBUTES: dict[str, tuple[str, ...]] = {"color": COLORS, "material": MATERIALS, "shape": SHAPES}
ATTRIBUTE_KIND: dict[str, str] = {value: kind for kind, values in ATTRIBUTES.items() for value in values}

USED_FOR = "used for"
CAPABLE_OF = "capable of"
FACT_PREDICATES = (USED_FOR, CAPABLE_OF)


@dataclass(frozen=True)
class SceneType:
    """The scene type of one task of the scene setting.

    Attributes:
        letter: letter of the task in the scene setting.
        classes: category -> purpose -> the two classes that serve it.
    """

    letter: str
    places: tuple[str, ...]
    predicate: str
    classes: dict[str, dict[str, tuple[str, str]]]


SCENE_TYPES: tuple[SceneType, ...] = (
    SceneType("a", ("bakery", "market", "cafe", "restaurant"), USED_FOR, {
        "fruit": {"juice": ("apple", "lemon"), "dessert": ("banana", "melon")},
        "dish": {"drinking": ("cup", "bottle"), "serving": ("plate", "bowl")},
    }),
    SceneType("b", ("office", "factory", "workshop", "laboratory"), USED_FOR, {
        "tool": {"carpentry": ("hammer", "saw"), "repairs": ("drill", "wrench")},
        "device": {"email": ("laptop", "phone"), "paperwork": ("printer", "keyboard")},
    }),
    SceneType("c", ("kitchen", "bedroom", "bathroom", "lobby"), USED_FOR, {
        "furniture": {"sitting": ("chair", "sofa"), "storing": ("table", "shelf")},
        "textile": {"sleeping": ("pillow", "blanket"), "covering": ("towel", "curtain")},
    }),
    SceneType("d", ("station", "airport", "harbor", "highway"), USED_FOR, {
        "vehicle": {"racing": ("car", "motorcycle"), "hauling": ("bus", "truck")},
        "fixture": {"guiding": ("traffic light", "traffic cone"), "spraying": ("fire hydrant", "water pump")},
    }),
    SceneType("e", ("stadium", "gym", "playground", "pool"), USED_FOR, {
        "instrument": {"strumming": ("guitar", "violin"), "rhythm": ("drum", "piano")},
        "toy": {"flying": ("kite", "balloon"), "hugging": ("doll", "teddy bear")},
    }),
    SceneType("f", ("forest", "beach", "meadow", "desert"), CAPABLE_OF, {
        "animal": {"hunting": ("dog", "cat"), "grazing": ("horse", "cow")},
        "plant": {"shading": ("tree", "bush"), "blooming": ("flower", "cactus")},
    }),
)  # fmt: skip

CATEGORIES: dict[str, tuple[str, ...]] = {
    category: tuple(name for names in purposes.values() for name in names)
    for scene_type in SCENE_TYPES
    for category, purposes in scene_type.classes.items()
}
CATEGORY_OF: dict[str, str] = {name: category for category, names in CATEGORIES.items() for name in names}
CLASSES: tuple[str, ...] = tuple(CATEGORY_OF)
PLACES: tuple[str, ...] = tuple(place for scene_type in SCENE_TYPES for place in scene_type.places)

FACTS: dict[str, tuple[str, str]] = {
    name: (scene_type.predicate, purpose)
    for scene_type in SCENE_TYPES
    for purposes in scene_type.classes.values()
    for purpose, names in purposes.items()
    for name in names
}
"""Class -> (predicate, purpose): the facts of the world, such as ``cup -> ("used for", "drinking")``."""

PURPOSES: tuple[str, ...] = tuple(dict.fromkeys(purpose for _, purpose in FACTS.values()))

HORIZONTAL = ("left of", "right of")
VERTICAL = ("above", "below", "on")
ANCHORS = ("furniture", "vehicle", "fixture", "plant")
"""Categories to which other objects have a relation."""
PARTNERS = ("dish", "tool", "instrument", "animal", "fruit", "device", "textile", "toy")
"""Categories of objects beside, above, below or on an anchor."""
RELATIONS: tuple[str, ...] = HORIZONTAL + VERTICAL

YES, NO = "yes", "no"

_COMMON_WORDS = (
    "open", "sale", "exit", "stop", "push", "free", "menu", "west", "east", "north",
    "south", "help", "taxi", "bank", "park", "news", "gold", "fast", "slow",
)  # fmt: skip
SYLLABLES = ("ka", "vo", "mi", "lu", "re", "ta", "so", "ni", "be", "du", "fa", "go", "zi", "pe", "ru", "wa")
_BRANDS = tuple(
    SYLLABLES[i % 16] + SYLLABLES[(3 * i + i // 16 + 5) % 16] + (SYLLABLES[(7 * i + 2) % 16] if i % 3 == 0 else "")
    for i in range(80)
)
_LISTED_NUMBERS = tuple(str(number) for number in range(10, 30))
_UNLISTED_NUMBERS = tuple(str(number) for number in range(30, 99, 3))

TEXTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "text": (("sign", "banner"), _COMMON_WORDS),
    "brand": (("label", "poster"), _BRANDS),
    "number": (("jersey", "ticket"), _LISTED_NUMBERS + _UNLISTED_NUMBERS),
}
"""Kind of question about text -> the surfaces on which the text is written, and the words."""

SURFACES: tuple[str, ...] = tuple(name for names, _ in TEXTS.values() for name in names)
SIGN_WORDS: tuple[str, ...] = tuple(word for _, words in TEXTS.values() for word in words)
UNLISTED_WORDS: frozenset[str] = frozenset(_BRANDS + _UNLISTED_NUMBERS)
"""Sign words outside the answer vocabulary, which can only be copied from the image."""


def answer_vocabulary() -> tuple[str, ...]:
    """Return the lines of ``vocab/clvqa_answer_6k.txt``: the special words, then the sorted answer words."""
    answers = (
        *CLASSES, *PLACES, *ATTRIBUTE_KIND, *ATTRIBUTES, *PURPOSES, *_COMMON_WORDS, *_LISTED_NUMBERS, YES, NO
    )  # fmt: skip
    return SPECIALS + tuple(sorted({word for answer in answers for word in answer.split()}))


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
"""Kind of question -> its templates."""

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
    """Normalize case, spaces and punctuation; ``[OCR]`` becomes a separate token and ``[SEP]`` is removed."""
    text = text.replace("[SEP]", " ").replace("[OCR]", " [OCR] ")
    text = " ".join(word if word == "[OCR]" else word.lower() for word in text.split())
    return re.sub(r"\s+([?,])", r"\1", text)


def parse_question(question: str) -> tuple[str, dict[str, str]] | None:
    """Return the kind and the slots of a question, or None if no template matches."""
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
        (kind, re.compile(form.replace("?", r"\?").format(**groups))) for kind, forms in FORMS.items() for form in forms
    )
