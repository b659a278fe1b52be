"""Text of the world, for the tokenizers and word vectors: single words, scene-graph items and questions."""

from __future__ import annotations

from mmclvqa.clove.mini.draws import named_random
from mmclvqa.clove.mini.grammar import FORMS
from mmclvqa.clove.mini.questions import ask
from mmclvqa.clove.mini.records import sample_scenes, sample_text_scenes
from mmclvqa.clove.mini.vocabulary import (
    ATTRIBUTE_KIND,
    ATTRIBUTES,
    CATEGORIES,
    CLASSES,
    FACT_PREDICATES,
    NO,
    PLACES,
    PURPOSES,
    RELATIONS,
    SIGN_WORDS,
    SURFACES,
    YES,
)

PICTURES = 300


def words() -> list[str]:
    """Every word that occurs in questions, answers and items, sorted."""
    named = (
        *CLASSES, *CATEGORIES, *PLACES, *ATTRIBUTE_KIND, *ATTRIBUTES, *PURPOSES, *RELATIONS, *FACT_PREDICATES,
        *SURFACES, *SIGN_WORDS,  YES, NO, "with",
    )  # fmt: skip
    forms = (word.strip("?,") for worded in FORMS.values() for form in worded for word in form.split())
    return sorted(
        {word for name in named for word in name.split()} | {word for word in forms if "{" not in word}
    )


def sentences(seed: int) -> list[str]:
    """Items, and questions with their answers, of some GQA-like and as many TextVQA-like pictures."""
    rng = named_random(seed, "corpus")
    lines: list[str] = []
    for scene in sample_scenes(seed, "corpus", PICTURES) + sample_text_scenes(seed, "corpus", PICTURES):
        lines.extend(scene.items)
        questions = [ask(kind, scene, rng) for kind in FORMS]
        lines.extend(f"{question.text} {question.answer}" for question in questions if question)
    return lines
