"""Asking about a scene: question, answer, the scene-graph items it is about, program and supporting fact."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mmclvqa.clove.mini.grammar import FORMS
from mmclvqa.clove.mini.scenes import Scene, Surface, Thing
from mmclvqa.clove.mini.vocabulary import ATTRIBUTES, NO, TEXTS, YES

MIXES: dict[str, dict[str, float]] = {
    "object": {"thing": 0.85, "place": 0.15},
    "attribute": {"color": 0.5, "material": 0.25, "shape": 0.25},
    "relation": {"subject": 0.7, "object": 0.3},
    "logical": {"same": 0.25, "which": 0.3, "both": 0.45},
    "knowledge": {"fact_value": 0.4, "fact_thing": 0.3, "fact_purpose": 0.3},
    "scenetext": {"text": 0.35, "brand": 0.3, "number": 0.35},
}
"""Functional task -> how its kinds of question are mixed."""

SCENE_MIX: dict[str, float] = {
    "thing": 0.5,
    "place": 0.2,
    "color": 0.1,
    "material": 0.05,
    "shape": 0.05,
    "verify": 0.1,
}
"""The mix of every task of the scene setting; it asks only about the objects of its own scene type."""


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        kind: its kind in :data:`~mmclvqa.clove.mini.grammar.FORMS`.
        text: the question, lower case.
        answer: the only right answer.
        related: the items of the scene graph that it is about (mask 1), enough to answer it.
        fact: the supporting fact's triple, if it needs one; it is the first of ``related`` as an item.
        program: GQA-like steps, dicts of ``operation``, ``argument``, ``dependencies``.
    """

    kind: str
    text: str
    answer: str
    related: tuple[str, ...]
    fact: tuple[str, str, str] | None = None
    program: tuple[dict[str, object], ...] = field(default=(), compare=False)


def ask(kind: str, scene: Scene, rng: random.Random, own: bool = False) -> Question | None:
    """Draw a question of ``kind`` about ``scene``; None where the scene offers none.

    Args:
        kind: a key of :data:`~mmclvqa.clove.mini.grammar.FORMS`.
        scene: the picture.
        rng: the generator of every draw.
        own: ask only about the objects of the picture's own scene type.
    """
    things = scene.own_things if own else list(scene.things)
    return _ASKERS[kind](kind, scene, things, rng)


def _worded(form: str, rng: random.Random, /, **slots: str) -> str:
    return rng.choice(FORMS[form]).format(**slots)


def _steps(*steps: tuple[str, str]) -> tuple[dict[str, object], ...]:
    return tuple(
        {"operation": operation, "argument": argument, "dependencies": [index - 1] if index else []}
        for index, (operation, argument) in enumerate(steps)
    )


