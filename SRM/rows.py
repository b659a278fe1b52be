"""Rows of sequences that grow token by token through a language model, for the search of :mod:`SRM.search`.

transformers' generate() keeps a batch in step: a finished sequence is computed until the last one is finished,
and beam search copies the whole cache at every token. GPT-2's :class:`Rows` come and go: each has a length of its
own, its keys and values stand in its own place of fixed buffers, and only rows that really change places are copied.
The other models' caches do not allow that: :class:`RecomputedRows` has none, and :class:`EncoderDecoderRows` takes in
new prompts only when all earlier ones are finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from SRM.batches import padded

FIRST_ROOM = 64
"""Tokens of a row that there is room for at first."""


class GrowingRows(Protocol):
    """What the search needs of rows: the first :attr:`used` of :attr:`capacity` hold a sequence each.

    Attributes:
        joins: whether prompts may join rows that have grown already.
        lengths: int64 capacity, tokens of each row.
    """

    joins: bool
    capacity: int
    used: int
    device: torch.device
    lengths: Tensor

    def sequences(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """The ids that the rows of new prompts hold."""

    def append(self, prompts: Sequence[Sequence[int]], pad: int) -> Tensor:
        """Take in prompts as new rows behind the used ones.

        Returns:
            float32, prompts x vocabulary: scores of the next token.
        """

    def step(self, token: Tensor) -> Tensor:
        """Append one token (int64, used) to every used row.

        Returns:
            float32, used x vocabulary: scores of the next token.
        """

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Make rows ``target`` what rows ``source`` were before the call; other rows stay."""

    def resize(self, used: int) -> None:
        """Change how many rows are used: fewer to let the last ones go, more before a :meth:`copy` into them."""


