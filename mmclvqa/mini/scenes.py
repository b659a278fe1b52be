"""Scenes of clove-mini: objects, boxes and relations, their true scene graph, and a noisy predicted one.

Every draw has its own generator, seeded with the seed of the data set and a name.

Predicted scene graphs are noisy copies of the true ones, as an off-the-shelf scene-graph generator would predict. A
missed object is missing from every item; a confused object has the name of another class of its category throughout.
A model that reads only the predicted graph can answer about three quarters of the questions; the others require the
image features. The tasks of the scene setting differ only in their objects. What a model has learned from images about
the objects of an earlier task is forgotten, and since replays have no images, it can only be retained by reading scene
graphs. The predicted graphs of that setting therefore describe only the objects of the scene type, as replays do.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import numpy as np

from mmclvqa.mini.vocabulary import (
    ANCHORS,
    ATTRIBUTE_KIND,
    ATTRIBUTES,
    CATEGORIES,
    CATEGORY_OF,
    COLORS,
    FACTS,
    HORIZONTAL,
    PARTNERS,
    RELATIONS,
    SCENE_TYPES,
    TEXTS,
    VERTICAL,
    SceneType,
)

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the image; the y axis points down."""

KIND_WEIGHTS = {"color": 2, "material": 1, "shape": 1}
"""Weights of the kind of attribute that two objects of a scene share."""
ALIKE = 0.5
"""Probability that the values of these two objects are equal."""
IMAGE_SIZES = ((640, 480), (500, 375), (480, 640), (600, 400))

MISSED = 0.1
"""Probability that an object, a surface or the place is missing from the predicted graph."""
MISTAKEN = 0.05
"""Probability that a detected object has the name of another class of its category."""
ATTRIBUTE_DROPPED = 0.1
ATTRIBUTE_WRONG = 0.05
RELATION_DROPPED = 0.1
RELATION_WRONG = 0.05


def named_random(seed: int, *names: object) -> random.Random:
    """Return a generator of symbolic draws; equal seeds and names give equal draws."""
    return random.Random(_digest(seed, names))


def named_generator(seed: int, *names: object) -> np.random.Generator:
    """Return a generator of numeric draws; equal seeds and names give equal draws."""
    return np.random.Generator(np.random.PCG64(_digest(seed, names)))


def _digest(seed: int, names: tuple[object, ...]) -> int:
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


@dataclass(frozen=True)
class Thing:
    """An object with one attribute: a color, a material or a shape."""

    name: str
    value: str
    box: Box

    @property
    def category(self) -> str:
        """The category, such as ``animal``."""
        return CATEGORY_OF[self.name]

    @property
    def kind(self) -> str:
        """The kind of the attribute: ``color``, ``material`` or ``shape``."""
        return ATTRIBUTE_KIND[self.value]

    @property
    def phrase(self) -> str:
        """The scene-graph item, such as ``red cup``."""
        return f"{self.value} {self.name}"

    @property
    def fact(self) -> tuple[str, str, str]:
        """The fact as a triple, such as ``("cup", "used for", "drinking")``."""
        return (self.name, *FACTS[self.name])


@dataclass(frozen=True)
class Surface:
    """A surface with a word on it, such as a red sign."""

    name: str
    color: str
    word: str
    box: Box
    word_box: Box

    @property
    def phrase(self) -> str:
        """The scene-graph item, such as ``red sign with [OCR] kavo``."""
        return f"{self.color} {self.name} with [OCR] {self.word}"


@dataclass(frozen=True)
class Scene:
    """The scene of one image.

    Attributes:
        image_id: a decimal number (GQA) or 16 hexadecimal digits (TextVQA).
        source: ``vg`` or ``textvqa``.
        letter: letter of the scene type in the scene setting.
        place: place where the image is taken.
        things: objects, each of a different category.
        relations: triples (subject, predicate, object) with indices into ``things``.
        surfaces: surfaces with words; empty unless ``source`` is ``textvqa``.
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
        """The objects of the image's own scene type."""
        own = scene_type(self.letter).classes
        return [thing for thing in self.things if thing.category in own]

    @property
    def items(self) -> list[str]:
        """The true scene graph without ``[SEP]``: surfaces, place, objects, relations."""
        names = [thing.name for thing in self.things]
        triples = [f"{names[subject]} {word} {names[object_]}" for subject, word, object_ in self.relations]
        return [
            *(surface.phrase for surface in self.surfaces),
            self.place,
            *(thing.phrase for thing in self.things),
            *triples,
        ]


def scene_type(letter: str) -> SceneType:
    """Return the scene type with a letter of the scene setting."""
    return next(candidate for candidate in SCENE_TYPES if candidate.letter == letter)


def sample_scene(rng: random.Random, image_id: str, letter: str) -> Scene:
    """Sample a GQA-like scene: an anchor, an object beside it, an object above, below or on it, and a separate object.

    Two objects are of the scene's own type. Two objects have an attribute of the same kind, and the other two have one
    of each other kind, so that most attributes can be predicted without distinguishing the objects.
    """
    kind = scene_type(letter)
    boxes, relations = _grouped_boxes(rng)
    categories = _categories(rng, set(kind.classes))
    things = tuple(
        Thing(rng.choice(CATEGORIES[category]), value, box)
        for category, value, box in zip(categories, _values(rng), boxes, strict=True)
    )
    place, size = rng.choice(kind.places), rng.choice(IMAGE_SIZES)
    return Scene(image_id, "vg", letter, place, things, relations, (), size)