def _ask_thing(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    thing = rng.choice(things)
    text = _worded(kind, rng, category=thing.category)
    return Question(
        kind, text, thing.name, (thing.phrase,), program=_steps(("select", thing.category), ("query", "name"))
    )


def _ask_place(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    program = _steps(("select", "scene"), ("query", "place"))
    return Question(kind, _worded(kind, rng), scene.place, (scene.place,), program=program)


def _ask_attribute(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    having = [thing for thing in things if thing.kind == kind]
    if not having:
        return None
    thing = rng.choice(having)
    program = _steps(("select", thing.name), ("query", kind))
    return Question(kind, _worded(kind, rng, thing=thing.name), thing.value, (thing.phrase,), program=program)


def _ask_verify(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    thing, answer = rng.choice(things), rng.choice((YES, NO))
    others = [value for value in ATTRIBUTES[thing.kind] if value != thing.value]
    value = thing.value if answer == YES else rng.choice(others)
    program = _steps(("select", thing.name), (f"verify {thing.kind}", value))
    return Question(
        kind, _worded(kind, rng, thing=thing.name, value=value), answer, (thing.phrase,), program=program
    )


def _ask_relation(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    if not scene.relations:
        return None
    subject, word, anchor = rng.choice(scene.relations)
    names = [thing.name for thing in scene.things]
    related = [f"{names[s]} {w} {names[a]}" for s, w, a in scene.relations if a == anchor]
    rng.shuffle(related)
    given, answer = (anchor, subject) if kind == "subject" else (subject, anchor)
    text = _worded(kind, rng, relation=word, thing=names[given])
    program = _steps(("select", names[given]), (f"relate {kind}", word), ("query", "name"))
    return Question(kind, text, names[answer], tuple(related), program=program)


def _ask_same(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    answer = rng.choice((YES, NO))
    pairs = _pairs(things, alike=answer == YES)
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    text = _worded(kind, rng, thing=first.name, other=second.name, kind=first.kind)
    program = _steps(("select", first.name), ("same", first.kind))
    return Question(kind, text, answer, _phrases(first, second, rng), program=program)


def _ask_which(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    pairs = _pairs(things, alike=False)
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    chosen = rng.choice((first, second))
    text = _worded(kind, rng, value=chosen.value, thing=first.name, other=second.name)
    program = _steps(("select", chosen.value), ("choose", "name"))
    return Question(kind, text, chosen.name, _phrases(first, second, rng), program=program)


def _ask_both(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    pairs = _pairs(things, alike=True)
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    text = _worded(kind, rng, thing=first.name, other=second.name, kind=first.kind)
    program = _steps(("select", first.name), ("common", first.kind))
    return Question(kind, text, first.value, _phrases(first, second, rng), program=program)


def _ask_fact(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    if kind == "fact_purpose":
        values = [thing.value for thing in scene.things]
        things = [thing for thing in things if values.count(thing.value) == 1]
    if not things:
        return None
    thing = rng.choice(things)
    name, predicate, purpose = thing.fact
    answer = {"fact_value": thing.value, "fact_thing": name, "fact_purpose": purpose}[kind]
    text = _worded(kind, rng, kind=thing.kind, value=thing.value, predicate=predicate, purpose=purpose)
    program = _steps(("recall", " ".join(thing.fact)), ("query", kind.removeprefix("fact_")))
    return Question(kind, text, answer, (" ".join(thing.fact), thing.phrase), thing.fact, program)


def _ask_text(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    having = [surface for surface in scene.surfaces if surface.name in TEXTS[kind][0]]
    if not having:
        return None
    surface = rng.choice(having)
    other = rng.choice([other for other in scene.surfaces if other is not surface])
    text = _worded(kind, rng, color=surface.color, surface=surface.name)
    program = _steps(("select", f"{surface.color} {surface.name}"), ("read", kind))
    return Question(kind, text, surface.word, _phrases(surface, other, rng), program=program)


def _pairs(things: list[Thing], alike: bool) -> list[tuple[Thing, Thing]]:
    """Ordered pairs of things with an attribute of one kind, its value the same or not."""
    return [
        (first, second)
        for first, second in itertools.permutations(things, 2)
        if first.kind == second.kind and (first.value == second.value) == alike
    ]


def _phrases(first: Thing | Surface, second: Thing | Surface, rng: random.Random) -> tuple[str, ...]:
    phrases = [first.phrase, second.phrase]
    rng.shuffle(phrases)
    return tuple(phrases)


_ASKERS: dict[str, Callable[[str, Scene, list[Thing], random.Random], Question | None]] = {
    "thing": _ask_thing,
    "place": _ask_place,
    "color": _ask_attribute,
    "material": _ask_attribute,
    "shape": _ask_attribute,
    "verify": _ask_verify,
    "subject": _ask_relation,
    "object": _ask_relation,
    "same": _ask_same,
    "which": _ask_which,
    "both": _ask_both,
    "fact_value": _ask_fact,
    "fact_thing": _ask_fact,
    "fact_purpose": _ask_fact,
    "text": _ask_text,
    "brand": _ask_text,
    "number": _ask_text,
}
