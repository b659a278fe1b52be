"""Training examples: from a record to the token sequences of its question-answer and scene-graph passes.

A record has related items R (mask 1) and others U. With c_R and c the ``[SEP]``-joined items
of R and of R + U, the decoder-only sequences are::

    question-answer  input  gen c_R [que] q [ans] a     target  q [ans] a eos, from the position of [que] on
    scene graph      input  gen c                       target  c eos

and the encoder-decoder ones::

    question-answer  source  que c_R que                target  q [ans] a eos
    scene graph      source  gen, items up to a random [SEP], target  the items after it, eos

where ``que`` is ``[que_<task>]``, or ``[que]`` without task tokens. Which items and which of the ten answers is drawn
afresh for every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SRM.tokens import Tokens, bare

IGNORED = -100
"""Target of a position that does not count."""


@dataclass(frozen=True)
class Source:
    """A record as token ids.

    Attributes:
        start: ids of the token its task's sequences begin with.
        question_start: id of the token that encoder-decoder questions begin with.
        related, others: ids of each item of R and of U.
        question: ids of the question.
        answers: ids of each distinct answer.
        shares: how many of the ten answers are each distinct one.
    """

    start: int
    question_start: int
    related: list[list[int]]
    others: list[list[int]]
    question: list[int]
    answers: list[list[int]]
    shares: list[int]


@dataclass
class Drawn:
    """What is drawn from a record for one epoch: ids, already cut to what the model can take.

    Attributes:
        start, question_start: as of the :class:`Source`.
        context: c_R as it fits the question-answer sequence.
        graph: c as it fits the scene-graph sequence.
        split: encoder-decoder: how many ids of ``graph`` belong to the source, its last ``[SEP]`` included.
        question: q.
        answer: a.
        cut: whether something had to be left out to fit.
    """

    start: int
    question_start: int
    context: list[int]
    graph: list[int]
    split: int
    question: list[int]
    answer: list[int]
    cut: bool


def read_sources(
    records: Sequence[Mapping[str, Any]], tokens: Tokens, start: int, question_start: int
) -> list[Source]:
    """Tokenise records, each distinct piece of text once."""
    items = [[bare(item) for item in record["gt_scene_graph_seq"]] for record in records]
    for texts, record in zip(items, records, strict=True):
        tokens.remember([*texts, record["question"], *record["answers"]])
    return [
        _source(record, texts, tokens, start, question_start)
        for record, texts in zip(records, items, strict=True)
    ]


def _source(
    record: Mapping[str, Any], items: list[str], tokens: Tokens, start: int, question_start: int
) -> Source:
    parts: tuple[list[list[int]], list[list[int]]] = ([], [])
    for item, related in zip(items, record["gt_scene_graph_mask"], strict=True):
        parts[not related].append(tokens.ids(item))
    distinct = list(dict.fromkeys(record["answers"]))
    return Source(
        start=start,
        question_start=question_start,
        related=parts[0],
        others=parts[1],
        question=tokens.ids(record["question"]),
        answers=[tokens.ids(answer) for answer in distinct],
        shares=[list(record["answers"]).count(answer) for answer in distinct],
    )


def draw(source: Source, rng: np.random.Generator, n_items: int, longest: int, sep: int) -> Drawn:
    """Draw items and answer.

    Args:
        source: the record.
        rng: where the draws come from.
        n_items: R is cut to this many items at random, or U to what R leaves of them.
        longest: tokens that a sequence of the model may have; see :func:`cut_items` for what gives way.
        sep: id of ``[SEP]``.
    """
    related, others = source.related, source.others
    if len(related) >= n_items:
        related = _some(related, n_items, rng)
    elif len(others) > n_items - len(related):
        others = _some(others, n_items - len(related), rng)
    answer = source.answers[0]
    if len(source.answers) > 1:
        draw_at = rng.integers(sum(source.shares))
        answer = source.answers[int(np.searchsorted(np.cumsum(source.shares), draw_at, side="right"))]
    # What stands besides the context: start token, [que], question, [ans], answer.
    question = source.question
    cut = len(question) + len(answer) + 3 > longest
    if cut:
        answer = answer[: longest - 3]
        question = question[: longest - 3 - len(answer)]
    context, context_cut = cut_items(related, longest - len(question) - len(answer) - 3, sep)
    graph, graph_cut = cut_items([*related, *others], longest - 1, sep)
    breaks = [at + 1 for at, token in enumerate(graph) if token == sep]
    split = breaks[rng.integers(len(breaks))] if breaks else len(graph)
    return Drawn(
        source.start,
        source.question_start,
        context,
        graph,
        split,
        question,
        answer,
        cut or context_cut or graph_cut,
    )


def cut_items(items: Sequence[list[int]], most: int, sep: int) -> tuple[list[int], bool]:
    """Join items by ``[SEP]``, leaving out the last ones where the whole would be longer than ``most``.

    An item that is alone too long is cut itself.

    Returns:
        The ids, and whether anything was left out.
    """
    joined: list[int] = []
    for item in items:
        longer = len(joined) + len(item) + bool(joined)
        if longer > most:
            return (joined or item[: max(most, 0)]), True
        if joined:
            joined.append(sep)
        joined.extend(item)
    return joined, False


def _some(items: list[list[int]], count: int, rng: np.random.Generator) -> list[list[int]]:
    return [items[i] for i in rng.permutation(len(items))[:count]]


def decoder_sequences(drawn: Drawn, tokens: Tokens) -> dict[str, list[int]]:
    """The published decoder-only sequences of an example, as the parity fixtures name them.

    Returns:
        ``context``, ``cqa`` and ``Y`` of the question-answer pass, ``gen_X`` and ``gen_Y`` of the other.
    """
    context = [drawn.start, *drawn.context, tokens.question]
    tail = [*drawn.question, tokens.answer, *drawn.answer]
    return {
        "context": context,
        "cqa": [*context, *tail],
        "Y": [IGNORED] * (len(context) - 1) + [*tail, tokens.eos],
        "gen_X": [drawn.start, *drawn.graph],
        "gen_Y": [*drawn.graph, tokens.eos],
    }


def seq2seq_sequences(
    drawn: Drawn, tokens: Tokens
) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    """Source and target of the question-answer pass and of the scene-graph pass of an encoder-decoder model."""
    asked = [drawn.question_start, *drawn.context, drawn.question_start]
    told = [*drawn.question, tokens.answer, *drawn.answer, tokens.eos]
    begun = [drawn.start, *drawn.graph[: drawn.split]]
    if drawn.split == len(drawn.graph):
        begun = [*begun, tokens.sep]
    return (asked, told), (begun, [*drawn.graph[drawn.split :], tokens.eos])
