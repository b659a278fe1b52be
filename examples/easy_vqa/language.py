"""The language of easy-VQA: its questions, scene-graph items, and what follows from them.

Every image has exactly one shape. The items ``red circle``, ``red shape`` and ``circle`` state both its color and its
kind, or one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
KINDS = ("circle", "rectangle", "triangle")
YES, NO = "yes", "no"
SHAPE = "shape"
"""The word for a shape of any kind."""
YES_NO = "yesno"
TASKS = (YES_NO, "shape", "color")
"""Names of the tasks, in the order in which they are learned."""


@dataclass(frozen=True)
class Question:
    """A question about the shape of an image.

    Attributes:
        task: the task of :data:`TASKS` to which it belongs.
        word: the color or kind that it names, None if it names neither.
        negated: whether a yes-no question asks if something is absent.
    """

    task: str
    word: str | None
    negated: bool = False


@dataclass
class Facts:
    """What is known about the shape of an image: its color and its kind, None if unknown."""

    color: str | None = None
    kind: str | None = None

    def add(self, word: str) -> None:
        """Add a color or kind; other words are ignored."""
        if word in COLORS:
            self.color = word
        elif word in KINDS:
            self.kind = word

    def join(self, other: Facts) -> None:
        """Add what ``other`` states."""
        self.color, self.kind = other.color or self.color, other.kind or self.kind

    @property
    def items(self) -> list[str]:
        """All items, beginning with the one that states most."""
        color = f"{self.color} {SHAPE}" if self.color else None
        both = f"{self.color} {self.kind}" if self.color and self.kind else None
        return [item for item in (both, color, self.kind) if item]

    def contradicting(self, question: Question) -> list[str]:
        """Return the items from which the answer no to a yes-no question follows, or none if they are not known.

        These are the item that states most, and the one that states the color or the kind, whichever the question asks
        for: ``red circle`` and ``circle`` for "is there a triangle?".
        """
        part = self.color and f"{self.color} {SHAPE}" if question.word in COLORS else self.kind
        return list(dict.fromkeys((self.items[0], part))) if part else []

    def holds(self, word: str) -> bool | None:
        """Return whether the shape has a color or kind; None if this is not known."""
        own = self.color if word in COLORS else self.kind
        return None if own is None else own == word


def parse_question(text: str) -> Question | None:
    """Return what a question asks, or None if it is not a question of easy-VQA."""
    words = text.lower().replace("?", " ").split()
    named = [word for word in words if word in (*COLORS, *KINDS)]
    if not words or len(named) > 1:
        return None
    word = named[0] if named else None
    if words[0] in ("is", "does"):
        return Question(YES_NO, word, "not" in words or "no" in words) if word else None
    if words[0] != "what" or not {SHAPE, *KINDS} & set(words):
        return None
    task = "color" if "color" in words else "shape"
    return None if word in (COLORS if task == "color" else KINDS) else Question(task, word)


def stated(question: Question, answer: str) -> Facts:
    """Return what a question and its answer state about the image; nothing if they deny something."""
    facts = Facts()
    if question.task != YES_NO:
        facts.add(answer)
    if question.word and (question.task != YES_NO or (answer == YES) != question.negated):
        facts.add(question.word)
    return facts


def read_items(items: Iterable[str]) -> Facts:
    """Return what scene-graph items state."""
    facts = Facts()
    for word in " ".join(items).split():
        facts.add(word)
    return facts


def is_true(question: str, answer: str, items: Iterable[str]) -> bool | None:
    """Return whether the answer to a question follows from scene-graph items.

    Returns:
        True or False; False also if the items do not say; None if it is not a question of easy-VQA.
    """
    asked, facts = parse_question(question), read_items(items)
    if asked is None:
        return None
    if asked.task == YES_NO:
        holds = facts.holds(asked.word)
        return holds is not None and answer == (YES if holds != asked.negated else NO)
    named = asked.word is None or bool(facts.holds(asked.word))
    return named and answer == (facts.color if asked.task == "color" else facts.kind)
