"""Predicted scene graphs: noisy copies of the true ones, as an off-the-shelf detector would give them.

An object that is missed is missing from every item; one that is mistaken is called by a sibling's name
throughout. So a reader of the predicted graph alone answers about half of the questions, and must look.
"""

from __future__ import annotations

import random

from mmclvqa.clove.mini.scenes import Scene
from mmclvqa.clove.mini.vocabulary import (
    ATTRIBUTE_KIND,
    ATTRIBUTES,
    CATEGORIES,
    CATEGORY_OF,
    CLASSES,
    RELATIONS,
)

MISSED = 0.25
"""Probability that an object, a surface or the place is not seen at all."""
MISTAKEN = 0.1
"""Probability that an object that is seen is taken for another class of its category."""
ATTRIBUTE_DROPPED = 0.2
ATTRIBUTE_WRONG = 0.1
RELATION_DROPPED = 0.2
RELATION_WRONG = 0.1
DISTRACTORS = 2
"""Objects of any class that are seen where there are none."""

VALUES = tuple(ATTRIBUTE_KIND)


def predicted_graph(scene: Scene, rng: random.Random) -> list[str]:
    """Items of a predicted scene graph in random order, without ``[SEP]``."""
    names = [_seen_name(thing.name, rng) for thing in scene.things]
    items = [
        " ".join((*_seen_value(thing.value, rng), name))
        for thing, name in zip(scene.things, names, strict=True)
        if name is not None
    ]
    for subject, word, object_ in scene.relations:
        if names[subject] and names[object_] and rng.random() >= RELATION_DROPPED:
            word = rng.choice(RELATIONS) if rng.random() < RELATION_WRONG else word
            items.append(f"{names[subject]} {word} {names[object_]}")
    if rng.random() >= MISSED:
        items.append(scene.place)
    items.extend(surface.phrase for surface in scene.surfaces if rng.random() >= MISSED)
    items.extend(f"{rng.choice(VALUES)} {name}" for name in rng.sample(CLASSES, DISTRACTORS))
    rng.shuffle(items)
    return items


def _seen_name(name: str, rng: random.Random) -> str | None:
    if rng.random() < MISSED:
        return None
    if rng.random() < MISTAKEN:
        return rng.choice([other for other in CATEGORIES[CATEGORY_OF[name]] if other != name])
    return name


def _seen_value(value: str, rng: random.Random) -> tuple[str, ...]:
    draw = rng.random()
    if draw < ATTRIBUTE_WRONG:
        return (rng.choice(ATTRIBUTES[ATTRIBUTE_KIND[value]]),)
    return () if draw < ATTRIBUTE_WRONG + ATTRIBUTE_DROPPED else (value,)
