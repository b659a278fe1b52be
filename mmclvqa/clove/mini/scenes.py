"""The scene sampler: what stands where in a picture, and the relations that follow from the boxes."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mmclvqa.clove.mini.vocabulary import (
    ANCHORS,
    ATTRIBUTE_KIND,
    ATTRIBUTES,
    CATEGORIES,
    CATEGORY_OF,
    COLORS,
    FACTS,
    HORIZONTAL,
    PARTNERS,
    SCENE_TYPES,
    TEXTS,
    VERTICAL,
    SceneType,
)

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture; the y axis points down."""

NEAR = 0.045
"""Largest gap between two boxes that still stand in a relation."""
ALIGNED = 0.03
"""Largest distance of two centres across the direction of a relation."""
KIND_WEIGHTS = {"color": 2, "material": 1, "shape": 1}
"""How often two objects of a picture share this kind of attribute."""
ALIKE = 0.5
"""Probability that these two have the same value of it."""
PICTURE_SIZES = ((640, 480), (500, 375), (480, 640), (600, 400))


@dataclass(frozen=True)
class Thing:
    """An object with one attribute: a colour, a material or a shape."""

    name: str
    value: str
    box: Box

    @property
    def category(self) -> str:
        """Its category, e.g. ``animal``."""
        return CATEGORY_OF[self.name]

    @property
    def kind(self) -> str:
        """The kind of its attribute: ``color``, ``material`` or ``shape``."""
        return ATTRIBUTE_KIND[self.value]

    @property
    def phrase(self) -> str:
        """Its scene-graph item, e.g. ``red cup``."""
        return f"{self.value} {self.name}"

    @property
    def fact(self) -> tuple[str, str, str]:
        """Its fact triple, e.g. ``("cup", "used for", "drinking")``."""
        return (self.name, *FACTS[self.name])


@dataclass(frozen=True)
class Surface:
    """Something with a word on it, such as a red sign."""

    name: str
    color: str
    word: str
    box: Box
    word_box: Box

    @property
    def phrase(self) -> str:
        """Its scene-graph item, e.g. ``red sign with [OCR] kavo``."""
        return f"{self.color} {self.name} with [OCR] {self.word}"


@dataclass(frozen=True)
class Scene:
    """One picture.

    Attributes:
        image_id: a number in decimal digits (GQA) or 16 hexadecimal digits (TextVQA).
        source: ``vg`` or ``textvqa``.
        letter: the scene type's letter in the scene setting.
        place: where it was taken.
        things: its objects, no two of one category.
        relations: (subject, predicate, object): indices into ``things`` around a relation word.
        surfaces: its words; empty unless ``source`` is ``textvqa``.
        size: width and height in pixels.
    """

    image_id: str
    source: str
    letter: str
    place: str
    things: tuple[Thing, ...]
    relations: tuple[tuple[int, str, int], ...]
    surfaces: tuple[Surface, ...]
    size: tuple[int, int]

    @property
    def own_things(self) -> list[Thing]:
        """The objects that belong to its scene type."""
        own = scene_type(self.letter).classes
        return [thing for thing in self.things if thing.category in own]

    @property
    def items(self) -> list[str]:
        """The true scene graph, without ``[SEP]``: surfaces, place, objects, relations."""
        names = [thing.name for thing in self.things]
        triples = [f"{names[subject]} {word} {names[object_]}" for subject, word, object_ in self.relations]
        return [
            *(surface.phrase for surface in self.surfaces),
            self.place,
            *(thing.phrase for thing in self.things),
            *triples,
        ]


def scene_type(letter: str) -> SceneType:
    """The scene type of a letter of the scene setting."""
    return next(candidate for candidate in SCENE_TYPES if candidate.letter == letter)


def relation_between(first: Box, second: Box) -> str | None:
    """The relation word for ``first`` seen from ``second``, or None: the world's only rule of geometry.

    Boxes are near (gap up to :data:`NEAR`) and their centres aligned (up to :data:`ALIGNED`); ``on``
    means that the bottom of ``first`` overlaps the top of ``second``.
    """
    dx = (first[0] + first[2] - second[0] - second[2]) / 2
    dy = (first[1] + first[3] - second[1] - second[3]) / 2
    if abs(dy) <= ALIGNED:
        if 0 < second[0] - first[2] <= NEAR:
            return "left of"
        if 0 < first[0] - second[2] <= NEAR:
            return "right of"
    if abs(dx) <= ALIGNED:
        if 0 <= first[3] - second[1] <= ALIGNED:
            return "on"
        if 0 < second[1] - first[3] <= NEAR:
            return "above"
        if 0 < first[1] - second[3] <= NEAR:
            return "below"
    return None