class _Buffers:
    """What GPT-2's attention sees as its cache: it writes a row's new tokens and reads all of its old ones."""

    def __init__(
        self, layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        # Zeroed, because what a mask hides is still multiplied, and memory as it comes may hold NaN.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.room = shape[2]
        self.at: Tensor | None = None
        self.rows = 0
        self.first = 0
        self.width = 0

    def widen(self, room: int) -> None:
        """Make room for this many tokens in a row; what is there stays."""
        for buffers in (self.keys, self.values):
            for layer, narrow in enumerate(buffers):
                rows, heads, _, width = narrow.shape
                buffers[layer] = narrow.new_zeros(rows, heads, room, width)
                buffers[layer][:, :, : self.room] = narrow
        self.room = room

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store keys and values (rows x heads x new x width) and give those that the new tokens may see."""
        if self.at is None:
            new = keys.shape[2]
            self.keys[layer][self.first : self.first + self.rows, :, :new] = keys
            self.values[layer][self.first : self.first + self.rows, :, :new] = values
            return keys, values
        every = torch.arange(self.rows, device=keys.device)
        seen = []
        for buffer, new in ((self.keys[layer], keys), (self.values[layer], values)):
            buffer[every, :, self.at] = new[:, :, 0].to(buffer.dtype)
            seen.append(buffer[: self.rows, :, : self.width])
        return seen[0], seen[1]


class Rows:
    """Rows of GPT-2, see :class:`GrowingRows`.

    Args:
        model: GPT-2 with its head, in evaluation mode, on its device.
        capacity: rows at a time.
        longest: tokens of a row at most.
        dtype: of the cache: what the model computes in.
    """

    joins = True

    def __init__(self, model: Any, capacity: int, longest: int, dtype: torch.dtype) -> None:
        config = model.config
        self.model = model
        self.device = model.device
        heads = config.n_head
        self.longest = longest
        shape = (capacity, heads, min(longest, FIRST_ROOM), config.n_embd // heads)
        self.buffers = _Buffers(config.n_layer, shape, dtype, self.device)
        self.lengths = torch.zeros(capacity, dtype=torch.long, device=self.device)
        self.capacity = capacity
        self.used = 0

    def sequences(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        return prompts

    def append(self, prompts: Sequence[Sequence[int]], pad: int) -> Tensor:
        buffers = self.buffers
        input_ids = padded(prompts, pad).to(self.device)
        self._reserve(input_ids.shape[1])
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        column = torch.arange(input_ids.shape[1], device=self.device)
        mask = (column[:, None] >= column[None, :])[None, None].expand(len(prompts), 1, -1, -1)
        buffers.at, buffers.first, buffers.rows = None, self.used, len(prompts)
        positions = column[None].expand(len(prompts), -1)
        scores = self._scores(input_ids, positions, mask, lengths - 1)
        self.lengths[self.used : self.used + len(prompts)] = lengths
        self.used += len(prompts)
        return scores

    def step(self, token: Tensor) -> Tensor:
        buffers, lengths = self.buffers, self.lengths[: self.used]
        buffers.at, buffers.rows = lengths, self.used
        buffers.width = int(lengths.max()) + 1
        self._reserve(buffers.width)
        mask = torch.arange(buffers.width, device=self.device)[None] <= lengths[:, None]
        scores = self._scores(
            token[:, None], lengths[:, None], mask[:, None, None], torch.zeros_like(lengths)
        )
        self.lengths[: self.used] += 1
        return scores

    def _reserve(self, tokens: int) -> None:
        """Double the buffers' room until it holds ``tokens``: few sequences get as long as they may."""
        room = self.buffers.room
        while room < tokens:
            room *= 2
        if room > self.buffers.room:
            self.buffers.widen(max(tokens, min(room, self.longest)))

    def _scores(self, input_ids: Tensor, positions: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        hidden = self.model.transformer(
            input_ids=input_ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self.buffers,
            use_cache=True,
        ).last_hidden_state
        last = hidden[torch.arange(len(at), device=self.device), at]
        return self.model.lm_head(last).float()

    def copy(self, source: Tensor, target: Tensor) -> None:
        if len(source) == 0:
            return
        width = int(self.lengths[source].max())
        for buffers in (self.buffers.keys, self.buffers.values):
            for buffer in buffers:
                buffer[target, :, :width] = buffer[source, :, :width]
        self.lengths[target] = self.lengths[source]

    def resize(self, used: int) -> None:
        self.used = used


class RecomputedRows:
    """Rows of a decoder that has no cache (openai-gpt): every step computes the sequences from their beginning.

    Args:
        model: with its head, in evaluation mode, on its device.
        capacity: rows at a time.
        longest: tokens of a row at most.
    """

    joins = True

    def __init__(self, model: Any, capacity: int, longest: int) -> None:
        self.model = model
        self.device = model.device
        self.text = torch.zeros(capacity, longest, dtype=torch.long, device=self.device)
        self.lengths = torch.zeros(capacity, dtype=torch.long, device=self.device)
        self.capacity = capacity
        self.used = 0

    def sequences(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        return prompts

    def append(self, prompts: Sequence[Sequence[int]], pad: int) -> Tensor:
        new = slice(self.used, self.used + len(prompts))
        input_ids = padded(prompts, pad).to(self.device)
        self.text[new, : input_ids.shape[1]] = input_ids
        self.lengths[new] = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.used = new.stop
        return self._scores(new)

    def step(self, token: Tensor) -> Tensor:
        used = slice(0, self.used)
        self.text[used].scatter_(1, self.lengths[used, None], token[:, None])
        self.lengths[used] += 1
        return self._scores(used)

    def _scores(self, rows: slice) -> Tensor:
        # What stands behind a row's end is not seen from its last token.
        last = self.lengths[rows] - 1
        hidden = self.model.transformer(input_ids=self.text[rows, : int(last.max()) + 1]).last_hidden_state
        return self.model.lm_head(hidden[torch.arange(len(last), device=self.device), last]).float()

    def copy(self, source: Tensor, target: Tensor) -> None:
        self.text[target] = self.text[source]
        self.lengths[target] = self.lengths[source]

    def resize(self, used: int) -> None:
        self.used = used


class EncoderDecoderRows:
    """Rows of an encoder-decoder model (T5): prompts are sources, and rows hold what the decoder has written.

    All rows have the same length, since T5 counts positions by its cache.

    Args:
        model: in evaluation mode, on its device.
        capacity: rows at a time.
    """

    joins = False

    def __init__(self, model: Any, capacity: int) -> None:
        self.model = model
        self.device = model.device
        self.start: int = model.config.decoder_start_token_id
        self.lengths = torch.zeros(capacity, dtype=torch.long, device=self.device)
        self.capacity = capacity
        self.used = 0
        self.encoded = self.mask = torch.empty(0, device=self.device)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def sequences(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        return [[self.start]] * len(prompts)

    def append(self, prompts: Sequence[Sequence[int]], pad: int) -> Tensor:
        input_ids = padded(prompts, pad).to(self.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.mask = (torch.arange(input_ids.shape[1], device=self.device) < lengths[:, None]).long()
        encoder = self.model.get_encoder()
        self.encoded = encoder(input_ids=input_ids, attention_mask=self.mask).last_hidden_state
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.used = len(prompts)
        self.lengths[: self.used] = 0
        return self.step(torch.full_like(lengths, self.start))

    def step(self, token: Tensor) -> Tensor:
        self.lengths[: self.used] += 1
        scores = self.model(
            encoder_outputs=(self.encoded,),
            attention_mask=self.mask,
            decoder_input_ids=token[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return scores[:, -1].float()

    def copy(self, source: Tensor, target: Tensor) -> None:
        if len(source):
            kept = torch.arange(self.used, device=self.device)
            kept[target] = source
            self._pick(kept)

    def resize(self, used: int) -> None:
        self.used = used
        if 0 < used < len(self.mask):
            self._pick(torch.arange(used, device=self.device))

    def _pick(self, rows: Tensor) -> None:
        self.lengths[: len(rows)] = self.lengths[rows]
        self.encoded, self.mask = self.encoded[rows], self.mask[rows]
        self.cache.reorder_cache(rows)


def rows_for(model: Any, capacity: int, longest: int, dtype: torch.dtype) -> GrowingRows:
    """The rows that a language model takes; see :class:`Rows` for the arguments."""
    if model.config.is_encoder_decoder:
        return EncoderDecoderRows(model, capacity)
    if model.config.model_type == "gpt2":
        return Rows(model, capacity, longest, dtype)
    return RecomputedRows(model, capacity, longest)