def sample_text_scene(rng: random.Random, image_id: str, letter: str) -> Scene:
    """Sample a TextVQA-like scene: a surface with each kind of text, a fourth surface, and two objects."""
    kind = scene_type(letter)
    cells = [(x, y) for y in (0.2, 0.5, 0.8) for x in (0.2, 0.5, 0.8)]
    rng.shuffle(cells)
    surfaces: list[Surface] = []
    texts = [*TEXTS.values(), rng.choice(list(TEXTS.values()))]
    for (names, words), color in zip(texts, rng.sample(COLORS, 4), strict=True):
        box = _box(*_jittered(rng, cells.pop(), 0.03), rng.uniform(0.08, 0.12), rng.uniform(0.06, 0.1))
        name = rng.choice([name for name in names if name not in {surface.name for surface in surfaces}])
        word = rng.choice([word for word in words if word not in {surface.word for surface in surfaces}])
        surfaces.append(Surface(name, color, word, box, _word_box(rng, box)))
    rng.shuffle(surfaces)
    things = []
    for category, value in zip(kind.classes, _values(rng), strict=False):
        box = _box(*_jittered(rng, cells.pop(), 0.03), rng.uniform(0.05, 0.1), rng.uniform(0.05, 0.1))
        things.append(Thing(rng.choice(CATEGORIES[category]), value, box))
    place, size = rng.choice(kind.places), rng.choice(IMAGE_SIZES)
    return Scene(image_id, "textvqa", letter, place, tuple(things), (), tuple(surfaces), size)


def _categories(rng: random.Random, own: set[str]) -> list[str]:
    """Draw categories of the anchor, the object beside it, the stacked and the separate one, preferring ``own``."""
    roles = (ANCHORS, PARTNERS, PARTNERS, ANCHORS)
    chosen = [""] * len(roles)
    for index in rng.sample(range(len(roles)), len(roles)):
        free = [category for category in roles[index] if category not in chosen]
        chosen[index] = rng.choice([category for category in free if category in own] or free)
    return chosen


def _values(rng: random.Random) -> list[str]:
    """Draw four attribute values in random order: two of one kind, one of each other kind."""
    paired = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
    first = rng.choice(ATTRIBUTES[paired])
    second = first if rng.random() < ALIKE else rng.choice([v for v in ATTRIBUTES[paired] if v != first])
    values = [first, second, *(rng.choice(ATTRIBUTES[kind]) for kind in ATTRIBUTES if kind != paired)]
    rng.shuffle(values)
    return values


def _grouped_boxes(rng: random.Random) -> tuple[list[Box], tuple[tuple[int, str, int], ...]]:
    """Draw four boxes and two relations: an anchor in the center with two partners, and a box in a corner."""
    half_size = rng.uniform(0.06, 0.08)
    anchor = _box(*_jittered(rng, (0.5, 0.4), 0.04), half_size, half_size)
    predicates = (rng.choice(HORIZONTAL), rng.choice(VERTICAL))
    partners = [_partner_box(rng, anchor, word) for word in predicates]
    corner = _jittered(rng, (rng.choice((0.2, 0.8)), 0.85), 0.06)
    separate_box = _box(*corner, rng.uniform(0.05, 0.08), rng.uniform(0.05, 0.08))
    return [anchor, *partners, separate_box], ((1, predicates[0], 0), (2, predicates[1], 0))


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


def sample_scenes(seed: int, split: str, count: int) -> list[Scene]:
    """Sample ``count`` GQA-like scenes, cycling through the scene types; ids are numbers that differ between splits."""
    first = 1 if split == "train" else 5_000_001
    letters = [kind.letter for kind in SCENE_TYPES]
    return [
        sample_scene(named_random(seed, "scene", split, i), str(first + i), letters[i % len(letters)])
        for i in range(count)
    ]


def sample_text_scenes(seed: int, split: str, count: int) -> list[Scene]:
    """Sample ``count`` TextVQA-like scenes; ids are 16 hexadecimal digits."""
    letters = [kind.letter for kind in SCENE_TYPES]
    scenes = []
    for i in range(count):
        rng = named_random(seed, "text scene", split, i)
        scenes.append(sample_text_scene(rng, f"{rng.getrandbits(64):016x}", letters[i % len(letters)]))
    return scenes


def predicted_graph(scene: Scene, rng: random.Random, own: bool = False) -> list[str]:
    """Sample the items of a predicted scene graph in random order, without ``[SEP]``.

    Args:
        own: describe only objects of the scene's own type; others occur in relations only.
    """
    described = scene.own_things if own else scene.things
    names = [_predicted_name(thing.name, rng) for thing in scene.things]
    items = [
        " ".join((*_predicted_value(thing.value, rng), name))
        for thing, name in zip(scene.things, names, strict=True)
        if name is not None and thing in described
    ]
    for subject, word, object_ in scene.relations:
        if names[subject] and names[object_] and rng.random() >= RELATION_DROPPED:
            word = rng.choice(RELATIONS) if rng.random() < RELATION_WRONG else word
            items.append(f"{names[subject]} {word} {names[object_]}")
    if rng.random() >= MISSED:
        items.append(scene.place)
    items.extend(surface.phrase for surface in scene.surfaces if rng.random() >= MISSED)
    rng.shuffle(items)
    return items


def _predicted_name(name: str, rng: random.Random) -> str | None:
    if rng.random() < MISSED:
        return None
    if rng.random() < MISTAKEN:
        return rng.choice([other for other in CATEGORIES[CATEGORY_OF[name]] if other != name])
    return name


def _predicted_value(value: str, rng: random.Random) -> tuple[str, ...]:
    draw = rng.random()
    if draw < ATTRIBUTE_WRONG:
        return (rng.choice(ATTRIBUTES[ATTRIBUTE_KIND[value]]),)
    return () if draw < ATTRIBUTE_WRONG + ATTRIBUTE_DROPPED else (value,)
