"""Asking about a scene: question, answer, the scene-graph items it is about, program and supporting fact."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmclvqa.clove.mini.grammar import FORMS
from mmclvqa.clove.mini.scenes import Scene, Thing
from mmclvqa.clove.mini.vocabulary import ATTRIBUTES, CLASSES, FACTS, HORIZONTAL, NO, TEXTS, YES

Share = tuple[float, tuple[str, ...]]
"""Weight of a kind of question, and the kinds of attribute that the objects have about which it is asked."""

_ALL = tuple(ATTRIBUTES)

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
"""Functional task -> how its kinds of question are mixed.

What is asked about an item is decided by the item: a colour asks for other questions than a material. A
language model that always takes the likeliest question, as SRM does, so still comes to every kind.
"""

SCENE_MIX: dict[str, Share] = {
    "thing": (0.2, ("color",)),
    "thing_choice": (0.15, ("material",)),
    "value_choice": (0.15, ("shape",)),
    "subject": (0.25, _ALL),
    "object": (0.15, _ALL),
    "place": (0.1, _ALL),
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


def ask(
    kind: str, scene: Scene, rng: random.Random, own: bool = False, attributes: Sequence[str] = _ALL
) -> Question | None:
    """Draw a question of ``kind`` about ``scene``; None where the scene offers none.

    Args:
        kind: a key of :data:`~mmclvqa.clove.mini.grammar.FORMS`.
        scene: the picture.
        rng: the generator of every draw.
        own: ask only about the objects of the picture's own scene type.
        attributes: ask only about objects whose attribute is of these kinds; relations are asked about any.
    """
    things = [
        thing for thing in (scene.own_things if own else scene.things) if kind in _RELATIONS or thing.kind in attributes
    ]
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
    first, second = _options(thing.value, ATTRIBUTES[thing.kind], rng)
    text = _worded(kind, rng, thing=thing.name, value=first, rival=second)
    program = _steps(("select", thing.name), (f"choose {thing.kind}", f"{first}|{second}"))
    return Question(kind, text, thing.value, (thing.phrase,), program=program)


def _ask_relation(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    """About what stands beside something: its name; about what is above, below or on something: where it is.

    In a task of the scene setting, about whichever of the two belongs to it, and nothing else is related. Elsewhere
    the anchor's other triple is, after the one that is asked about.
    """
    names = [thing.name for thing in scene.things]
    every = len(things) == len(names)
    own = {names.index(thing.name) for thing in things}
    asked = [
        triple
        for triple in scene.relations
        if kind == ("subject" if (triple[1] in HORIZONTAL if every else triple[0] in own) else "object")
        and (triple[0] if kind == "subject" else triple[2]) in own
    ]
    if not asked:
        return None
    triple = subject, word, anchor = rng.choice(asked)
    others = [other for other in scene.relations if every and other[2] == anchor and other != triple]
    related = [f"{names[s]} {w} {names[a]}" for s, w, a in (triple, *others)]
    given, answer = (anchor, subject) if kind == "subject" else (subject, anchor)
    text = _worded(kind, rng, relation=word, thing=names[given], category=scene.things[answer].category)
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
    return Question(kind, text, answer, (first.phrase, second.phrase), program=program)


def _ask_which(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    pairs = _pairs(things, alike=False)
    if not pairs:
        return None
    chosen, second = rng.choice(pairs)
    # The value of the first item is asked for, so that a prompt decides the answer; which is named first, it does not.
    first, other = sorted((chosen.name, second.name), key=CLASSES.index)
    text = _worded(kind, rng, value=chosen.value, thing=first, other=other)
    program = _steps(("select", chosen.value), ("choose", "name"))
    return Question(kind, text, chosen.name, (chosen.phrase, second.phrase), program=program)


def _ask_both(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    pairs = _pairs(things, alike=True)
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    text = _worded(kind, rng, thing=first.name, other=second.name, kind=first.kind)
    program = _steps(("select", first.name), ("common", first.kind))
    return Question(kind, text, first.value, (first.phrase, second.phrase), program=program)


def _ask_fact(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question:
    thing = rng.choice(things)
    name, predicate, purpose = thing.fact
    answer = {"fact_value": thing.value, "fact_thing": name, "fact_purpose": purpose}[kind]
    slots = {"kind": thing.kind, "value": thing.value, "category": thing.category}
    text = _worded(kind, rng, **slots, predicate=predicate, purpose=purpose)
    program = _steps(("recall", " ".join(thing.fact)), ("query", kind.removeprefix("fact_")))
    return Question(kind, text, answer, (" ".join(thing.fact), thing.phrase), thing.fact, program)


def _ask_text(kind: str, scene: Scene, things: list[Thing], rng: random.Random) -> Question | None:
    having = [surface for surface in scene.surfaces if surface.name in TEXTS[kind][0]]
    if not having:
        return None
    surface = rng.choice(having)
    other = rng.choice([other for other in scene.surfaces if other is not surface])
    slots = {"color": surface.color, "surface": surface.name}
    text = _worded(kind, rng, **slots, other_color=other.color, other_surface=other.name)
    program = _steps(("select", f"{surface.color} {surface.name}"), ("read", kind))
    # One related item, as a scenetext prompt has one: SRM would go on to a second one before it asks.
    return Question(kind, text, surface.word, (surface.phrase,), program=program)


def _options(right: str, among: Sequence[str], rng: random.Random) -> list[str]:
    """The right one and a wrong one, in the order of ``among``: so the right one is not always named first."""
    wrong = rng.choice([other for other in among if other != right])
    return sorted((right, wrong), key=among.index)


def _pairs(things: list[Thing], alike: bool) -> list[tuple[Thing, Thing]]:
    """Ordered pairs of things with an attribute of one kind, its value the same or not."""
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

_RELATIONS = ("subject", "object")
