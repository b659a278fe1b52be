"""Sequences that grow token by token through a language model, one per row, for the search of :mod:`SRM.search`.

transformers' ``generate()`` keeps the sequences of a batch in step: finished ones are computed until the last one ends,
and beam search copies the whole key-value cache at every token. :class:`CachedRows` each have a length of their own and
a fixed place in the cache, so prompts can join and leave at any time and only rows that change places are copied. Not
every decoder-only model can use such a cache: :class:`RecomputedRows` have none. :class:`EncoderDecoderRows` accept new
prompts only when all earlier ones have ended. :func:`rows_for` compares the logits of rows with the model's own.
"""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.pytorch_utils import Conv1D

from mmclvqa.clove.errors import ConfigError
from SRM.batches import padded
from SRM.model import disagreement, logits_at

log = logging.getLogger("SRM")

FIRST_ROOM = 64
"""Initial size of the key-value cache, in tokens per row."""


class Rows(ABC):
    """The rows of a language model, of which the first :attr:`used` hold a sequence each.

    Args:
        model: the model with its head, in evaluation mode, on its device.
        capacity: maximum number of rows.

    Attributes:
        joins: whether prompts may join rows that have grown already.
        lengths: int64, capacity: the number of tokens of each row.
    """

    joins = True

    def __init__(self, model: Any, capacity: int) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.capacity = capacity
        self.used = 0
        self.lengths = torch.zeros(capacity, dtype=torch.long, device=self.device)

    def sequences(self, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """Return the ids in the rows of new prompts."""
        return prompts

    @abstractmethod
    def append(self, prompts: Sequence[Sequence[int]], pad: int) -> Tensor:
        """Add prompts as new rows behind the used ones.

        Returns:
            float32, prompts x vocabulary: logits of the next token.
        """

    @abstractmethod
    def step(self, token: Tensor) -> Tensor:
        """Append one token (int64, used) to every used row.

        Returns:
            float32, used x vocabulary: logits of the next token.
        """

    @abstractmethod
    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy rows ``source``, as they are before the call, to rows ``target``; other rows are not changed."""

    def resize(self, used: int) -> None:
        """Set the number of used rows: lower to drop the last ones, higher before a :meth:`copy` into them."""
        self.used = used


class _Cache:
    """The key-value cache that attention layers update: fixed buffers of ``capacity`` rows with ``room`` for tokens.

    Attributes:
        keys, values: a buffer for each layer, rows x heads x room x width, made when the layer is first computed.
        slots: the rows that are computed, and where the next token of each is stored (both int64); None while prompts
            are added.
        first: the first row of the prompts that are added.
        width: number of tokens of the longest row, the new one included.
    """

    def __init__(self, capacity: int, room: int) -> None:
        self.capacity, self.room = capacity, room
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.slots: tuple[Tensor, Tensor] | None = None
        self.first = self.width = 0

    def reserve(self, tokens: int, longest: int) -> None:
        """Double the room until ``tokens`` fit, up to ``longest``: few sequences reach the maximum length."""
        room = self.room
        while room < tokens:
            room *= 2
        if room == self.room:
            return
        room = max(tokens, min(room, longest))
        for buffers in (self.keys, self.values):
            for layer, narrow in enumerate(buffers):
                rows, heads, _, width = narrow.shape
                buffers[layer] = narrow.new_zeros(rows, heads, room, width)
                buffers[layer][:, :, : self.room] = narrow
        self.room = room

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store keys and values (rows x heads x new x width); return those that the new tokens attend to."""
        visible = []
        for buffers, new in ((self.keys, keys), (self.values, values)):
            count, heads, tokens, width = new.shape
            if layer == len(buffers):
                # Masked positions are multiplied by 0, so they must not hold NaN, as uninitialized memory may.
                buffers.append(new.new_zeros(self.capacity, heads, self.room, width))
            buffer = buffers[layer]
            if self.slots is None:
                buffer[self.first : self.first + count, :, :tokens] = new
                visible.append(new)
            else:
                rows, positions = self.slots
                buffer[rows, :, positions] = new[:, :, 0].to(buffer.dtype)
                visible.append(buffer[:count, :, : self.width])
        return visible[0], visible[1]


class CachedRows(Rows):
    """The rows of a decoder-only model that accepts custom masks and positions, and a cache of its own for each row.

    The arguments are those of :class:`Rows`, and ``longest``, the maximum number of tokens of a row.
    """

    def __init__(self, model: Any, capacity: int, longest: int) -> None:
        super().__init__(model, capacity)
        self.longest = longest
        self.cache = _Cache(capacity, min(longest, FIRST_ROOM))

    def append(self, prompts: Sequence[Sequence[int]], pad: int) -> Tensor:
        cache = self.cache
        input_ids = padded(prompts, pad).to(self.device)
        cache.reserve(input_ids.shape[1], self.longest)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        column = torch.arange(input_ids.shape[1], device=self.device)
        mask = (column[:, None] >= column[None, :])[None, None].expand(len(prompts), 1, -1, -1)
        cache.slots, cache.first = None, self.used
        positions = column[None].expand(len(prompts), -1)
        logits = self._logits(input_ids, positions, mask, lengths - 1)
        self.lengths[self.used : self.used + len(prompts)] = lengths
        self.used += len(prompts)
        return logits

    def step(self, token: Tensor) -> Tensor:
        cache, lengths = self.cache, self.lengths[: self.used]
        cache.slots = torch.arange(self.used, device=self.device), lengths
        cache.width = int(lengths.max()) + 1
        cache.reserve(cache.width, self.longest)
        mask = torch.arange(cache.width, device=self.device)[None] <= lengths[:, None]
        logits = self._logits(token[:, None], lengths[:, None], mask[:, None, None], torch.zeros_like(lengths))
        self.lengths[: self.used] += 1
        return logits

    def _logits(self, input_ids: Tensor, positions: Tensor, mask: Tensor, last: Tensor) -> Tensor:
        inputs = {"input_ids": input_ids, "position_ids": positions, "attention_mask": mask}
        last_positions = (torch.arange(len(last), device=self.device), last)
        return logits_at(self.model, last_positions, **inputs, past_key_values=self.cache, use_cache=True).float()

    def copy(self, source: Tensor, target: Tensor) -> None:
        if len(source) == 0:
            return
        width = int(self.lengths[source].max())
        for buffers in (self.cache.keys, self.cache.values):
            for buffer in buffers:
                buffer[target, :, :width] = buffer[source, :, :width]
        self.lengths[target] = self.lengths[source]


class RecomputedRows(Rows):
    """The rows of a decoder-only model without a cache: every step computes the whole sequences."""

    def __init__(self, model: Any, capacity: int, longest: int) -> None:
        super().__init__(model, capacity)
        self.text = torch.zeros(capacity, longest, dtype=torch.long, device=self.device)

    def append(self, prompts: Sequence[Sequence[int]], pad: int) -> Tensor:
        new = slice(self.used, self.used + len(prompts))
        input_ids = padded(prompts, pad).to(self.device)
        self.text[new, : input_ids.shape[1]] = input_ids
        self.lengths[new] = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.used = new.stop
        return self._logits(new)

    def step(self, token: Tensor) -> Tensor:
        used = slice(0, self.used)
        self.text[used].scatter_(1, self.lengths[used, None], token[:, None])
        self.lengths[used] += 1
        return self._logits(used)

    def _logits(self, rows: slice) -> Tensor:
        # The last token does not attend to what lies beyond the end of its row.
        last = self.lengths[rows] - 1
        positions = (torch.arange(len(last), device=self.device), last)
        return logits_at(self.model, positions, input_ids=self.text[rows, : int(last.max()) + 1]).float()

    def copy(self, source: Tensor, target: Tensor) -> None:
        self.text[target] = self.text[source]
        self.lengths[target] = self.lengths[source]


class EncoderDecoderRows(Rows):
    """The rows of an encoder-decoder model: prompts are encoded, and rows hold the decoder's output.

    All rows have the same length, because such models derive positions from the size of their cache.
    """

    joins = False

    def __init__(self, model: Any, capacity: int) -> None:
        super().__init__(model, capacity)
        self.start: int = model.config.decoder_start_token_id
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
        encoder = {"encoder_outputs": (self.encoded,), "attention_mask": self.mask}
        decoder = {"decoder_input_ids": token[:, None], "past_key_values": self.cache, "use_cache": True}
        return self.model(**encoder, **decoder).logits[:, -1].float()

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


def rows_for(model: Any, capacity: int, longest: int, exact: Any = None) -> Rows:
    """Return the rows of a language model.

    Args:
        model, capacity: see :class:`Rows`.
        longest: maximum number of tokens of a row.
        exact: the model in float32, with which the rows are checked, if ``model`` computes in another precision.

    Raises:
        ConfigError: the cache of an encoder-decoder model does not give the model's logits.
    """
    if model.config.is_encoder_decoder:
        reason = _unlike_model(EncoderDecoderRows(exact or model, 2), exact or model, longest)
        if reason:
            kind = f"models of type {model.config.model_type} ({reason})"
            raise ConfigError(f"SRM's search does not apply to {kind}; give --generator hf --length_rule generated")
        return EncoderDecoderRows(model, capacity)
    fast = onednn_copy(model) if model.device.type == "cpu" and exact is None else model
    reason = _unlike_model(CachedRows(fast if exact is None else exact, 2, longest), exact or model, longest)
    if reason is None:
        return CachedRows(fast, capacity, longest)
    log.info(f"sequences are recomputed for every generated token (key-value cache: {reason})")
    return RecomputedRows(model, capacity, longest)


@torch.inference_mode()
def _unlike_model(rows: Rows, model: Any, longest: int) -> str | None:
    """Return why the logits of two rows are not those of the model (in float32), or None if they are."""
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]

    def reference_logits(prompt: list[int], *generated: int) -> Tensor:
        if model.config.is_encoder_decoder:
            output = [model.config.decoder_start_token_id, *generated]
            prompt = torch.tensor([prompt], device=model.device)
            return model(input_ids=prompt, decoder_input_ids=torch.tensor([output], device=model.device)).logits[0, -1]
        return logits_at(model, (0, -1), input_ids=torch.tensor([[*prompt, *generated]], device=model.device))

    def incremental_logits() -> Tensor:
        logits = [rows.append(prompts, pad=0), rows.step(torch.tensor([8, 7], device=model.device))]
        rows.copy(torch.tensor([1], device=model.device), torch.tensor([0], device=model.device))
        return torch.cat([*logits, rows.step(torch.tensor([6, 5], device=model.device))])

    model.eval()
    one, two = prompts
    sequences = ([one], [two], [one, 8], [two, 7], [two, 7, 6], [two, 7, 5])
    expected = torch.stack([reference_logits(*sequence) for sequence in sequences])
    return disagreement(model, longest, incremental_logits, expected)


class OneDNNLinear(nn.Module):
    """A linear layer in float32 whose weight is kept in oneDNN's own memory layout, for inference on a CPU.

    On some processors this is more than twice as fast as torch's default (``benchmarks/srm.py``).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.width = weight.shape[0]
        self.weight = weight.to_mkldnn()
        self.bias = None if bias is None else bias.to_mkldnn()

    def forward(self, x: Tensor) -> Tensor:
        """Map ... x in to ... x out."""
        rows = x.reshape(-1, x.shape[-1]).to_mkldnn()
        product = torch.ops.aten.mkldnn_linear(rows, self.weight, self.bias).to_dense()
        return product.view(*x.shape[:-1], self.width)


def onednn_copy(model: Any) -> Any:
    """Return a copy of a model with :class:`OneDNNLinear` layers, or the model if oneDNN is not available."""
    if not torch.backends.mkldnn.is_available():
        return model
    converted = copy.deepcopy(model)
    for module in list(converted.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) in (nn.Linear, Conv1D):
                weight = layer.weight.detach()
                bias = None if layer.bias is None else layer.bias.detach()
                setattr(module, name, OneDNNLinear(weight.T.contiguous() if type(layer) is Conv1D else weight, bias))
    return converted
