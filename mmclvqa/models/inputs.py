"""The input tensors of UniVQA, independent of how they were collated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmclvqa.models.packing import Packing, Size


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
        ocr_slots: B×slots, bool, slots that are real or referenced; None: read from ``previous`` and ``targets``.

    The lengths, that is ``*_len``, ``*_num`` and ``ocr_slots``, may be in host memory while all else is on a GPU. Then
    computing the network never makes the host wait for the GPU, otherwise once per batch.
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
    ocr_slots: Tensor | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> UniVQAInputs:
        """Build the inputs from MMF's ``SampleList``, or from a mapping with the fields of the data set ``clvqa``."""
        return cls(
            text=batch["text"],
            text_len=batch["text_len"],
            scene_graph=batch["sg_text"],
            scene_graph_len=batch["sg_text_len"],
            knowledge=batch["knowledge_text"],
            knowledge_len=batch["knowledge_text_len"],
            objects=batch["image_feature_0"],
            object_boxes=batch["obj_bbox_coordinates"],
            object_num=torch.as_tensor(batch["image_info_0"]["max_features"]),
            ocr_fasttext=batch["context_feature_0"],
            ocr_phoc=batch["context_feature_1"],
            ocr_regions=batch["image_feature_1"],
            ocr_boxes=batch["ocr_bbox_coordinates"],
            ocr_num=torch.as_tensor(batch["context_info_0"]["max_features"]),
            previous=batch["train_prev_inds"],
            targets=batch.get("targets"),
            ocr_slots=batch.get("ocr_slots"),
        )

    def packings(self, num_answers: int | None) -> Packings:
        """Return how the tokens of the batch are packed.

        Args:
            num_answers: size A of the answer vocabulary for teacher forcing, which packs referenced slots too; None for
                greedy decoding.
        """
        device = self.text.device
        slots = torch.arange(self.ocr_fasttext.size(1), device=self.ocr_num.device)
        real_ocr = slots < self.ocr_num[:, None]
        used_slots = real_ocr if num_answers is None else self.ocr_slots
        if used_slots is None:
            real_ocr = real_ocr.to(device, non_blocking=True)
            used_slots = real_ocr | self.referenced_slots(num_answers)
        lengths = [
            self.text_len.clamp(0, self.text.size(1)),
            self.knowledge_len.clamp(0, self.knowledge.size(1)),
            self.scene_graph_len.clamp(0, self.scene_graph.size(1)),
            self.object_num.clamp(0, self.objects.size(1)),
            used_slots.sum(1),
            # The last slot in use, counted from 1: slots may be referenced beyond the real ones.
            F.pad(used_slots * (torch.arange(used_slots.size(1), device=used_slots.device) + 1), (1, 0)).amax(1),
        ]
        on_host = all(length.device.type == "cpu" for length in lengths)
        lengths_on_device = [length.to(device, non_blocking=True) for length in lengths]
        # The only place where the host waits for the device, unless it has the lengths.
        text, knowledge, graph, objects, ocr, last_ocr = torch.stack(lengths if on_host else lengths_on_device).tolist()
        records = zip(text, knowledge, graph, objects, ocr, strict=True)
        return Packings(
            short_texts=Packing.of_lengths(torch.cat(lengths_on_device[:2]), _size(text + knowledge)),
            scene_graph=Packing.of_lengths(lengths_on_device[2], _size(graph)),
            objects=Packing.of_lengths(lengths_on_device[3], _size(objects)),
            ocr=Packing.of_mask(
                used_slots.to(device, non_blocking=True),
                Size(sum(ocr), max(last_ocr, default=0)),
                None if num_answers is None else real_ocr.to(device, non_blocking=True),
            ),
            longest=max(map(sum, records), default=0),
            most_ocr=max(ocr, default=0),
        )

    def referenced_slots(self, num_answers: int) -> Tensor:
        """Return the OCR slots (B×slots, bool) that teacher forcing uses as input or as target.

        The answer processor uses real slots only. If a batch refers to a padded slot, the slot's embedding and its
        (masked) score take part in the loss, exactly as they would if padding were computed.
        """
        slots = torch.arange(self.ocr_fasttext.size(1), device=self.previous.device) + num_answers
        is_referenced = (self.previous[:, :, None] == slots).any(dim=1)
        if self.targets is not None:
            is_referenced |= (self.targets[:, :, num_answers:] != 0).any(dim=1)
        return is_referenced


@dataclass(frozen=True)
class Packings:
    """How the tokens of a batch are packed.

    Attributes:
        short_texts: the questions, followed by the knowledge as further rows.
        scene_graph, objects, ocr: one row per record.
        longest: number of packed tokens of the longest record, over all of these.
        most_ocr: number of packed OCR tokens of the record with the most.
    """

    short_texts: Packing
    scene_graph: Packing
    objects: Packing
    ocr: Packing
    longest: int
    most_ocr: int


def _size(lengths: list[int]) -> Size:
    return Size(sum(lengths), max(lengths, default=0))
