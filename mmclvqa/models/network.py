"""UniVQA as a plain torch module: M4C with two additional text streams, scene graph and knowledge.

Attribute names are those of the published checkpoints; therefore all parts are direct children of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmclvqa.models.inputs import Packings, UniVQAInputs
from mmclvqa.models.multimodal import MultimodalTransformer, Prefix
from mmclvqa.models.packing import Packing
from mmclvqa.models.settings import UniVQASettings
from mmclvqa.models.text_bert import TextBert

MASKED_SCORE = -10000.0
"""Added to the score of a slot without an OCR token."""


class Fc7(nn.Module):
    """The last layer of Faster R-CNN, which is fine-tuned: ``relu(lc(x))``."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.lc = nn.Linear(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.lc(x))


class OcrPointerNetwork(nn.Module):
    """Computes the copy scores ``(W_q d)·(W_k o)/√d_k`` of decoder outputs d and OCR outputs o (M4C §3.3)."""

    def __init__(self, hidden_size: int, query_key_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, query_key_size)
        self.key = nn.Linear(hidden_size, query_key_size)

    def forward(self, decoded: Tensor, keys: Tensor) -> Tensor:
        """Return the scores (B×n×slots) of decoder outputs (B×n×h) and keys (B×slots×d_k, projected by ``key``)."""
        return self.query(decoded) @ keys.transpose(1, 2) / math.sqrt(keys.size(2))


class AnswerClassifier(nn.Module):
    """Computes the scores of the answer vocabulary; the rows of its weight also serve as answer embeddings.

    Args:
        hidden_size: size h of the decoder's outputs.
        num_answers: size A of the answer vocabulary.
        initial_bias: initial bias of all scores; None means the default of ``nn.Linear``.
    """

    def __init__(self, hidden_size: int, num_answers: int, initial_bias: float | None = None) -> None:
        super().__init__()
        self.module = nn.Linear(hidden_size, num_answers)
        if initial_bias is not None:
            nn.init.constant_(self.module.bias, initial_bias)

    def forward(self, decoded: Tensor) -> Tensor:
        return self.module(decoded)


