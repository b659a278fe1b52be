"""BERT's encoder layer with pluggable attention: padding-free encoding and decoding with a cache use the same layer.

Parameter names are those of BERT (``attention.self.query`` …), so that BERT's weights and published UniVQA checkpoints
load without renaming. transformers' own layer does not fit, because keys and values of the prefix are reused after the
pass that computes them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmclvqa.models.packing import Packing
from mmclvqa.models.settings import TransformerSettings

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(query, key, value, dropout probability) → context; each tensor ends in the hidden size."""


class SelfAttention(nn.Module):
    """BERT's query, key and value projections; the function ``attend`` computes the attention."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.dropout = settings.attention_probs_dropout_prob

    def forward(self, query_states: Tensor, key_value_states: Tensor, attend: Attend) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return attend(self.query(query_states), self.key(key_value_states), self.value(key_value_states), dropout)


class ResidualOutput(nn.Module):
    """``LayerNorm(residual + dropout(dense(x)))``, which ends both halves of a BERT layer."""

    def __init__(self, settings: TransformerSettings, in_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_size, settings.hidden_size)
        self.LayerNorm = nn.LayerNorm(settings.hidden_size, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class Attention(nn.Module):
    """The attention half of a layer; its children have BERT's names ``self`` and ``output``."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.self = SelfAttention(settings)
        self.output = ResidualOutput(settings, settings.hidden_size)


class Intermediate(nn.Module):
    """``gelu(dense(x))``."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.dense = nn.Linear(settings.hidden_size, settings.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """One BERT encoder layer (Devlin et al. 2019, §3)."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.attention = Attention(settings)
        self.intermediate = Intermediate(settings)
        self.output = ResidualOutput(settings, settings.intermediate_size)

    def forward(self, x: Tensor, attend: Attend, query_states: Tensor | None = None) -> Tensor:
        """Return the output of the layer for the positions ``query_states``, which attend to ``x``.

        Args:
            x: (..., h), the positions that provide keys and values.
            attend: computes attention from the projections; see :class:`PackedAttention` and :class:`Cache`.
            query_states: (..., h), the positions to compute, a part of ``x``; None means all.
        """
        query_states = x if query_states is None else query_states
        x = self.attention.output(self.attention.self(query_states, x, attend), query_states)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    """A stack of layers, named ``layer`` as in BERT."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(settings) for _ in range(settings.num_hidden_layers))


def initialize(module: nn.Module, std: float) -> None:
    """Initialize ``module`` as BERT does: N(0, std²) weights, zero biases, LayerNorm weights of 1."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


class PackedAttention:
    """Attention of packed tokens within their records.

    After a call, ``keys`` and ``values`` (B×heads×length×d) hold what the decoder caches of the layer.

    Args:
        packing: the tokens that are attended to.
        query_packing: the tokens that attend; None means ``packing``.
    """

    def __init__(self, packing: Packing, heads: int, query_packing: Packing | None = None) -> None:
        self.packing = packing
        self.query_packing = packing if query_packing is None else query_packing
        self.heads = heads
        mask = packing.mask()
        # Avoids a division by zero for records without tokens; the result for their padding is discarded.
        mask[:, 0] |= ~mask.any(dim=1)
        self.mask = mask[:, None, None, :]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        queries = _split(self.query_packing.pad(query), self.heads)
        self.keys = _split(self.packing.pad(key), self.heads)
        self.values = _split(self.packing.pad(value), self.heads)
        context = F.scaled_dot_product_attention(queries, self.keys, self.values, self.mask, dropout)
        return self.query_packing.take(_merge(context))


class Cache:
    """Keys and values of one layer: those of the prefix, extended at each call by the new decoding steps.

    Args:
        keys: B×heads×P×d, keys of the prefix.
        values: B×heads×P×d, values of the prefix.
        mask: B×1×T×(P+T), bool, what each decoding step attends to.
    """

    def __init__(self, keys: Tensor, values: Tensor, mask: Tensor) -> None:
        self.keys = keys
        self.values = values
        self.mask = mask
        self.steps = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Return the attention of the next n decoding steps (B×n×h) to the prefix, earlier steps and themselves."""
        heads, first = self.keys.size(1), self.steps
        self.steps += query.size(1)
        self.keys = torch.cat([self.keys, _split(key, heads)], dim=2)
        self.values = torch.cat([self.values, _split(value, heads)], dim=2)
        mask = self.mask[:, :, first : self.steps, : self.keys.size(2)]
        queries = _split(query, heads)
        return _merge(F.scaled_dot_product_attention(queries, self.keys, self.values, mask, dropout))


def decoding_mask(prefix: Tensor, steps: int) -> Tensor:
    """Return the mask (B×1×steps×(P+steps), bool): steps attend to the real prefix (B×P) and to no later step."""
    causal = torch.ones(steps, steps, dtype=torch.bool, device=prefix.device).tril()
    batch = prefix.size(0)
    return torch.cat([prefix[:, None].expand(-1, steps, -1), causal.expand(batch, -1, -1)], dim=2)[:, None]


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
