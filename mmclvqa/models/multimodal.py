"""The multimodal transformer: encodes the prefix once, then decodes the answer with cached keys and values.

M4C (Hu et al. 2020, §3.2–3.3). Prefix positions never attend to decoding steps, so their keys and values are the
same at every step. Encoding the prefix once per batch is therefore exact, both in teacher forcing and in greedy
decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmclvqa.models.packing import Packing
from mmclvqa.models.settings import TransformerSettings
from mmclvqa.models.transformer import Cache, Encoder, PackedAttention, decoding_mask, initialize
from mmclvqa.value_kinds import MAX_DECODING_STEPS

MAX_TYPES = 5


class PrevPredEmbeddings(nn.Module):
    """Embeds the previous prediction as decoder input: token, position and type (0 answer word, 1 copied OCR token)."""

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
        """Return the embeddings (B×n×h) of the predictions ``previous`` (B×n, int64).

        Args:
            answers: A×h, weight of the answer classifier.
            ocr: B×slots×h, embeddings of the OCR tokens; index A+j selects slot j of the record.
            previous: indices below A are answer words, A + j is OCR slot j.
            first_step: decoding step of ``previous[:, 0]``.
        """
        copied = previous >= answers.size(0)
        steps = torch.arange(first_step, first_step + previous.size(1), device=previous.device)
        place = self.position_embeddings(steps) + self.token_type_embeddings(copied.long())
        # An extra slot keeps the gather valid when the batch has no OCR tokens.
        ocr = F.pad(ocr, (0, 0, 0, 1))
        slots = (previous - answers.size(0)).clamp(0, ocr.size(1) - 1)
        token = ocr.gather(1, slots[..., None].expand(-1, -1, ocr.size(2)))
        word = F.embedding(previous.clamp(max=answers.size(0) - 1), answers)
        value = torch.where(copied[..., None], self.ocr_layer_norm(token), self.ans_layer_norm(word))
        return value + self.emb_dropout(self.emb_layer_norm(place))


@dataclass
class Prefix:
    """The encoded prefix of a batch, as decoding needs it.

    Attributes:
        caches: keys and values, one cache per layer.
        outputs: output of the last layer at the positions it was computed for.
    """

    caches: list[Cache]
    outputs: Tensor


class MultimodalTransformer(nn.Module):
    """Transformer over the prefix and the decoding steps, with the input embeddings of the decoder (``mmt``)."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.heads = settings.num_attention_heads
        self.prev_pred_embeddings = PrevPredEmbeddings(settings)
        self.encoder = Encoder(settings)
        initialize(self, settings.initializer_range)

    def encode(self, x: Tensor, prefix_packing: Packing, query_packing: Packing, steps: int) -> Prefix:
        """Encode the prefix of each record and cache the keys and values of every layer.

        Args:
            x: N×h, embeddings of the prefix; the order within a record does not matter.
            prefix_packing: the N embeddings.
            query_packing: the leading embeddings whose outputs are used. The last layer computes outputs for these
                only; the others contribute only keys and values.
            steps: number of decoding steps that follow, T.
        """
        mask = decoding_mask(prefix_packing.mask(), steps)
        attend, caches = PackedAttention(prefix_packing, self.heads), []
        *lower, last = self.encoder.layer
        for layer in lower:
            x = layer(x, attend)
            caches.append(Cache(attend.keys, attend.values, mask))
        attend = PackedAttention(prefix_packing, self.heads, query_packing)
        outputs = last(x, attend, x[: len(query_packing)])
        caches.append(Cache(attend.keys, attend.values, mask))
        return Prefix(caches, outputs)

    def decode(self, prefix: Prefix, x: Tensor) -> Tensor:
        """Return the outputs (B×n×h) of the next n decoding steps (B×n×h embeddings), which are added to the caches."""
        for layer, cache in zip(self.encoder.layer, prefix.caches, strict=True):
            x = layer(x, cache)
        return x
