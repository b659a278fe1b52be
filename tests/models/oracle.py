"""A slow and plain implementation of UniVQA (M4C with scene graph and knowledge), the reference of the tests.

It computes every padded position, uses additive masks of −10000, and runs the whole network for each step of greedy
decoding. It shares only the weights with the network under test.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmclvqa.models import UniVQAInputs, UniVQANetwork


def scores(net: UniVQANetwork, inputs: UniVQAInputs) -> dict[str, Tensor]:
    """Return teacher-forced scores in training mode, greedy scores in evaluation mode; ``cls_output`` with use_cls."""
    if net.training:
        return _forward(net, inputs, inputs.previous)
    previous = torch.zeros_like(inputs.previous)
    previous[:, 0] = net.bos_index
    for _ in range(inputs.previous.size(1)):
        results = _forward(net, inputs, previous)
        previous[:, 1:] = results["scores"].argmax(dim=-1)[:, :-1]
    return results


def _forward(net: UniVQANetwork, inputs: UniVQAInputs, previous: Tensor) -> dict[str, Tensor]:
    ocr, ocr_mask = _ocr(net, inputs), _mask(inputs.ocr_num, inputs.ocr_fasttext.size(1))
    streams = [
        _text(net, inputs.text, inputs.text_len),
        _text(net, inputs.scene_graph, inputs.scene_graph_len),
        _text(net, inputs.knowledge, inputs.knowledge_len),
        (_objects(net, inputs), _mask(inputs.object_num, inputs.objects.size(1))),
        (ocr, ocr_mask),
    ]
    if net.settings.use_cls:
        batch = len(previous)
        streams.insert(0, (net.cls_emb.expand(batch, 1, -1), torch.ones(batch, 1, device=ocr.device)))
    steps = previous.size(1)
    x = torch.cat([x for x, _ in streams] + [_decoder_input(net, ocr, previous)], dim=1)
    prefix = torch.cat([mask for _, mask in streams], dim=1)
    length = x.size(1)
    visible = F.pad(prefix, (0, steps))[:, None].repeat(1, length, 1)
    visible[:, -steps:, -steps:] = torch.ones(steps, steps, device=x.device).tril()
    for layer in net.mmt.encoder.layer:
        x = _layer(layer, x, (1 - visible[:, None]) * -10000.0, net.settings.mmt.num_attention_heads)
    decoded, ocr_out = x[:, -steps:], x[:, -steps - ocr.size(1) : -steps]
    pointer = net.ocr_ptr_net
    keys = pointer.key(ocr_out)
    copies = pointer.query(decoded) @ keys.transpose(1, 2) / math.sqrt(keys.size(-1))
    copies = copies + (1 - ocr_mask[:, None]) * -10000.0
    results = {"scores": torch.cat([net.classifier.module(decoded), copies], dim=-1)}
    if net.settings.use_cls:
        results["cls_output"] = x[:, 0]
    return results


def _text(net: UniVQANetwork, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    mask = _mask(lengths, tokens.size(1))
    e = net.text_bert.embeddings
    positions = torch.arange(tokens.size(1), device=tokens.device)
    x = e.word_embeddings(tokens) + e.position_embeddings(positions) + e.token_type_embeddings.weight[0]
    x = e.dropout(e.LayerNorm(x))
    for layer in net.text_bert.encoder.layer:
        x = _layer(layer, x, (1 - mask[:, None, None]) * -10000.0, net.settings.text_bert.num_attention_heads)
    return net.text_bert_out_linear(x), mask


def _objects(net: UniVQANetwork, inputs: UniVQAInputs) -> Tensor:
    feature = F.normalize(F.relu(net.obj_faster_rcnn_fc7.lc(inputs.objects)), dim=-1)
    return net.obj_drop(
        net.obj_feat_layer_norm(net.linear_obj_feat_to_mmt_in(feature))
        + net.obj_bbox_layer_norm(net.linear_obj_bbox_to_mmt_in(inputs.object_boxes))
    )


def _ocr(net: UniVQANetwork, inputs: UniVQAInputs) -> Tensor:
    removed = net.settings.removed
    slots = inputs.ocr_fasttext.size(1)
    fc7 = F.relu(net.ocr_faster_rcnn_fc7.lc(inputs.ocr_regions[:, :slots]))
    parts = [
        F.normalize(inputs.ocr_fasttext, dim=-1) * ("fasttext" not in removed),
        F.normalize(inputs.ocr_phoc, dim=-1) * ("phoc" not in removed),
        F.normalize(fc7, dim=-1) * ("frcn" not in removed),
        inputs.ocr_boxes.new_zeros(len(inputs.text), slots, net.settings.ocr_max_num),
    ]
    feature = torch.cat(parts, dim=-1) * ("semantics" not in removed)
    return net.ocr_drop(
        net.ocr_feat_layer_norm(net.linear_ocr_feat_to_mmt_in(feature))
        + net.ocr_bbox_layer_norm(net.linear_ocr_bbox_to_mmt_in(inputs.ocr_boxes * ("bbox" not in removed)))
    )


def _decoder_input(net: UniVQANetwork, ocr: Tensor, previous: Tensor) -> Tensor:
    e = net.mmt.prev_pred_embeddings
    answers = e.ans_layer_norm(net.classifier.module.weight).expand(len(previous), -1, -1)
    table = torch.cat([answers, e.ocr_layer_norm(ocr)], dim=1)
    value = torch.stack([rows[indices] for rows, indices in zip(table, previous, strict=True)])
    kind = (previous >= answers.size(1)).long()
    steps = torch.arange(previous.size(1), device=previous.device)
    place = e.position_embeddings(steps) + e.token_type_embeddings(kind)
    return value + e.emb_dropout(e.emb_layer_norm(place))


def _layer(layer: nn.Module, x: Tensor, mask: Tensor, heads: int) -> Tensor:
    attention = layer.attention.self
    q, k, v = (
        part(x).unflatten(-1, (heads, -1)).transpose(1, 2) for part in (attention.query, attention.key, attention.value)
    )
    dropout = attention.dropout if layer.training else 0.0
    context = F.scaled_dot_product_attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)
    out = layer.attention.output
    x = out.LayerNorm(x + out.dropout(out.dense(context)))
    inner = F.gelu(layer.intermediate.dense(x))
    return layer.output.LayerNorm(x + layer.output.dropout(layer.output.dense(inner)))


def _mask(lengths: Tensor, width: int) -> Tensor:
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).float()
