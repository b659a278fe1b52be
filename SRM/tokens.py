"""Token sequences: the special tokens, the tokenizer, and the training sequences of a record.

A record has related items R (mask 1) and other items U. With c_R and c the items of R and of R + U joined by
``[SEP]``, the sequences of a decoder-only model are::

    question-answer  input  gen c_R [que] q [ans] a     target  q [ans] a eos, from the position of [que] on
    scene graph      input  gen c                       target  c eos

and those of an encoder-decoder model::

    question-answer  source  que c_R que                target  q [ans] a eos
    scene graph      source  gen, items up to a random [SEP], target  the items after it, eos

where ``gen`` is ``__<task>__`` or ``__gen__``, and ``que`` is ``[que_<task>]`` or ``[que]``, with and without task
tokens. The items and one of the ten answers are drawn anew in every epoch.

Texts are tokenized piece by piece (an item, a question, an answer). The tokenizer splits a text at special tokens, so
the ids are those of the whole text, while each piece is tokenized only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmclvqa.clove.tasks import Task

EOS = "<|endoftext|>"
PAD = "[pad]"
UNK = "[unk]"
SEP = "[SEP]"
QUESTION = "[que]"
ANSWER = "[ans]"
OCR = "[OCR]"
WEIGHTED = (ANSWER, QUESTION, OCR, SEP)
"""Targets with a larger weight in the loss (``--tokens_weight``)."""
IGNORED = -100
"""Target of a position that is not part of the loss."""


def task_token(task: Task, use_task_tokens: bool = True) -> str:
    """Return the token that a task's sequences start with: ``__<task>__``, or ``__gen__`` shared by all tasks."""
    return f"__{task.name}__" if use_task_tokens else "__gen__"


def task_question_token(task: Task, use_task_tokens: bool = True) -> str:
    """Return the token of encoder-decoder questions: ``[que_<task>]``, or ``[que]`` shared by all tasks."""
    return f"[que_{task.name}]" if use_task_tokens else QUESTION


def bare(item: str) -> str:
    """Return a scene-graph item without its ``[SEP]``."""
    return item.partition(SEP)[0].strip()


class Tokens:
    """A tokenizer of transformers, to which SRM's special tokens are added, and a cache of tokenized texts."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        tokenizer.add_special_tokens({"eos_token": EOS, "pad_token": PAD, "unk_token": UNK, "sep_token": SEP})
        self.add(QUESTION, ANSWER, OCR)
        self.eos, self.pad, self.sep = self.id(EOS), self.id(PAD), self.id(SEP)
        self.question, self.answer = self.id(QUESTION), self.id(ANSWER)
        self._pieces: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.tokenizer)

    def add(self, *tokens: str) -> None:
        """Add special tokens that the vocabulary does not have yet."""
        vocabulary = self.tokenizer.get_vocab()
        self.tokenizer.add_tokens([token for token in tokens if token not in vocabulary], special_tokens=True)

    def id(self, token: str) -> int:
        """Return the id of a special token."""
        return self.tokenizer.convert_tokens_to_ids(token)

    def weighted_ids(self) -> list[int]:
        """Return the ids of :data:`WEIGHTED`."""
        return [self.id(token) for token in WEIGHTED]

    def cache(self, pieces: Iterable[str]) -> None:
        """Tokenize pieces of text in one call, so that :meth:`ids` finds them in the cache."""
        fresh = [piece for piece in dict.fromkeys(pieces) if piece not in self._pieces]
        if fresh:
            lists = self.tokenizer(fresh, add_special_tokens=False)["input_ids"]
            self._pieces.update(zip(fresh, lists, strict=True))

    def ids(self, piece: str) -> list[int]:
        """Return the ids of a piece of text; the list must not be modified."""
        if piece not in self._pieces:
            self.cache([piece])
        return self._pieces[piece]

    def text(self, ids: Sequence[int]) -> str:
        """Decode ids, including special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@dataclass(frozen=True)
class Source:
    """A tokenized record.

    Attributes:
        start: id of the token that the sequences of its task start with.
        question_start: id of the token that encoder-decoder questions start with.
        related, others: ids of each item of R and of U.
        question, answers: ids of the question and of each distinct answer.
        shares: how many of the ten answers equal each distinct one.
    """

    start: int
    question_start: int
    related: list[list[int]]
    others: list[list[int]]
    question: list[int]
    answers: list[list[int]]
    shares: list[int]


@dataclass
class Example:
    """The training example drawn from a record for one epoch, cut to the longest sequence of the model.

    Attributes:
        start, question_start: as in :class:`Source`.
        context: ids of c_R as it fits the question-answer sequence.
        graph: ids of c as it fits the scene-graph sequence.
        split: for encoder-decoder models, how many ids of ``graph`` belong to the source, its last ``[SEP]`` included.
        question, answer: ids of q and a.
        cut: whether something was left out to fit.
    """

    start: int
    question_start: int
    context: list[int]
    graph: list[int]
    split: int
    question: list[int]
    answer: list[int]
    cut: bool


