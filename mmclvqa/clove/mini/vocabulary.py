"""The words of the small world: classes, attributes, relations, places, facts and sign words.

The vocabulary is the same for every seed; scenes, codewords and questions are what a seed changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmclvqa.clove.vocabulary import SPECIALS

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
    """What one task of the scene setting is about.

    Attributes:
        letter: the task's letter in the scene setting.
        places: where its pictures are taken.
        predicate: how its facts are put.
        classes: category -> purpose -> the two classes that serve it.
    """

    letter: str
    places: tuple[str, ...]
    predicate: str
    classes: dict[str, dict[str, tuple[str, str]]]


SCENE_TYPES: tuple[SceneType, ...] = (
    SceneType(
        "a",
        ("bakery", "market", "cafe", "restaurant"),
        USED_FOR,
        {
            "fruit": {"juice": ("apple", "lemon"), "dessert": ("banana", "melon")},
            "dish": {"drinking": ("cup", "bottle"), "serving": ("plate", "bowl")},
        },
    ),
    SceneType(
        "b",
        ("office", "factory", "workshop", "laboratory"),
        USED_FOR,
        {
            "tool": {"carpentry": ("hammer", "saw"), "repairs": ("drill", "wrench")},
            "device": {"email": ("laptop", "phone"), "paperwork": ("printer", "keyboard")},
        },
    ),
    SceneType(
        "c",
        ("kitchen", "bedroom", "bathroom", "lobby"),
        USED_FOR,
        {
            "furniture": {"sitting": ("chair", "sofa"), "storing": ("table", "shelf")},
            "textile": {"sleeping": ("pillow", "blanket"), "covering": ("towel", "curtain")},
        },
    ),
    SceneType(
        "d",
        ("station", "airport", "harbor", "highway"),
        USED_FOR,
        {
            "vehicle": {"racing": ("car", "motorcycle"), "hauling": ("bus", "truck")},
            "fixture": {
                "guiding": ("traffic light", "traffic cone"),
                "spraying": ("fire hydrant", "water pump"),
            },
        },
    ),
    SceneType(
        "e",
        ("stadium", "gym", "playground", "pool"),
        USED_FOR,
        {
            "instrument": {"strumming": ("guitar", "violin"), "rhythm": ("drum", "piano")},
            "toy": {"flying": ("kite", "balloon"), "hugging": ("doll", "teddy bear")},
        },
    ),
    SceneType(
        "f",
        ("forest", "beach", "meadow", "desert"),
        CAPABLE_OF,
        {
            "animal": {"hunting": ("dog", "cat"), "grazing": ("horse", "cow")},
            "plant": {"shading": ("tree", "bush"), "blooming": ("flower", "cactus")},
        },
    ),
)

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
"""Class -> (predicate, purpose): the world's knowledge, e.g. ``cup -> ("used for", "drinking")``."""

PURPOSES: tuple[str, ...] = tuple(dict.fromkeys(purpose for _, purpose in FACTS.values()))

HORIZONTAL = ("left of", "right of")
VERTICAL = ("above", "below", "on")
ANCHORS = ("furniture", "vehicle", "fixture", "plant")
"""Categories that others stand in relation to."""
PARTNERS = ("dish", "tool", "instrument", "animal", "fruit", "device", "textile", "toy")
"""Categories that stand beside, above, below or on an anchor."""
RELATIONS: tuple[str, ...] = HORIZONTAL + VERTICAL

YES, NO = "yes", "no"

_COMMON_WORDS = (
    "open", "sale", "exit", "stop", "push", "free", "menu", "west", "east", "north",
    "south", "help", "taxi", "bank", "park", "news", "gold", "fast", "slow",
)  # fmt: skip
SYLLABLES = ("ka", "vo", "mi", "lu", "re", "ta", "so", "ni", "be", "du", "fa", "go", "zi", "pe", "ru", "wa")
_BRANDS = tuple(
    SYLLABLES[i % 16]
    + SYLLABLES[(3 * i + i // 16 + 5) % 16]
    + (SYLLABLES[(7 * i + 2) % 16] if i % 3 == 0 else "")
    for i in range(80)
)
_LISTED_NUMBERS = tuple(str(number) for number in range(10, 30))
_UNLISTED_NUMBERS = tuple(str(number) for number in range(30, 99, 3))

TEXTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "text": (("sign", "banner"), _COMMON_WORDS),
    "brand": (("label", "poster"), _BRANDS),
    "number": (("jersey", "ticket"), _LISTED_NUMBERS + _UNLISTED_NUMBERS),
}
"""Kind of question about text -> the surfaces it is found on, and the words found there."""

SURFACES: tuple[str, ...] = tuple(name for names, _ in TEXTS.values() for name in names)
SIGN_WORDS: tuple[str, ...] = tuple(word for _, words in TEXTS.values() for word in words)
UNLISTED_WORDS: frozenset[str] = frozenset(_BRANDS + _UNLISTED_NUMBERS)
"""Sign words that the answer vocabulary leaves out: they can only be copied from the picture."""


def answer_vocabulary() -> tuple[str, ...]:
    """The lines of ``vocab/clvqa_answer_6k.txt``: four specials, then every listed answer word, sorted."""
    answers = (
        *CLASSES, *PLACES, *ATTRIBUTE_KIND, *ATTRIBUTES, *PURPOSES, *_COMMON_WORDS, *_LISTED_NUMBERS, YES, NO
    )  # fmt: skip
    return SPECIALS + tuple(sorted({word for answer in answers for word in answer.split()}))
