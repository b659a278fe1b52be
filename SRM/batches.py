"""Batches for training: which examples go together, and their tensors.

No example is dropped. Examples of similar length are put together, so that little padding is computed, and a
batch is as large as its examples and its tokens allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from SRM.examples import IGNORED, Drawn, seq2seq_sequences
from SRM.tokens import Tokens

POOL = 50
"""Batches' worth of shuffled examples among which those of similar length are put together."""

Batch = dict[str, Tensor]


class Layout(Protocol):
    """How an example becomes rows of a batch."""

    def length(self, drawn: Drawn) -> int:
        """Tokens that the example takes, were it alone in a batch."""

    def batch(self, examples: Sequence[Drawn]) -> Batch:
        """The tensors of a batch."""


def plan(
    lengths: Sequence[int], most_examples: int, most_tokens: int, rng: np.random.Generator | None
) -> list[list[int]]:
    """Which examples form which batch.

    Args:
        lengths: tokens of each example, padding of its own batch not counted.
        most_examples: examples in a batch.
        most_tokens: examples of a batch times its longest; an example that is longer is a batch of its own.
        rng: shuffles examples and batches; without it everything stays in the order of ``lengths``.

    Returns:
        Indices by batch; every index stands exactly once.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    batches: list[list[int]] = []
    pool_size = POOL * most_examples if rng is not None else max(len(order), 1)
    for at in range(0, len(order), pool_size):
        pool = order[at : at + pool_size].tolist()
        if rng is not None:
            pool.sort(key=lengths.__getitem__)
        batch: list[int] = []
        longest = 0
        for index in pool:
            longest = max(longest, lengths[index])
            if batch and (len(batch) == most_examples or longest * (len(batch) + 1) > most_tokens):
                batches.append(batch)
                batch, longest = [], lengths[index]
            batch.append(index)
        if batch:
            batches.append(batch)
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]


def padded(rows: Sequence[Sequence[int]], fill: int, width: int | None = None) -> Tensor:
    """Rows of ids as an int64 tensor, filled up at the end."""
    width = max(map(len, rows)) if width is None else width
    table = np.full((len(rows), width), fill, dtype=np.int64)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(table)


class TreeLayout:
    """Decoder-only: both passes of an example in one row that holds their common beginning once.

    A row is ``gen c_R``, then the rest of c, then ``[que] q [ans] a``. The last part sees the first but not the
    second, and its positions go on from the first, so each pass computes exactly what it would compute alone.

    Batch: ``input_ids``, ``position_ids``, ``targets`` (rows x width, int64; ``IGNORED`` where nothing counts),
    ``attention_mask`` (rows x 1 x width x width, bool), ``is_question`` (rows x width, bool: the target belongs to
    the question-answer pass).
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def length(self, drawn: Drawn) -> int:
        return 1 + len(drawn.graph) + 2 + len(drawn.question) + len(drawn.answer)

    def batch(self, examples: Sequence[Drawn]) -> Batch:
        tokens = self.tokens
        width = max(map(self.length, examples))
        rows, targets = [], []
        trunk = np.empty(len(examples), dtype=np.int64)
        branch = np.empty(len(examples), dtype=np.int64)
        for at, drawn in enumerate(examples):
            tail = [*drawn.question, tokens.answer, *drawn.answer]
            rows.append([drawn.start, *drawn.graph, tokens.question, *tail])
            targets.append([*drawn.graph, tokens.eos, *tail, tokens.eos])
            trunk[at] = 1 + len(drawn.context)
            branch[at] = 1 + len(drawn.graph)
        column = np.arange(width)
        in_branch = column[None, :] >= branch[:, None]
        in_rest = ~in_branch & (column[None, :] >= trunk[:, None])
        positions = np.where(in_branch, column - (branch - trunk)[:, None], column)
        hidden = in_branch[:, :, None] & in_rest[:, None, :]
        mask = (column[:, None] >= column[None, :]) & ~hidden
        return {
            "input_ids": padded(rows, tokens.pad, width),
            "position_ids": torch.from_numpy(np.where(positions < width, positions, 0)),
            "attention_mask": torch.from_numpy(mask[:, None]),
            "targets": padded(targets, IGNORED, width),
            "is_question": torch.from_numpy(in_branch),
        }


class PairLayout:
    """Decoder-only, for models that take no mask of two dimensions (openai-gpt): each pass is a row of its own.

    Batch: as of :class:`TreeLayout`, without ``position_ids``, ``attention_mask`` rows x width.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def length(self, drawn: Drawn) -> int:
        return 2 * max(1 + len(drawn.graph), 3 + len(drawn.context) + len(drawn.question) + len(drawn.answer))

    def batch(self, examples: Sequence[Drawn]) -> Batch:
        tokens = self.tokens
        rows, targets = [], []
        for drawn in examples:
            tail = [*drawn.question, tokens.answer, *drawn.answer]
            rows.append([drawn.start, *drawn.context, tokens.question, *tail])
            targets.append([IGNORED] * (1 + len(drawn.context)) + [*tail, tokens.eos])
        for drawn in examples:
            rows.append([drawn.start, *drawn.graph])
            targets.append([*drawn.graph, tokens.eos])
        return _rows_with_passes(rows, targets, tokens.pad)


class Seq2SeqLayout:
    """Encoder-decoder: each pass is a row of its own, question-answer passes first.

    Batch: ``input_ids``, ``attention_mask`` of the sources, ``targets``, ``is_question`` of the targets.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def length(self, drawn: Drawn) -> int:
        return (
            sum(max(map(len, sides)) for sides in zip(*seq2seq_sequences(drawn, self.tokens), strict=True))
            * 2
        )

    def batch(self, examples: Sequence[Drawn]) -> Batch:
        asked, begun = zip(*(seq2seq_sequences(drawn, self.tokens) for drawn in examples), strict=True)
        pairs = [*asked, *begun]
        return _rows_with_passes(
            [source for source, _ in pairs], [target for _, target in pairs], self.tokens.pad
        )


def _rows_with_passes(rows: list[list[int]], targets: list[list[int]], pad: int) -> Batch:
    input_ids, target_ids = padded(rows, pad), padded(targets, IGNORED)
    lengths = torch.tensor([len(row) for row in rows])
    is_question = torch.zeros_like(target_ids, dtype=torch.bool)
    is_question[: len(rows) // 2] = True
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        "targets": target_ids,
        "is_question": is_question,
    }


def layout_for(model: Any, tokens: Tokens) -> Layout:
    """The layout that a language model takes."""
    if model.config.is_encoder_decoder:
        return Seq2SeqLayout(tokens)
    return TreeLayout(tokens) if model.config.model_type == "gpt2" else PairLayout(tokens)
