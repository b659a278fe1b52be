"""The MMF data set of one split of CLOVE."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from mmf.common.registry import registry
from mmf.common.report import Report
from mmf.common.sample import Sample, SampleList
from mmf.datasets.base_dataset import BaseDataset
from mmf.utils.distributed import byte_tensor_to_object, object_to_byte_tensor

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.tasks import has_image
from mmclvqa.datasets.answers import answer_words
from mmclvqa.datasets.collate import TrimmingCollator
from mmclvqa.datasets.features import FeatureStore
from mmclvqa.datasets.processors import dense_targets
from mmclvqa.datasets.records import PackedRecords

SEPARATOR = "[SEP]"


class CloveDataset(BaseDataset):
    """The CLOVE records of one split as MMF samples.

    Args:
        config: ``dataset_config.clvqa``.
        dataset_type: ``train``, ``val`` or ``test``.
        records: annotation records of the split.
        name: registered name, used in the names of metrics and registry entries.
    """

    def __init__(self, config: Any, dataset_type: str, records: list[dict[str, Any]], name: str = "clvqa") -> None:
        super().__init__(name, config, dataset_type)
        self.records = PackedRecords(records)
        self.has_ocr = config.use_ocr and any(r["ocr_tokens"] for r in records)
        self.features = FeatureStore(
            config.features_dir, dict(config.features), config.max_features, config.feature_dim
        )
        for source in {self.features.source(r) for r in records if has_image(r["stage"])}:
            self.features.open(source)
        # Read once, because a lookup in the configuration takes longer than reading the region features of a record.
        self._mask_prob = config.mask_img_prob if config.use_mask_img and dataset_type == "train" else 0.0
        self._use_features, self._use_ocr = config.use_features, config.use_ocr
        self._use_ocr_info, self._use_gt_sg = config.use_ocr_info, config.use_gt_sg
        self._seed = (int(registry.get("seed", no_warning=True) or 0), zlib.crc32(dataset_type.encode()))
        # In shared memory, so that data loading workers see the epoch that the trainer sets.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def init_processors(self) -> None:
        """Build the processors.

        Raises:
            DataError: the tokenizer is neither in the data root nor on the hub.
        """
        try:
            super().init_processors()
        except OSError as error:
            source = self.config.processors.text_processor.params.tokenizer_config.type
            raise DataError(
                f"tokenizer {source} is neither in {self.config.data_dir}/pretrained nor available from the hub: "
                f"{str(error).splitlines()[0]}"
            ) from None
        if self.has_ocr:
            self.context_processor.load()
            if self.context_processor.model_file is None:
                self.writer.write("no fastText model is configured: OCR tokens get zero vectors", "warning")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the target answers and the masked images that are drawn."""
        self._epoch[0] = epoch

    def collate_fn(self, batch: list[Sample]) -> SampleList:
        """Collate samples into a batch; see :class:`TrimmingCollator`."""
        return TrimmingCollator(self.dataset_name, self.dataset_type)(batch)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of record ``index``, with the fields that :mod:`mmclvqa.models.inputs` reads.

        Instead of the dense ``targets`` it has ``target_inds`` and ``target_scores``, from which :meth:`prepare_batch`
        builds them.
        """
        record = self.records[index]
        draws = np.random.default_rng((*self._seed, int(self._epoch), index))
        sample = Sample()
        self._add_texts(sample, record)
        self._add_regions(sample, record, draws)
        tokens = self._add_ocr(sample, record)
        sample.update(
            self.answer_processor({"answers": record["answers"], "tokens": tokens, "generator": draws})
        )
        self._add_names(sample, record, tokens)
        return sample

    def _add_texts(self, sample: Sample, record: dict[str, Any]) -> None:
        facts = record["supporting_fact"]
        texts = {
            "text": (self.text_processor, record["question"]),
            "sg_text": (self.scene_graph_processor, scene_graph_text(record, self._use_gt_sg)),
            "knowledge_text": (self.knowledge_processor, " ".join(facts[0]["triplet"]) if facts else ""),
        }
        for field, (processor, text) in texts.items():
            processed = processor({"text": text})
            sample[field] = processed["input_ids"]
            # MMF's own tokenizer processors return the tokens but not their number.
            length = processed["length"] if "length" in processed else len(processed["tokens"])
            sample[f"{field}_len"] = torch.tensor(length)

    def _add_regions(self, sample: Sample, record: dict[str, Any], draws: np.random.Generator) -> None:
        masked = draws.random() < self._mask_prob
        if has_image(record["stage"]) and self._use_features:
            features = self.features.read(record)
        else:
            # A replay has no image: its region features are zero, and all of them count as real.
            features = {
                "objects": self.features.nothing(),
                "num_objects": torch.tensor(self.features.max_features),
                "boxes": torch.zeros(self.features.max_features, 4),
                "ocr": self.features.nothing(),
            }
        # Masking does not affect the OCR regions and the boxes.
        sample.image_feature_0 = self.features.nothing() if masked else features["objects"]
        sample.image_info_0 = Sample({"max_features": features["num_objects"]})
        sample.obj_bbox_coordinates = features["boxes"]
        sample.image_feature_1 = features["ocr"] if self._use_ocr else self.features.nothing()

    def _add_ocr(self, sample: Sample, record: dict[str, Any]) -> list[str]:
        """Add the OCR fields and return the OCR tokens by slot, padded with ``<pad>``."""
        tokens = record["ocr_tokens"] if self._use_ocr else []
        tokens = [self.ocr_token_processor({"text": token})["text"] for token in tokens]
        context = self.context_processor({"tokens": tokens})
        sample.context_feature_0 = context["text"]
        sample.context_info_0 = Sample({"max_features": context["length"]})
        sample.context_feature_1 = self.phoc_processor({"tokens": tokens})["text"]
        slots = self.context_processor.max_length
        sample.order_vectors = torch.zeros(1, 1).expand(slots, slots)
        sample.ocr_bbox_coordinates = self._ocr_boxes(record, slots, bool(tokens))
        return context["tokens"]

    def _ocr_boxes(self, record: dict[str, Any], slots: int, has_tokens: bool) -> torch.Tensor:
        normalised = record.get("ocr_normalized_boxes")
        if not has_tokens:
            return torch.zeros(slots, 4)
        if normalised is not None:
            blob = np.asarray(normalised, dtype=np.float32).reshape(-1, 4)
            return self.copy_processor({"blob": blob})["blob"][:slots]
        if self._use_ocr_info:
            return self.bbox_processor({"info": record["ocr_info"]})["bbox"].coordinates
        return torch.zeros(slots, 4)

    def _add_names(self, sample: Sample, record: dict[str, Any], tokens: list[str]) -> None:
        named = {
            "context_tokens": tokens,
            "answers": record["answers"],
            "question_id": record["question_id"],
            "image_id": str(record["image_id"]),
            "stage": record["stage"],
        }
        for field, value in named.items():
            try:
                sample[field] = object_to_byte_tensor(value)
            except Exception as error:  # MMF raises a bare Exception for a value that is too long
                raise DataError(f"record {record['question_id']}: {field} is too long: {error}") from None

    def prepare_batch(self, batch: SampleList) -> SampleList:
        """Move a batch to the device and add the dense ``targets`` (B, steps, A + OCR slots)."""
        batch = super().prepare_batch(batch)
        batch.targets = dense_targets(
            batch.target_inds,
            batch.target_scores,
            steps=batch.train_prev_inds.size(1),
            num_outputs=self.answer_processor.get_vocab_size(),
        )
        return batch

    def format_for_prediction(self, report: Report) -> list[dict[str, Any]]:
        """Return MMF's prediction entries: question_id, image_id, answer, pred_source."""
        indices = report.scores.argmax(dim=-1).tolist()
        entries = []
        for row, steps in enumerate(indices):
            tokens = byte_tensor_to_object(report.context_tokens[row])
            answer, sources = answer_words(steps, tokens, self.answer_processor)
            entries.append(
                {
                    "question_id": byte_tensor_to_object(report.question_id[row]),
                    "image_id": byte_tensor_to_object(report.image_id[row]),
                    "answer": answer,
                    "pred_source": sources,
                }
            )
        return entries


def scene_graph_text(record: dict[str, Any], use_gt_sg: bool) -> str:
    """Return the scene graph as text: items joined by spaces, without the last ``[SEP]``.

    It is the predicted graph, or for replays with ``use_gt_sg`` the ground-truth graph.
    """
    true_graph = use_gt_sg and "replay" in record["stage"]
    items = record["gt_scene_graph_seq" if true_graph else "pred_scene_graph_seq"]
    return " ".join(items).removesuffix(f" {SEPARATOR}")
