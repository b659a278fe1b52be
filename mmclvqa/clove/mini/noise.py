"""Predicted scene graphs: noisy copies of the true ones, as an off-the-shelf detector would give them.

An object that is missed is missing from every item; one that is mistaken is called by a sibling's name
throughout. A reader of a :data:`GENERAL` detector's graph answers about half of the questions and must look at the
picture. The tasks of the scene setting differ in their objects alone: what was learned of a former task's
objects from pictures is lost, replays have none to show, so it can only be kept by reading. Their detector is a
:data:`SPECIALIST` for the place, whose graphs are worth reading.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mmclvqa.clove.mini.scenes import Scene
from mmclvqa.clove.mini.vocabulary import (
    ATTRIBUTE_KIND,
    ATTRIBUTES,
    CATEGORIES,
    CATEGORY_OF,
    CLASSES,
    RELATIONS,
)


@dataclass(frozen=True)
class Detector:
    """How often a detector errs: probabilities, and a number.

    Attributes:
        missed: an object, a surface or the place is not seen at all.
        mistaken: an object that is seen is taken for another class of its category.
        dropped: an attribute or a relation is not seen.
        wrong: an attribute or a relation is taken for another.
        distractors: how many objects of any class are seen where there are none.
    """

    missed: float
    mistaken: float
    dropped: float
    wrong: float
    distractors: int


GENERAL = Detector(missed=0.25, mistaken=0.1, dropped=0.2, wrong=0.1, distractors=2)
SPECIALIST = Detector(missed=0.1, mistaken=0.05, dropped=0.1, wrong=0.05, distractors=0)

VALUES = tuple(ATTRIBUTE_KIND)


def predicted_graph(scene: Scene, rng: random.Random, detector: Detector = GENERAL) -> list[str]:
    """Items of a predicted scene graph in random order, without ``[SEP]``."""
    names = [_seen_name(thing.name, detector, rng) for thing in scene.things]
    items = [
        " ".join((*_seen_value(thing.value, detector, rng), name))
        for thing, name in zip(scene.things, names, strict=True)
        if name is not None
    ]
    for subject, word, object_ in scene.relations:
        if names[subject] and names[object_] and rng.random() >= detector.dropped:
            word = rng.choice(RELATIONS) if rng.random() < detector.wrong else word
            items.append(f"{names[subject]} {word} {names[object_]}")
    if rng.random() >= detector.missed:
        items.append(scene.place)
    items.extend(surface.phrase for surface in scene.surfaces if rng.random() >= detector.missed)
    items.extend(f"{rng.choice(VALUES)} {name}" for name in rng.sample(CLASSES, detector.distractors))
    rng.shuffle(items)
    return items


def _seen_name(name: str, detector: Detector, rng: random.Random) -> str | None:
    if rng.random() < detector.missed:
        return None
    if rng.random() < detector.mistaken:
        return rng.choice([other for other in CATEGORIES[CATEGORY_OF[name]] if other != name])
    return name


def _seen_value(value: str, detector: Detector, rng: random.Random) -> tuple[str, ...]:
    draw = rng.random()
    if draw < detector.wrong:
        return (rng.choice(ATTRIBUTES[ATTRIBUTE_KIND[value]]),)
    return () if draw < detector.wrong + detector.dropped else (value,)
