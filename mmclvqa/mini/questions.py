"""Questions about a scene with their answer, related scene-graph items, program and supporting fact."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmclvqa.mini.scenes import Scene, Thing
from mmclvqa.mini.vocabulary import ATTRIBUTES, CLASSES, FACTS, FORMS, HORIZONTAL, NO, RELATIONS, TEXTS, YES

Share = tuple[float, tuple[str, ...]]
"""Weight of a kind of question, and the kinds of attribute of the objects about which it is asked."""

_ALL = tuple(ATTRIBUTES)
_ABOUT_RELATIONS = ("subject", "object")

MIXES: dict[str, dict[str, Share]] = {
    "object": {"thing": (0.4, ("color",)), "thing_choice": (0.45, ("material", "shape")), "place": (0.15, _ALL)},
    "attribute": {"color": (0.5, ("color",)), "value_choice": (0.5, ("material", "shape"))},
    "relation": {"subject": (0.5, _ALL), "object": (0.5, _ALL)},
    "logical": {"which": (0.4, ("color", "material")), "both": (0.4, ("color", "material")), "same": (0.2, ("shape",))},
    "knowledge": {
        "fact_thing": (0.5, ("color",)),
        "fact_purpose": (0.25, ("material",)),
        "fact_value": (0.25, ("shape",)),
    },
    "scenetext": {"text": (0.35, _ALL), "brand": (0.3, _ALL), "number": (0.35, _ALL)},
}
"""Functional task -> its kinds of question.

The item determines the kind of question: questions about an object with a color differ from those about one with a
material. A language model that always generates the most likely question, as SRM does, thus still generates every kind.
"""

SCENE_MIX: dict[str, Share] = {
    "thing": (0.2, ("color",)),
    "thing_choice": (0.15, ("material",)),
    "value_choice": (0.15, ("shape",)),
    "subject": (0.25, _ALL),
    "object": (0.15, _ALL),
    "place": (0.1, _ALL),
}
"""Kinds of question of every task of the scene setting, asked only about objects of its own scene type."""


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        kind: kind of question, a key of :data:`~mmclvqa.mini.vocabulary.FORMS`.
        text: the question in lower case.
        answer: the only correct answer.
        related: related items of the scene graph (mask 1), which suffice to answer the question.
        fact: triple of the supporting fact, if one is required; it is also the first item of ``related``.
        program: GQA-like steps, dicts with ``operation``, ``argument``, ``dependencies``.
    """

    kind: str
    text: str
    answer: str
    related: tuple[str, ...]
    fact: tuple[str, str, str] | None = None
    program: tuple[dict[str, object], ...] = field(default=(), compare=False)


def ask(
    kind: str, scene: Scene, rng: random.Random, own: bool = False, attributes: Sequence[str] = _ALL
) -> Question | None:
    """Draw a question of a kind of :data:`~mmclvqa.mini.vocabulary.FORMS`; None if the scene has no such question.

    Args:
        own: ask only about objects of the scene's own type.
        attributes: ask only about objects with an attribute of these kinds; does not limit questions about relations.
    """
    things = list(scene.own_things if own else scene.things)
    if kind not in _ABOUT_RELATIONS:
        things = [thing for thing in things if thing.kind in attributes]
    return _ASKERS[kind](kind, scene, things, rng) if things else None


def _worded(form: str, rng: random.Random, /, **slots: str) -> str:
    return rng.choice(FORMS[form]).format(**slots)


def _steps(*steps: tuple[str, str]) -> tuple[dict[str, object], ...]:
    return tuple(
        {"operation": operation, "argument": argument, "dependencies": [index - 1] if index else []}
        for index, (operation, argument) in enumerate(steps)
    )


