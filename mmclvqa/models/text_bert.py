"""The text encoder: BERT's embeddings and first layers, shared by question, scene graph and knowledge."""

from __future__ import annotations

from torch import Tensor, nn

from mmclvqa.models.packing import Packing
from mmclvqa.models.settings import TransformerSettings
from mmclvqa.models.transformer import Encoder, PackedAttention, initialize


class TextEmbeddings(nn.Module):
    """Sum of word, position and type embedding, with LayerNorm and dropout; every token has type 0."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.word_embeddings = nn.Embedding(settings.vocab_size, size)
        self.position_embeddings = nn.Embedding(settings.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(settings.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the embeddings (N×h) of N token ids at N positions (int64)."""
        embedding = self.word_embeddings(tokens) + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(embedding + self.position_embeddings(positions)))


class TextBert(nn.Module):
    """BERT without pooler, computed on the real tokens of a padded batch only."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.heads = settings.num_attention_heads
        self.embeddings = TextEmbeddings(settings)
        self.encoder = Encoder(settings)
        initialize(self, settings.initializer_range)

    def forward(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Encode the packed tokens (N) of ``tokens`` (B×S, int64, BERT token ids); return their outputs, N×h."""
        x = self.embeddings(packing.take(tokens[..., None]).squeeze(1), packing.slots)
        attend = PackedAttention(packing, self.heads)
        for layer in self.encoder.layer:
            x = layer(x, attend)
        return x
