"""Predicted scene graphs: noisy copies of the true ones, as an off-the-shelf detector would give them.

An object that is missed is missing from every item; one that is mistaken is called by a sibling's name
throughout. So a reader of the predicted graph alone answers some three quarters of the questions and must look for
the rest.

The tasks of the scene setting differ in their objects alone: what was learned of a former task's objects from
pictures is lost, and replays have none to show, so it can only be kept by reading. Their graphs tell nothing but what
belongs in the place and its relations, as replays do.
"""

from __future__ import annotations

import random

from mmclvqa.clove.mini.scenes import Scene
from mmclvqa.clove.mini.vocabulary import (
    ATTRIBUTE_KIND,
    ATTRIBUTES,
    CATEGORIES,
    CATEGORY_OF,
    RELATIONS,
)

MISSED = 0.1
"""Probability that an object, a surface or the place is not seen at all."""
MISTAKEN = 0.05
"""Probability that an object that is seen is taken for another class of its category."""
ATTRIBUTE_DROPPED = 0.1
ATTRIBUTE_WRONG = 0.05
RELATION_DROPPED = 0.1
RELATION_WRONG = 0.05


def predicted_graph(scene: Scene, rng: random.Random, own: bool = False) -> list[str]:
    """Items of a predicted scene graph in random order, without ``[SEP]``.

    Args:
        scene: the picture.
        rng: the generator of every draw.
        own: tell only the objects of the picture's own scene type; others stand in relations to them alone.
    """
    told = scene.own_things if own else scene.things
    names = [_seen_name(thing.name, rng) for thing in scene.things]
    items = [
        " ".join((*_seen_value(thing.value, rng), name))
        for thing, name in zip(scene.things, names, strict=True)
        if name is not None and thing in told
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
