"""BERT's encoder layer with attention left open, so that one layer serves padded-free encoding and cached decoding.

Parameter names are BERT's (``attention.self.query`` …), so its weights and published UniVQA checkpoints load as
they are. An own layer is needed because the prefix's keys and values outlive the pass that made them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmclvqa.models.packing import Packing
from mmclvqa.models.settings import TransformerSettings

#: (query, key, value, dropout probability) → context; each tensor ends in the hidden size.
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


class SelfAttention(nn.Module):
    """BERT's three projections; what attends to what is the caller's ``attend``."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.dropout = settings.attention_probs_dropout_prob

    def forward(self, asking: Tensor, asked: Tensor, attend: Attend) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return attend(self.query(asking), self.key(asked), self.value(asked), dropout)


class ResidualOutput(nn.Module):
    """``LayerNorm(residual + dropout(dense(x)))``, the end of both halves of a BERT layer."""

    def __init__(self, settings: TransformerSettings, in_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_size, settings.hidden_size)
        self.LayerNorm = nn.LayerNorm(settings.hidden_size, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class Attention(nn.Module):
    """The attention half of a layer; its children carry BERT's names ``self`` and ``output``."""

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

    def forward(self, x: Tensor, attend: Attend, asking: Tensor | None = None) -> Tensor:
        """The layer's output for ``asking`` (by default every position of ``x``), which attends to ``x``.

        Args:
            x: (..., h), the positions that give keys and values.
            attend: arranges projections into records and attends, see :class:`PackedAttention`, :class:`Cache`.
            asking: (..., h), the positions whose output is wanted, taken from ``x``.
        """
        asking = x if asking is None else asking
        x = self.attention.output(self.attention.self(asking, x, attend), asking)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    """A stack of layers under BERT's name ``layer``."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(settings) for _ in range(settings.num_hidden_layers))


def initialise(module: nn.Module, std: float) -> None:
    """BERT's initialisation of everything in ``module``: N(0, std²) weights, zero biases, unit LayerNorm."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


class PackedAttention:
    """Attention of flat tokens within their own records.

    After a call ``keys`` and ``values`` (B×heads×length×d) are what the decoder keeps of the layer.
    """

    def __init__(self, packing: Packing, heads: int, asking: Packing | None = None) -> None:
        """Args: packing: the tokens attended to; asking: the tokens that attend (default: the same)."""
        self.packing = packing
        self.asking = packing if asking is None else asking
        self.heads = heads
        mask = packing.mask()
        # A record without any token would divide by zero; what its padding computes is thrown away.
        mask[:, 0] |= ~mask.any(dim=1)
        self.mask = mask[:, None, None, :]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        queries = _split(self.asking.pad(query), self.heads)
        self.keys = _split(self.packing.pad(key), self.heads)
        self.values = _split(self.packing.pad(value), self.heads)
        context = F.scaled_dot_product_attention(queries, self.keys, self.values, self.mask, dropout)
        return self.asking.take(_merge(context))


class Cache:
    """One layer's keys and values: the prefix's, and after each call those of the decoding steps so far."""

    def __init__(self, keys: Tensor, values: Tensor, mask: Tensor) -> None:
        """Args: keys, values: B×heads×P×d of the prefix; mask: B×1×T×(P+T), bool, what each step may see."""
        self.keys = keys
        self.values = values
        self.mask = mask
        self.steps = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Attention of the next n decoding steps (B×n×h each) to the prefix, the steps before and themselves."""
        heads, first = self.keys.size(1), self.steps
        self.steps += query.size(1)
        self.keys = torch.cat([self.keys, _split(key, heads)], dim=2)
        self.values = torch.cat([self.values, _split(value, heads)], dim=2)
        mask = self.mask[:, :, first : self.steps, : self.keys.size(2)]
        queries = _split(query, heads)
        return _merge(F.scaled_dot_product_attention(queries, self.keys, self.values, mask, dropout))


def decoding_mask(prefix: Tensor, steps: int) -> Tensor:
    """B×1×steps×(P+steps), bool: every step sees the prefix's real positions (B×P) and no later step."""
    causal = torch.ones(steps, steps, dtype=torch.bool, device=prefix.device).tril()
    batch = prefix.size(0)
    return torch.cat([prefix[:, None].expand(-1, steps, -1), causal.expand(batch, -1, -1)], dim=2)[:, None]


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
