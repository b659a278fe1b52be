"""The input tensors of UniVQA, independent of how they were collated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class UniVQAInputs:
    """One padded batch of B records.

    Attributes:
        text, scene_graph, knowledge: B×L, B×SG, B×K, int64, BERT token ids; ``*_len``: B, int64, number of real tokens.
        objects: B×regions×features, float; ``object_boxes`` B×regions×4; ``object_num`` B, number of real regions.
        ocr_fasttext, ocr_phoc: B×slots×300, B×slots×604, float; ``ocr_boxes`` B×slots×4; ``ocr_num`` B.
        ocr_regions: B×(slots or more)×features, float, region features of the OCR tokens.
        previous: B×T, int64, teacher-forcing input; in evaluation only its width T is used.
        targets: B×T×(A+slots), float, or None; see :meth:`referenced_slots`.
    """

    text: Tensor
    text_len: Tensor
    scene_graph: Tensor
    scene_graph_len: Tensor
    knowledge: Tensor
    knowledge_len: Tensor
    objects: Tensor
    object_boxes: Tensor
    object_num: Tensor
    ocr_fasttext: Tensor
    ocr_phoc: Tensor
    ocr_regions: Tensor
    ocr_boxes: Tensor
    ocr_num: Tensor
    previous: Tensor
    targets: Tensor | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> UniVQAInputs:
        """Build the inputs from MMF's ``SampleList``, or from a mapping with the fields of the data set ``clvqa``."""
        device = batch["text"].device
        infos = (batch["image_info_0"], batch["context_info_0"])
        object_num, ocr_num = (torch.as_tensor(info["max_features"], device=device) for info in infos)
        return cls(
            text=batch["text"],
            text_len=batch["text_len"],
            scene_graph=batch["sg_text"],
            scene_graph_len=batch["sg_text_len"],
            knowledge=batch["knowledge_text"],
            knowledge_len=batch["knowledge_text_len"],
            objects=batch["image_feature_0"],
            object_boxes=batch["obj_bbox_coordinates"],
            object_num=object_num,
            ocr_fasttext=batch["context_feature_0"],
            ocr_phoc=batch["context_feature_1"],
            ocr_regions=batch["image_feature_1"],
            ocr_boxes=batch["ocr_bbox_coordinates"],
            ocr_num=ocr_num,
            previous=batch["train_prev_inds"],
            targets=batch.get("targets"),
        )

    def referenced_slots(self, num_answers: int) -> Tensor:
        """Return the OCR slots (B×slots, bool) that teacher forcing uses as input or as target.

        The answer processor uses real slots only. If a batch refers to a padded slot, the slot's embedding and its
        (masked) score take part in the loss, exactly as they would if padding were computed.
        """
        slots = torch.arange(self.ocr_fasttext.size(1), device=self.previous.device) + num_answers
        named = (self.previous[:, :, None] == slots).any(dim=1)
        if self.targets is not None:
            named |= (self.targets[:, :, num_answers:] != 0).any(dim=1)
        return named
