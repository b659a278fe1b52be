"""The multimodal transformer: encodes the prefix once, then decodes answer steps against its keys and values.

M4C (Hu et al. 2020, §3.2–3.3). Prefix positions never see decoding steps, so their keys and values are the same
at every step; that makes one encoding per batch exact, in teacher forcing and in greedy decoding alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmclvqa.models.packing import Packing
from mmclvqa.models.settings import TransformerSettings
from mmclvqa.models.transformer import Cache, Encoder, PackedAttention, decoding_mask, initialise

MAX_DECODING_STEPS = 100
MAX_TYPES = 5


class PrevPredEmbeddings(nn.Module):
    """Decoder input: the embedding of the previous prediction plus position and type (0 answer, 1 OCR copy)."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        size, eps = settings.hidden_size, settings.layer_norm_eps
        self.position_embeddings = nn.Embedding(MAX_DECODING_STEPS, size)
        self.token_type_embeddings = nn.Embedding(MAX_TYPES, size)
        self.ans_layer_norm = nn.LayerNorm(size, eps=eps)
        self.ocr_layer_norm = nn.LayerNorm(size, eps=eps)
        self.emb_layer_norm = nn.LayerNorm(size, eps=eps)
        self.emb_dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, answers: Tensor, ocr: Tensor, previous: Tensor, first_step: int) -> Tensor:
        """Embed ``previous`` (B×n, int64) at steps ``first_step`` …: B×n×h.

        Args:
            answers: A×h, the answer classifier's weight.
            ocr: B×slots×h, embeddings of the OCR tokens; index A+j is the record's slot j.
            previous: answer index below A, or A + OCR slot.
            first_step: the step of ``previous[:, 0]``.
        """
        copied = previous >= answers.size(0)
        steps = torch.arange(first_step, first_step + previous.size(1), device=previous.device)
        place = self.position_embeddings(steps) + self.token_type_embeddings(copied.long())
        # One spare slot keeps the gather legal for batches without OCR tokens.
        ocr = F.pad(ocr, (0, 0, 0, 1))
        slots = (previous - answers.size(0)).clamp(0, ocr.size(1) - 1)
        token = ocr.gather(1, slots[..., None].expand(-1, -1, ocr.size(2)))
        word = F.embedding(previous.clamp(max=answers.size(0) - 1), answers)
        value = torch.where(copied[..., None], self.ocr_layer_norm(token), self.ans_layer_norm(word))
        return value + self.emb_dropout(self.emb_layer_norm(place))


@dataclass
class Prefix:
    """What decoding needs of an encoded batch.

    Attributes:
        caches: one per layer.
        outputs: the last layer's output for the positions it was wanted for.
    """

    caches: list[Cache]
    outputs: Tensor


class MultimodalTransformer(nn.Module):
    """``mmt``: the layers over prefix and decoding steps, and the decoder's input embeddings."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.heads = settings.num_attention_heads
        self.prev_pred_embeddings = PrevPredEmbeddings(settings)
        self.encoder = Encoder(settings)
        initialise(self, settings.initializer_range)

    def encode(self, x: Tensor, rows: Tensor, real: Tensor, batch: int, wanted: int, steps: int) -> Prefix:
        """Encode the prefix of each record and keep every layer's keys and values.

        Args:
            x: N×h, the prefix's embeddings; the order inside a record has no meaning.
            rows: N, int64, the record of each.
            real: N, bool, those that may be attended to.
            batch: records.
            wanted: how many embeddings, from the first, have outputs that are used; the last layer answers for
                these alone, since of the others only keys and values matter.
            steps: decoding steps that will follow, T.
        """
        everything = Packing.of_rows(rows, batch, real)
        asking = Packing.of_rows(rows[:wanted], batch)
        mask = decoding_mask(everything.mask(), steps)
        attend, caches = PackedAttention(everything, self.heads), []
        *lower, last = self.encoder.layer
        for layer in lower:
            x = layer(x, attend)
            caches.append(Cache(attend.keys, attend.values, mask))
        attend = PackedAttention(everything, self.heads, asking)
        outputs = last(x, attend, x[:wanted])
        caches.append(Cache(attend.keys, attend.values, mask))
        return Prefix(caches, outputs)

    def decode(self, prefix: Prefix, x: Tensor) -> Tensor:
        """The next n decoding steps (B×n×h embeddings → B×n×h outputs); ``prefix`` remembers them."""
        for layer, cache in zip(self.encoder.layer, prefix.caches, strict=True):
            x = layer(x, cache)
        return x