def _ask_thing(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    thing = rng.choice(things)
    text = _worded(kind, rng, value=thing.value, category=thing.category)
    program = _steps(("select", thing.category), (f"filter {thing.kind}", thing.value), ("query", "name"))
    return Question(kind, text, thing.name, (thing.phrase,), program=program)


def _ask_thing_choice(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    thing = rng.choice(things)
    first, second = (name for name in CLASSES if FACTS[name] == FACTS[thing.name])
    text = _worded(kind, rng, value=thing.value, thing=first, other=second)
    program = _steps(("select", thing.value), ("choose name", f"{first}|{second}"))
    return Question(kind, text, thing.name, (thing.phrase,), program=program)


def _ask_place(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    program = _steps(("select", "scene"), ("query", "place"))
    return Question(kind, _worded(kind, rng), scene.place, (scene.place,), program=program)


def _ask_color(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    thing = rng.choice(things)
    program = _steps(("select", thing.name), ("query", thing.kind))
    return Question(kind, _worded(kind, rng, thing=thing.name), thing.value, (thing.phrase,), program=program)


def _ask_value_choice(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    thing = rng.choice(things)
    values = ATTRIBUTES[thing.kind]
    wrong = rng.choice([value for value in values if value != thing.value])
    # The order of the options does not reveal the answer.
    first, second = sorted((thing.value, wrong), key=values.index)
    text = _worded(kind, rng, thing=thing.name, value=first, rival=second)
    program = _steps(("select", thing.name), (f"choose {thing.kind}", f"{first}|{second}"))
    return Question(kind, text, thing.value, (thing.phrase,), program=program)


def is_about_an_anchor(items: Sequence[str]) -> bool:
    """Return whether two items are a horizontal and a vertical relation to the same object."""
    triples = [
        (subject, word, anchor)
        for item in items
        for word in RELATIONS
        for subject, separator, anchor in [item.partition(f" {word} ")]
        if separator
    ]
    if len(triples) != 2:
        return False
    (_, first, anchor), (_, second, other) = triples
    return anchor == other and (first in HORIZONTAL) != (second in HORIZONTAL)


def _ask_relation(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    """Ask for the subject of a horizontal relation, or for the object of a vertical relation.

    A task of the scene setting asks for the object of its own scene type, and only one triple is related. In the
    functional setting, the other triple of the anchor is the second related item.
    """
    names = [thing.name for thing in scene.things]
    is_functional = len(things) == len(names)
    own = {names.index(thing.name) for thing in things}
    candidates = [
        triple
        for triple in scene.relations
        if kind == ("subject" if (triple[1] in HORIZONTAL if is_functional else triple[0] in own) else "object")
        and (triple[0] if kind == "subject" else triple[2]) in own
    ]
    if not candidates:
        return None
    triple = subject, word, anchor = rng.choice(candidates)
    others = [other for other in scene.relations if is_functional and other[2] == anchor and other != triple]
    related = [f"{names[s]} {w} {names[a]}" for s, w, a in (triple, *others)]
    mentioned, answer = (anchor, subject) if kind == "subject" else (subject, anchor)
    text = _worded(kind, rng, relation=word, thing=names[mentioned], category=scene.things[answer].category)
    program = _steps(("select", names[mentioned]), (f"relate {kind}", word), ("query", "name"))
    return Question(kind, text, names[answer], tuple(related), program=program)


def _ask_alike(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    """Ask whether the attributes of two objects are the same, or for the one that both have."""
    same = rng.choice((YES, NO)) if kind == "same" else YES
    pairs = _pairs(things, alike=same == YES)
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    text = _worded(kind, rng, thing=first.name, other=second.name, kind=first.kind)
    answer, operation = (same, "same") if kind == "same" else (first.value, "common")
    program = _steps(("select", first.name), (operation, first.kind))
    return Question(kind, text, answer, (first.phrase, second.phrase), program=program)


def _ask_which(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    pairs = _pairs(things, alike=False)
    if not pairs:
        return None
    chosen, second = rng.choice(pairs)
    # The question asks for the first item, so that the prompt determines the answer, but not the order of the names.
    first, other = sorted((chosen.name, second.name), key=CLASSES.index)
    text = _worded(kind, rng, value=chosen.value, thing=first, other=other)
    program = _steps(("select", chosen.value), ("choose", "name"))
    return Question(kind, text, chosen.name, (chosen.phrase, second.phrase), program=program)


def _ask_fact(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    thing = rng.choice(things)
    name, predicate, purpose = thing.fact
    answer = {"fact_value": thing.value, "fact_thing": name, "fact_purpose": purpose}[kind]
    slots = {"kind": thing.kind, "value": thing.value, "category": thing.category}
    text = _worded(kind, rng, **slots, predicate=predicate, purpose=purpose)
    program = _steps(("recall", " ".join(thing.fact)), ("query", kind.removeprefix("fact_")))
    return Question(kind, text, answer, (" ".join(thing.fact), thing.phrase), thing.fact, program)


def _ask_text(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    surfaces = [surface for surface in scene.surfaces if surface.name in TEXTS[kind][0]]
    if not surfaces:
        return None
    surface = rng.choice(surfaces)
    other = rng.choice([other for other in scene.surfaces if other is not surface])
    slots = {"color": surface.color, "surface": surface.name}
    text = _worded(kind, rng, **slots, other_color=other.color, other_surface=other.name)
    program = _steps(("select", f"{surface.color} {surface.name}"), ("read", kind))
    # There is one related item, as in scenetext prompts; otherwise SRM would generate a second item first.
    return Question(kind, text, surface.word, (surface.phrase,), program=program)


def _pairs(things: list[Thing], alike: bool) -> list[tuple[Thing, Thing]]:
    """Return ordered pairs of things with an attribute of the same kind and an equal or different value."""
    return [
        (first, second)
        for first, second in itertools.permutations(things, 2)
        if first.kind == second.kind and (first.value == second.value) == alike
    ]


_ASKERS: dict[str, Callable[[str, Scene, list[Thing], random.Random], Question | None]] = {
    "thing": _ask_thing,
    "thing_choice": _ask_thing_choice,
    "place": _ask_place,
    "color": _ask_color,
    "value_choice": _ask_value_choice,
    **dict.fromkeys(_ABOUT_RELATIONS, _ask_relation),
    **dict.fromkeys(("same", "both"), _ask_alike),
    "which": _ask_which,
    **dict.fromkeys(("fact_value", "fact_thing", "fact_purpose"), _ask_fact),
    **dict.fromkeys(TEXTS, _ask_text),
}