def read_sources(records: Sequence[Mapping[str, Any]], tokens: Tokens, start: int, question_start: int) -> list[Source]:
    """Tokenize records of one task; see :class:`Source` for ``start`` and ``question_start``."""
    items = [[bare(item) for item in record["gt_scene_graph_seq"]] for record in records]
    for texts, record in zip(items, records, strict=True):
        tokens.cache([*texts, record["question"], *record["answers"]])
    sources = []
    for record, texts in zip(records, items, strict=True):
        parts: tuple[list[list[int]], list[list[int]]] = ([], [])
        for item, related in zip(texts, record["gt_scene_graph_mask"], strict=True):
            parts[not related].append(tokens.ids(item))
        distinct = list(dict.fromkeys(record["answers"]))
        question, answers = tokens.ids(record["question"]), [tokens.ids(answer) for answer in distinct]
        shares = [list(record["answers"]).count(answer) for answer in distinct]
        sources.append(Source(start, question_start, *parts, question, answers, shares))
    return sources


def draw_example(source: Source, rng: np.random.Generator, n_items: int, longest: int, sep: int) -> Example:
    """Draw the items and the answer of an example.

    Args:
        n_items: maximum number of items: if R has more, ``n_items`` of them are drawn; otherwise items drawn from U
            fill the remaining places.
        longest: maximum number of tokens of a sequence; the end of the context is cut.
        sep: id of ``[SEP]``.
    """
    related, others = source.related, source.others
    if len(related) >= n_items:
        related = _sample(related, n_items, rng)
    elif len(others) > n_items - len(related):
        others = _sample(others, n_items - len(related), rng)
    answer = source.answers[0]
    if len(source.answers) > 1:
        position = rng.integers(sum(source.shares))
        answer = source.answers[int(np.searchsorted(np.cumsum(source.shares), position, side="right"))]
    # Besides the context, the sequence has the start token, [que], the question, [ans] and the answer.
    question = source.question
    cut = len(question) + len(answer) + 3 > longest
    if cut:
        answer = answer[: longest - 3]
        question = question[: longest - 3 - len(answer)]
    context, context_cut = cut_tokens(related, longest - len(question) - len(answer) - 3, sep)
    graph, graph_cut = cut_tokens([*related, *others], longest - 1, sep)
    breaks = [index + 1 for index, token in enumerate(graph) if token == sep]
    split = breaks[rng.integers(len(breaks))] if breaks else len(graph)
    cut = cut or context_cut or graph_cut
    return Example(source.start, source.question_start, context, graph, split, question, answer, cut)


def most_tokens(source: Source) -> int:
    """Return an upper limit of the tokens of a sequence of a record; each item counts with its ``[SEP]``."""
    items = [*source.related, *source.others]
    return sum(map(len, items)) + len(items) + len(source.question) + max(map(len, source.answers)) + 3


def cut_tokens(items: Sequence[list[int]], most: int, sep: int) -> tuple[list[int], bool]:
    """Join items by ``[SEP]`` and keep the first ``most`` ids; return the ids and whether any were cut off."""
    joined = [token for item in items for token in (*item, sep)][:-1]
    return joined[: max(most, 0)], len(joined) > most


def _sample(items: list[list[int]], count: int, rng: np.random.Generator) -> list[list[int]]:
    return [items[i] for i in rng.permutation(len(items))[:count]]


def decoder_sequences(example: Example, tokens: Tokens) -> dict[str, list[int]]:
    """Return the sequences of a decoder-only model by their names in the published code.

    Returns:
        ``cqa`` and ``Y``, input and target of the question-answer pass; ``context``, the part of ``cqa`` up to
        ``[que]``; ``gen_X`` and ``gen_Y``, input and target of the scene-graph pass.
    """
    context = [example.start, *example.context, tokens.question]
    tail = [*example.question, tokens.answer, *example.answer]
    return {
        "context": context,
        "cqa": [*context, *tail],
        "Y": [IGNORED] * (len(context) - 1) + [*tail, tokens.eos],
        "gen_X": [example.start, *example.graph],
        "gen_Y": [*example.graph, tokens.eos],
    }


def seq2seq_sequences(example: Example, tokens: Tokens) -> tuple[tuple[list[int], list[int]], ...]:
    """Return source and target of the question-answer and the scene-graph pass of an encoder-decoder model."""
    question_source = [example.question_start, *example.context, example.question_start]
    question_target = [*example.question, tokens.answer, *example.answer, tokens.eos]
    graph_source = [example.start, *example.graph[: example.split]]
    if example.split == len(example.graph):
        graph_source.append(tokens.sep)
    graph_target = [*example.graph[example.split :], tokens.eos]
    return (question_source, question_target), (graph_source, graph_target)
