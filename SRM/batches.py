"""Training batches: which examples form a batch, and its tensors.

No example is dropped. Examples of similar length share a batch to reduce padding, and the size of a batch is limited in
examples and in tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from SRM.tokens import IGNORED, Example, Tokens, decoder_sequences, seq2seq_sequences

POOL = 50
"""Size of the pools of shuffled examples that are sorted by length, in batches."""

Batch = dict[str, Tensor]


class Layout(ABC):
    """How the sequences of examples are arranged in the rows of a batch.

    Every batch has ``targets`` (int64, rows x width; ``IGNORED`` outside the loss), ``is_question`` (bool, rows x
    width: the target belongs to the question-answer pass) and ``places`` (int64, 2 x N: row and column of each
    target), from which the loss selects without making the host wait for a GPU.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    @abstractmethod
    def length(self, example: Example) -> int:
        """Return the number of tokens of the example in a batch of its own."""

    @abstractmethod
    def batch(self, examples: Sequence[Example]) -> Batch:
        """Return the tensors of a batch."""


def plan(
    lengths: Sequence[int], most_examples: int, most_tokens: int, rng: np.random.Generator | None
) -> list[list[int]]:
    """Assign examples to batches.

    Args:
        lengths: tokens of each example.
        most_examples: maximum number of examples in a batch.
        most_tokens: maximum of a batch's number of examples times its longest length; a longer example gets a batch of
            its own.
        rng: shuffles examples and batches; None keeps the order of ``lengths``.

    Returns:
        The indices of each batch; every index occurs exactly once.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    batches: list[list[int]] = []
    pool_size = POOL * most_examples if rng is not None else max(len(order), 1)
    for first in range(0, len(order), pool_size):
        pool = order[first : first + pool_size].tolist()
        if rng is not None:
            pool.sort(key=lengths.__getitem__)
        batch, longest = [], 0
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
    """Return rows of ids as an int64 tensor of rows x width, padded at the end."""
    table = np.full((len(rows), width or max(map(len, rows))), fill, dtype=np.int64)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(table)


class TreeLayout(Layout):
    """Decoder-only, masks per position: one row holds both passes of an example and their common prefix once.

    A row is ``gen c_R``, the rest of c, then ``[que] q [ans] a``. The last part attends to the first but not to the
    second, and its positions continue those of the first, so each pass is computed as in a sequence of its own.

    Batch: ``input_ids``, ``position_ids`` (int64, rows x width), ``attention_mask`` (bool, rows x 1 x width x width),
    and those of :class:`Layout`.
    """

    def length(self, example: Example) -> int:
        return 1 + len(example.graph) + 2 + len(example.question) + len(example.answer)

    def batch(self, examples: Sequence[Example]) -> Batch:
        tokens = self.tokens
        width = max(map(self.length, examples))
        rows, targets = [], []
        for example in examples:
            qa_ids = [*example.question, tokens.answer, *example.answer]
            rows.append([example.start, *example.graph, tokens.question, *qa_ids])
            targets.append([*example.graph, tokens.eos, *qa_ids, tokens.eos])
        prefix_length = np.array([1 + len(example.context) for example in examples])
        question_position = np.array([1 + len(example.graph) for example in examples])
        column = np.arange(width)
        is_question = column[None, :] >= question_position[:, None]
        is_other_item = ~is_question & (column[None, :] >= prefix_length[:, None])
        positions = np.where(is_question, column - (question_position - prefix_length)[:, None], column)
        hidden = is_question[:, :, None] & is_other_item[:, None, :]
        mask = (column[:, None] >= column[None, :]) & ~hidden
        # Padding has position 0, because its own positions may be beyond the model's.
        in_row = column < np.array([len(row) for row in rows])[:, None]
        return {
            "input_ids": padded(rows, tokens.pad, width),
            "position_ids": torch.from_numpy(np.where(in_row, positions, 0)),
            "attention_mask": torch.from_numpy(mask[:, None]),
            **_with_places(padded(targets, IGNORED, width), torch.from_numpy(is_question)),
        }


class PairLayout(Layout):
    """Any decoder-only model: each pass is a row, question-answer passes first.

    Batch: ``input_ids`` and ``attention_mask`` (int64, rows x width), and those of :class:`Layout`.
    """

    def length(self, example: Example) -> int:
        question = 3 + len(example.context) + len(example.question) + len(example.answer)
        return 2 * max(1 + len(example.graph), question)

    def batch(self, examples: Sequence[Example]) -> Batch:
        sequences = [decoder_sequences(example, self.tokens) for example in examples]
        rows = [one[name] for name in ("cqa", "gen_X") for one in sequences]
        targets = [one[name] for name in ("Y", "gen_Y") for one in sequences]
        return _two_row_batch(rows, targets, self.tokens.pad)


class Seq2SeqLayout(Layout):
    """Encoder-decoder: each pass is a row, question-answer passes first.

    Batch: ``input_ids`` and ``attention_mask`` of the sources, and those of :class:`Layout`.
    """

    def length(self, example: Example) -> int:
        passes = seq2seq_sequences(example, self.tokens)
        return 2 * sum(max(map(len, side)) for side in zip(*passes, strict=True))

    def batch(self, examples: Sequence[Example]) -> Batch:
        passes = zip(*(seq2seq_sequences(example, self.tokens) for example in examples), strict=True)
        pairs = [pair for one_pass in passes for pair in one_pass]
        return _two_row_batch([source for source, _ in pairs], [target for _, target in pairs], self.tokens.pad)


def _two_row_batch(rows: list[list[int]], targets: list[list[int]], pad: int) -> Batch:
    input_ids, target_ids = padded(rows, pad), padded(targets, IGNORED)
    lengths = torch.tensor([len(row) for row in rows])
    is_question = torch.zeros_like(target_ids, dtype=torch.bool)
    is_question[: len(rows) // 2] = True
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        **_with_places(target_ids, is_question),
    }


def _with_places(targets: Tensor, is_question: Tensor) -> Batch:
    places = (targets != IGNORED).nonzero().T.contiguous()
    return {"targets": targets, "is_question": is_question, "places": places}
