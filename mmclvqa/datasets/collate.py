"""Batches of CLOVE samples: MMF's SampleList, without padding that no record of the batch needs."""

from __future__ import annotations

from mmf.common.batch_collator import BatchCollator
from mmf.common.sample import Sample, SampleList

OBJECT_FIELDS = ("image_feature_0", "obj_bbox_coordinates")


class TrimmingCollator(BatchCollator):
    """Cuts region features to the batch's longest before they are stacked and passed between processes.

    At CLOVE's size a record's two feature fields are 1.6 MB, most of it padding; the model masks
    padding, so what is cut changes no result.
    """

    def __call__(self, batch: list[Sample]) -> SampleList:
        objects = max(int(sample.image_info_0.max_features) for sample in batch)
        for sample in batch:
            for field in OBJECT_FIELDS:
                sample[field] = sample[field][:objects]
            # Only as many OCR regions as there are OCR slots are ever read.
            sample["image_feature_1"] = sample["image_feature_1"][: len(sample["ocr_bbox_coordinates"])]
        return super().__call__(batch)