class UniVQANetwork(nn.Module):
    """The UniVQA network, independent of MMF.

    In training mode it runs one teacher-forced pass, in evaluation mode greedy decoding. Neither computes anything
    for padding, and both encode the prefix once.
    """

    def __init__(self, config: Mapping[str, Any], num_answers: int, bos_index: int = 1) -> None:
        super().__init__()
        self.build_network(config, num_answers, bos_index)

    def build_network(self, config: Mapping[str, Any], num_answers: int, bos_index: int = 1) -> None:
        """Create the parts with random initial weights.

        Args:
            config: the keys of ``model_config.unicl``; missing keys default to the published values.
            num_answers: size A of the answer vocabulary.
            bos_index: index of the answer that starts decoding.

        Raises:
            ConfigError: the configuration contradicts itself.
        """
        self.settings = settings = UniVQASettings.read(config)
        self.bos_index = bos_index
        size = settings.mmt.hidden_size
        self.text_bert = TextBert(settings.text_bert)
        same = settings.text_bert.hidden_size == size
        self.text_bert_out_linear = nn.Identity() if same else nn.Linear(settings.text_bert.hidden_size, size)

        self.obj_faster_rcnn_fc7 = Fc7(settings.region_dim, settings.fc7_dim)
        self.linear_obj_feat_to_mmt_in = nn.Linear(settings.fc7_dim, size)
        self.linear_obj_bbox_to_mmt_in = nn.Linear(4, size)
        self.obj_feat_layer_norm = nn.LayerNorm(size)
        self.obj_bbox_layer_norm = nn.LayerNorm(size)
        self.obj_drop = nn.Dropout(settings.obj_dropout_prob)

        self.ocr_faster_rcnn_fc7 = Fc7(settings.region_dim, settings.fc7_dim)
        self.linear_ocr_feat_to_mmt_in = nn.Linear(settings.ocr_dim, size)
        self.linear_ocr_bbox_to_mmt_in = nn.Linear(4, size)
        self.ocr_feat_layer_norm = nn.LayerNorm(size)
        self.ocr_bbox_layer_norm = nn.LayerNorm(size)
        self.ocr_drop = nn.Dropout(settings.ocr_dropout_prob)

        if settings.use_cls:
            self.cls_emb = nn.Parameter(torch.ones(1, size))
        self.mmt = MultimodalTransformer(settings.mmt)
        self.ocr_ptr_net = OcrPointerNetwork(size, settings.query_key_size)
        self.classifier = AnswerClassifier(size, num_answers, settings.answer_bias)

    @property
    def has_cls_output(self) -> bool:
        """Whether :meth:`answer` returns ``cls_output``, which k-means replay clusters."""
        return self.settings.use_cls

    def answer(self, inputs: UniVQAInputs) -> dict[str, Tensor]:
        """Return the scores of every decoding step.

        Returns:
            ``scores``: B×T×(A+slots), float32; slots without an OCR token have scores around −10000.
            ``cls_output``: B×h, only with ``use_cls``.
        """
        prefix, ocr, ocr_packing = self._encode(inputs)
        batch, steps = inputs.previous.shape
        slots = inputs.ocr_fasttext.size(1)
        offset = len(prefix.outputs) - len(ocr_packing)
        keys = ocr_packing.pad(self.ocr_ptr_net.key(prefix.outputs[offset:]), slots)
        copy_mask = torch.where(ocr_packing.mask(slots), 0.0, MASKED_SCORE)[:, None]
        ocr_padded = ocr_packing.pad(ocr)

        def run(previous: Tensor, first_step: int) -> Tensor:
            embedded = self.mmt.prev_pred_embeddings(self.classifier.module.weight, ocr_padded, previous, first_step)
            decoded = self.mmt.decode(prefix, embedded)
            copies = self.ocr_ptr_net(decoded, keys).float() + copy_mask
            return torch.cat([self.classifier(decoded).float(), copies], dim=-1)

        if self.training:
            scores = run(inputs.previous, 0)
        else:
            previous = inputs.previous.new_full((batch, 1), self.bos_index)
            by_step = []
            for step in range(steps):
                by_step.append(run(previous, step))
                previous = by_step[-1].argmax(dim=-1)
            scores = torch.cat(by_step, dim=1)
        results = {"scores": scores}
        if self.settings.use_cls:
            results["cls_output"] = prefix.outputs[:offset]
        return results

    def _encode(self, inputs: UniVQAInputs) -> tuple[Prefix, Tensor, Packing]:
        """Return the encoded prefix, and the embeddings of the OCR tokens (N×h) with their slots.

        The streams are ordered cls, OCR, texts, objects, because the outputs of only the first two are used.
        """
        batch = len(inputs.text)
        packings = inputs.packings(self.classifier.module.out_features if self.training else None)
        ocr = self._ocr(inputs, packings.ocr)
        texts = self._texts(inputs, packings)
        streams = [(ocr, packings.ocr.rows), *texts, (self._objects(inputs, packings.objects), packings.objects.rows)]
        num_cls_tokens = int(self.settings.use_cls)
        if num_cls_tokens:
            streams.insert(0, (self.cls_emb.expand(batch, -1), torch.arange(batch, device=ocr.device)))
        offset = batch * num_cls_tokens
        num_queries = offset + len(packings.ocr)
        x, rows = (torch.cat(part) for part in zip(*streams, strict=True))
        real = torch.ones_like(rows, dtype=torch.bool)
        if packings.ocr.real is not None:
            real[offset:num_queries] = packings.ocr.real
        prefix_packing = Packing.of_rows(rows, batch, packings.longest + num_cls_tokens, real)
        query_packing = Packing.of_rows(rows[:num_queries], batch, packings.most_ocr + num_cls_tokens)
        return self.mmt.encode(x, prefix_packing, query_packing, inputs.previous.size(1)), ocr, packings.ocr

    def _texts(self, inputs: UniVQAInputs, packings: Packings) -> list[tuple[Tensor, Tensor]]:
        """Return the encoded texts with their records; question and knowledge, both short, are encoded in one pass."""
        batch = len(inputs.text)
        width = max(inputs.text.size(1), inputs.knowledge.size(1))
        short = torch.cat([F.pad(t, (0, width - t.size(1))) for t in (inputs.text, inputs.knowledge)])
        return [
            (self.text_bert_out_linear(self.text_bert(tokens, packing)), packing.rows % batch)
            for tokens, packing in ((short, packings.short_texts), (inputs.scene_graph, packings.scene_graph))
        ]

    def _objects(self, inputs: UniVQAInputs, packing: Packing) -> Tensor:
        feature = _unit(self.obj_faster_rcnn_fc7(packing.take(inputs.objects)))
        embedding = self.obj_feat_layer_norm(self.linear_obj_feat_to_mmt_in(feature))
        box = packing.take(inputs.object_boxes)
        return self.obj_drop(embedding + self.obj_bbox_layer_norm(self.linear_obj_bbox_to_mmt_in(box)))

    def _ocr(self, inputs: UniVQAInputs, packing: Packing) -> Tensor:
        parts = {
            "fasttext": _unit(packing.take(inputs.ocr_fasttext)),
            "phoc": _unit(packing.take(inputs.ocr_phoc)),
            "frcn": _unit(self.ocr_faster_rcnn_fc7(packing.take(inputs.ocr_regions))),
        }
        removed = self.settings.removed
        feature = torch.cat([part * (name not in removed) for name, part in parts.items()], dim=1)
        # The last ocr_max_num inputs are a legacy of earlier code (order vectors). They are zero and keep the weight's
        # published shape.
        feature = F.pad(feature, (0, self.settings.ocr_max_num)) * ("semantics" not in removed)
        box = packing.take(inputs.ocr_boxes) * ("bbox" not in removed)
        embedding = self.ocr_feat_layer_norm(self.linear_ocr_feat_to_mmt_in(feature))
        return self.ocr_drop(embedding + self.ocr_bbox_layer_norm(self.linear_ocr_bbox_to_mmt_in(box)))


def _unit(x: Tensor) -> Tensor:
    """Return ``x`` L2-normalized, computed in float32 because squares of half-precision features overflow."""
    return F.normalize(x.float(), dim=-1)