def sample_scene(rng: random.Random, image_id: str, letter: str) -> Scene:
    """A GQA-like picture: an anchor with one object beside it and one above, below or on it, and one apart.

    Two objects are of the picture's own scene type. Two have an attribute of one kind, the other two one of
    each other kind, so that most attributes of a picture can be told without telling its objects apart.
    """
    kind = scene_type(letter)
    boxes, relations = _grouped_boxes(rng)
    categories = _categories(rng, set(kind.classes))
    things = tuple(
        Thing(rng.choice(CATEGORIES[category]), value, box)
        for category, value, box in zip(categories, _values(rng), boxes, strict=True)
    )
    place, size = rng.choice(kind.places), rng.choice(PICTURE_SIZES)
    return Scene(image_id, "vg", letter, place, things, relations, (), size)


def sample_text_scene(rng: random.Random, image_id: str, letter: str) -> Scene:
    """A TextVQA-like picture: a surface with each kind of text, a fourth one of any kind, and two objects."""
    kind = scene_type(letter)
    cells = [(x, y) for y in (0.2, 0.5, 0.8) for x in (0.2, 0.5, 0.8)]
    rng.shuffle(cells)
    surfaces: list[Surface] = []
    for (names, words), color in zip(_texts(rng), rng.sample(COLORS, 4), strict=True):
        box = _box(*_jittered(rng, cells.pop(), 0.03), rng.uniform(0.08, 0.12), rng.uniform(0.06, 0.1))
        name = rng.choice([name for name in names if name not in {surface.name for surface in surfaces}])
        word = rng.choice([word for word in words if word not in {surface.word for surface in surfaces}])
        surfaces.append(Surface(name, color, word, box, _word_box(rng, box)))
    rng.shuffle(surfaces)
    things = []
    for category, value in zip(kind.classes, _values(rng), strict=False):
        box = _box(*_jittered(rng, cells.pop(), 0.03), rng.uniform(0.05, 0.1), rng.uniform(0.05, 0.1))
        things.append(Thing(rng.choice(CATEGORIES[category]), value, box))
    place, size = rng.choice(kind.places), rng.choice(PICTURE_SIZES)
    return Scene(image_id, "textvqa", letter, place, tuple(things), (), tuple(surfaces), size)


def _texts(rng: random.Random) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The surfaces and words to choose from for four surfaces."""
    return [*TEXTS.values(), rng.choice(list(TEXTS.values()))]


def _categories(rng: random.Random, own: set[str]) -> list[str]:
    """Categories of an anchor, an object beside it, one stacked with it and one apart; ``own`` come first."""
    roles = (ANCHORS, PARTNERS, PARTNERS, ANCHORS)
    chosen = [""] * len(roles)
    for index in rng.sample(range(len(roles)), len(roles)):
        free = [category for category in roles[index] if category not in chosen]
        chosen[index] = rng.choice([category for category in free if category in own] or free)
    return chosen


def _values(rng: random.Random) -> list[str]:
    """Four attribute values in random order: two of one kind, one of each other kind."""
    paired = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
    first = rng.choice(ATTRIBUTES[paired])
    second = first if rng.random() < ALIKE else rng.choice([v for v in ATTRIBUTES[paired] if v != first])
    values = [first, second, *(rng.choice(ATTRIBUTES[kind]) for kind in ATTRIBUTES if kind != paired)]
    rng.shuffle(values)
    return values


def _grouped_boxes(rng: random.Random) -> tuple[list[Box], tuple[tuple[int, str, int], ...]]:
    """Four boxes and two relations: an anchor in the middle with two partners, one box in a corner."""
    half = rng.uniform(0.06, 0.08)
    anchor = _box(*_jittered(rng, (0.5, 0.4), 0.04), half, half)
    words = (rng.choice(HORIZONTAL), rng.choice(VERTICAL))
    partners = [_partner_box(rng, anchor, word) for word in words]
    corner = _jittered(rng, (rng.choice((0.2, 0.8)), 0.85), 0.06)
    apart = _box(*corner, rng.uniform(0.05, 0.08), rng.uniform(0.05, 0.08))
    return [anchor, *partners, apart], ((1, words[0], 0), (2, words[1], 0))


def _partner_box(rng: random.Random, anchor: Box, word: str) -> Box:
    left, top, right, bottom = anchor
    half, gap, slip = rng.uniform(0.05, 0.06), rng.uniform(0.01, 0.04), rng.uniform(-0.02, 0.02)
    x, y = (left + right) / 2 + slip, (top + bottom) / 2 + slip
    match word:
        case "left of":
            x = left - gap - half
        case "right of":
            x = right + gap + half
        case "above":
            y = top - gap - half
        case "below":
            y = bottom + gap + half
        case "on":
            y = top + rng.uniform(0.005, 0.02) - half
    return _box(x, y, half, half)


def _word_box(rng: random.Random, box: Box) -> Box:
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    return _box(x, y, (right - left) * rng.uniform(0.3, 0.45), (bottom - top) * rng.uniform(0.2, 0.4))


def _box(x: float, y: float, half_width: float, half_height: float) -> Box:
    return (x - half_width, y - half_height, x + half_width, y + half_height)


def _jittered(rng: random.Random, point: tuple[float, float], by: float) -> tuple[float, float]:
    return point[0] + rng.uniform(-by, by), point[1] + rng.uniform(-by, by)
