"""Random small batches and networks for comparing UniVQA with the oracle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmclvqa.models import UniVQAInputs, UniVQANetwork

FIELDS_OF_INPUTS = {
    "text": "text",
    "text_len": "text_len",
    "sg_text": "scene_graph",
    "sg_text_len": "scene_graph_len",
    "knowledge_text": "knowledge",
    "knowledge_text_len": "knowledge_len",
    "image_feature_0": "objects",
    "obj_bbox_coordinates": "object_boxes",
    "context_feature_0": "ocr_fasttext",
    "context_feature_1": "ocr_phoc",
    "image_feature_1": "ocr_regions",
    "ocr_bbox_coordinates": "ocr_boxes",
    "train_prev_inds": "previous",
    "targets": "targets",
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def small_config(**changes: Any) -> dict[str, Any]:
    """Return a ``model_config.unicl`` with few parameters and no dropout; ``section__key=value`` sets a key."""
    config = {
        "text_bert": {
            "num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 32,
            "vocab_size": 50, "max_position_embeddings": 40, **NO_DROPOUT,
        },
        "mmt": {
            "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, **NO_DROPOUT,
        },
        "obj": {"in_dim": 16, "mmt_in_dim": 20, "dropout_prob": 0.0},
        "ocr": {"fasttext_dim": 10, "phoc_dim": 12, "dropout_prob": 0.0},
        "classifier": {"ocr_max_num": 6},
        "use_cls": False,
    }  # fmt: skip
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    return config


def network(config: dict[str, Any], num_answers: int = 30, seed: int = 0) -> UniVQANetwork:
    """Return a network with weights so large that every part affects the result."""
    net = UniVQANetwork(config, num_answers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return net


def inputs(
    net: UniVQANetwork,
    batch: int = 4,
    steps: int = 5,
    widths: tuple[int, int, int, int] = (7, 30, 5, 9),
    seed: int = 0,
    **lengths: Any,
) -> UniVQAInputs:
    """Return a padded batch; its padding is random, so that reading it would change results.

    Args:
        widths: padded lengths of question, scene graph, knowledge and objects.
        lengths: ``text_len``, ``scene_graph_len``, ``knowledge_len``, ``object_num``, ``ocr_num`` as a number or a
            list; lengths that are not given are drawn.
    """
    g = torch.Generator().manual_seed(seed)
    s, answers = net.settings, net.classifier.module.out_features
    slots, (question, graph, knowledge, regions) = s.ocr_max_num, widths

    def floats(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=g)

    def tokens(width: int) -> Tensor:
        return torch.randint(1, s.text_bert.vocab_size, (batch, width), generator=g)

    def count(name: str, low: int, high: int) -> Tensor:
        drawn = torch.randint(low, high + 1, (batch,), generator=g)
        return torch.as_tensor(lengths[name]).expand(batch).clone() if name in lengths else drawn

    ocr_num = count("ocr_num", 0, slots)
    previous = torch.randint(0, answers, (batch, steps), generator=g)
    copied = (torch.rand(batch, steps, generator=g) < 0.4) & (ocr_num[:, None] > 0)
    slot = (torch.rand(batch, steps, generator=g) * ocr_num[:, None]).long()
    previous = torch.where(copied, answers + slot, previous)
    previous[:, 0] = net.bos_index
    targets = (torch.rand(batch, steps, answers, generator=g) < 0.05).float()
    return UniVQAInputs(
        text=tokens(question),
        text_len=count("text_len", 2, question),
        scene_graph=tokens(graph),
        scene_graph_len=count("scene_graph_len", 2, graph),
        knowledge=tokens(knowledge),
        knowledge_len=count("knowledge_len", 2, knowledge),
        objects=floats(regions, s.region_dim),
        object_boxes=floats(regions, 4),
        object_num=count("object_num", 1, regions),
        ocr_fasttext=floats(slots, s.fasttext_dim),
        ocr_phoc=floats(slots, s.phoc_dim),
        ocr_regions=floats(max(regions, slots), s.region_dim),
        ocr_boxes=floats(slots, 4),
        ocr_num=ocr_num,
        previous=previous,
        targets=torch.cat([targets, torch.zeros(batch, steps, slots)], dim=2),
    )


def as_fields(batch: UniVQAInputs) -> dict[str, Any]:
    """Return the batch with the field names of the data set ``clvqa``."""
    fields: dict[str, Any] = {name: getattr(batch, attribute) for name, attribute in FIELDS_OF_INPUTS.items()}
    fields["image_info_0"] = {"max_features": batch.object_num}
    fields["context_info_0"] = {"max_features": batch.ocr_num}
    return fields


def gradients(net: UniVQANetwork, scores: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a fixed function of the scores that are not masked."""
    net.zero_grad(set_to_none=True)
    scores.clamp(min=-50).square().sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
