"""The MMF data set of one split of CLOVE."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmf.common.registry import registry
from mmf.common.report import Report
from mmf.common.sample import Sample, SampleList
from mmf.datasets.base_dataset import BaseDataset
from mmf.utils.distributed import byte_tensor_to_object

from mmclvqa.clove.data_root import FASTTEXT_WIDTH
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.tasks import has_image
from mmclvqa.datasets.answers import answer_words
from mmclvqa.datasets.features import FeatureStore
from mmclvqa.datasets.prepared import (
    PreparedRecord,
    byte_batch,
    pack_names,
    pack_text,
    region_batch,
    repeats_one_value,
    scene_graph_text,
    text_batch,
)
from mmclvqa.datasets.processors import dense_targets, used_slots
from mmclvqa.datasets.records import PackedRecords
from mmclvqa.value_kinds import require_registered

IMAGE_FIELDS = ("question_id", "image_source", "feature_path")
"""The fields of a record that locate its image."""
TEXT_PROCESSORS = {
    "text": "text_processor",
    "sg_text": "scene_graph_processor",
    "knowledge_text": "knowledge_processor",
}
PHOC_DIM = 604
HOST_FIELDS = ("text_len", "sg_text_len", "knowledge_text_len", "image_info_0", "context_info_0", "ocr_slots")
"""Fields of a batch from which UniVQA computes how to pack tokens; reading them from a GPU would wait for it."""
MAX_TOKEN_VECTORS = 2**14
"""Number of OCR tokens whose vectors are kept in memory (4 KB each)."""


class CloveDataset(BaseDataset):
    """The CLOVE records of one split as MMF samples.

    Args:
        config: ``dataset_config.clvqa``.
        name: registered name, used in the names of metrics and registry entries.
    """

    def __init__(self, config: Any, dataset_type: str, records: list[dict[str, Any]], name: str = "clvqa") -> None:
        super().__init__(name, config, dataset_type)
        self.records = PackedRecords(records)
        self.has_ocr = config.use_ocr and any(r["ocr_tokens"] for r in records)
        self.features = FeatureStore(
            config.features_dir, dict(config.features), config.max_features, config.feature_dim
        )
        if config.use_features:
            for source in {self.features.source(r) for r in records if has_image(r["stage"])}:
                self.features.open(source)
        # Copied, because a lookup in the configuration takes longer than reading the region features of a record.
        self._mask_prob = config.mask_img_prob if config.use_mask_img and dataset_type == "train" else 0.0
        self._use_features, self._use_obj_boxes = config.use_features, config.use_obj_boxes
        self._use_ocr, self._use_ocr_info, self._use_gt_sg = config.use_ocr, config.use_ocr_info, config.use_gt_sg
        self._cache: dict[int, PreparedRecord] = {}
        self._token_vectors: dict[str, dict[str, np.ndarray]] = {"context_feature_0": {}, "context_feature_1": {}}
        self._seed = (int(registry.get("seed", no_warning=True) or 0), zlib.crc32(dataset_type.encode()))
        # In shared memory, so that data loading workers see the epoch that the trainer sets.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def with_records(self, records: list[dict[str, Any]]) -> CloveDataset:
        """Return a data set with other records, and the class, split, configuration and processors of this one."""
        dataset = type(self)(self.config, self.dataset_type, records, self.dataset_name)
        dataset.init_processors()
        return dataset

    def init_processors(self) -> None:
        """Build the processors.

        Raises:
            ConfigError: no processor of the given type is registered, or two have different numbers of OCR slots.
            DataError: a tokenizer is neither a folder nor on the hub.
        """
        registered = registry.mapping["processor_name_mapping"]
        for name, processor in self.config.processors.items():
            if processor:
                kind = processor.get("type") if isinstance(processor, Mapping) else processor
                key = f"dataset_config.{self.dataset_name}.processors.{name}.type"
                require_registered(key, "processor", kind, registered)
        super().init_processors()
        answer_slots = self.answer_processor.get_vocab_size() - self.answer_processor.get_true_vocab_size()
        if self.context_processor.max_length != answer_slots:
            raise ConfigError(
                f"dataset_config.{self.dataset_name}.processors.context_processor.params.max_length="
                f"{self.context_processor.max_length}: must be that of answer_processor ({answer_slots})"
            )
        self._text_processors = {
            field: (getattr(self, name), self.config.processors[name].params.max_seq_length)
            for field, name in TEXT_PROCESSORS.items()
        }
        if self.has_ocr:
            self.context_processor.load()
            if self.context_processor.model_file is None:
                self.writer.write("no fastText model is configured: OCR tokens get zero vectors", "warning")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the target answers and the masked images that are drawn."""
        self._epoch[0] = epoch

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of record ``index``, with all regions, for MMF's own loaders."""
        batch = self.load_batch([index], regions=self.features.max_features)
        sample = Sample()
        for field, value in batch.items():
            if isinstance(value, SampleList):
                sample[field] = Sample({key: part[0] for key, part in value.items()})
            elif isinstance(value, torch.Tensor):
                sample[field] = value[0]
        return sample

    def load_batch(self, indices: Sequence[int], regions: int | None = None) -> SampleList:
        """Return a batch of records, with the fields that :mod:`mmclvqa.models.inputs` reads; it is thread-safe.

        Instead of the dense ``targets`` it has ``target_inds`` and ``target_scores``, from which :meth:`prepare_batch`
        builds them.

        Args:
            regions: number of object and OCR regions to which features are padded; None keeps as many as the model
                reads: the largest number of object regions in the batch, and one OCR region per slot. The model masks
                padding, so this does not change results.
        """
        return self.assemble([self.draw(int(index)) for index in indices], regions)

    def draw(self, index: int) -> tuple[PreparedRecord, np.random.Generator]:
        """Return record ``index`` and the generator of its random draws in this epoch."""
        if index not in self._cache:
            self._cache[index] = self._prepare(self.records[index])
        return self._cache[index], np.random.default_rng((*self._seed, int(self._epoch), index))

    def assemble(
        self, drawn: Sequence[tuple[PreparedRecord, np.random.Generator]], regions: int | None = None
    ) -> SampleList:
        """Return a batch of records, possibly of several data sets with one configuration; see :meth:`load_batch`."""
        records, rngs = [record for record, _ in drawn], [rng for _, rng in drawn]
        batch = SampleList()
        for field, (_, width) in self._text_processors.items():
            texts = [record.texts[field] for record in records]
            batch[field], batch[f"{field}_len"] = text_batch(texts, width)
        self._add_regions(batch, records, rngs, regions)
        self._add_ocr(batch, records)
        batch.update(self.answer_processor.processor.batch([record.targets for record in records], rngs))
        batch.ocr_slots = used_slots(
            batch.context_info_0.max_features,
            (batch.train_prev_inds, batch.target_inds),
            self.answer_processor.get_true_vocab_size(),
            self.context_processor.max_length,
        )
        for field in records[0].names:
            batch[field] = byte_batch([record.names[field] for record in records])
        batch._set_tensor_field("text")
        batch.dataset_name, batch.dataset_type = self.dataset_name, self.dataset_type
        return batch

    def _prepare(self, record: dict[str, Any]) -> PreparedRecord:
        facts = record["supporting_fact"]
        texts = {
            "text": record["question"],
            "sg_text": scene_graph_text(record, self._use_gt_sg),
            "knowledge_text": " ".join(facts[0]["triplet"]) if facts else "",
        }
        tokens = [self.ocr_token_processor({"text": token})["text"] for token in record["ocr_tokens"] if self._use_ocr]
        slots = self.context_processor.max_length
        slot_tokens = (tokens + [self.context_processor.PAD_TOKEN] * slots)[:slots]
        with_image = has_image(record["stage"]) and self._use_features
        return PreparedRecord(
            texts={field: pack_text(self._text_processors[field][0]({"text": text})) for field, text in texts.items()},
            targets=self.answer_processor.processor.targets(record["answers"], slot_tokens),
            tokens=tokens[:slots],
            ocr_boxes=self._ocr_boxes(record, slots) if tokens else None,
            names=pack_names(record, slot_tokens),
            image={field: record[field] for field in IMAGE_FIELDS} if with_image else None,
        )

    def _ocr_boxes(self, record: dict[str, Any], slots: int) -> np.ndarray | None:
        boxes = record.get("ocr_normalized_boxes")
        if boxes is not None:
            return np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[:slots]
        if self._use_ocr_info:
            return self.bbox_processor({"info": record["ocr_info"]})["bbox"].coordinates.numpy()
        return None

    def _add_regions(
        self, batch: SampleList, records: list[PreparedRecord], rngs: list[np.random.Generator], regions: int | None
    ) -> None:
        store, slots = self.features, self.context_processor.max_length
        masked = [rng.random() < self._mask_prob for rng in rngs]
        images = [None if record.image is None else store.read(record.image) for record in records]
        # A replay has no image: its region features are zero, and all of them count as real.
        region_counts = [store.max_features if image is None else len(image.objects) for image in images]
        rows = regions or max(region_counts)
        # Masking does not affect the OCR regions and the boxes.
        objects = [None if image is None or hide else image.objects for image, hide in zip(images, masked, strict=True)]
        ocr = [image.ocr if image is not None and self._use_ocr else None for image in images]
        batch.image_feature_0 = region_batch(objects, rows, store.feature_dim)
        batch.image_info_0 = SampleList({"max_features": torch.tensor(region_counts)})
        boxes = [image.boxes if image and self._use_obj_boxes else None for image in images]
        batch.obj_bbox_coordinates = region_batch(boxes, rows, 4)
        batch.image_feature_1 = region_batch(ocr, regions or min(slots, store.max_features), store.feature_dim)

    def _add_ocr(self, batch: SampleList, records: list[PreparedRecord]) -> None:
        slots = self.context_processor.max_length
        batch.context_info_0 = SampleList({"max_features": torch.tensor([len(record.tokens) for record in records])})
        for field, processor, width in (
            ("context_feature_0", self.context_processor, FASTTEXT_WIDTH),
            ("context_feature_1", self.phoc_processor, PHOC_DIM),
        ):
            vectors = [[self._token_vector(field, processor, token) for token in record.tokens] for record in records]
            batch[field] = region_batch([np.stack(rows) if rows else None for rows in vectors], slots, width)
        batch.order_vectors = torch.zeros(1, 1, 1).expand(len(records), slots, slots)
        batch.ocr_bbox_coordinates = region_batch([record.ocr_boxes for record in records], slots, 4)

    def _token_vector(self, field: str, processor: Any, token: str) -> np.ndarray:
        vectors = self._token_vectors[field]
        vector = vectors.get(token)
        if vector is None:
            if len(vectors) >= MAX_TOKEN_VECTORS:
                vectors.clear()
            vector = vectors[token] = processor({"tokens": [token]})["text"][0].numpy().copy()
        return vector

    def prepare_batch(self, batch: SampleList) -> SampleList:
        """Move a batch to the device and add the dense ``targets`` (B, steps, A + OCR slots).

        The fields :data:`HOST_FIELDS` stay in CPU memory. A tensor that repeats one value is sent as this value.
        """
        on_host = {field: batch[field] for field in HOST_FIELDS if field in batch}
        repeated = {field: batch.pop(field) for field, value in list(batch.items()) if repeats_one_value(value)}
        batch = super().prepare_batch(batch)
        for field, value in on_host.items():
            batch[field] = value
        for field, value in repeated.items():
            batch[field] = value[(slice(1),) * value.dim()].to(self._device).expand(value.shape)
        batch.targets = dense_targets(
            batch.target_inds,
            batch.target_scores,
            steps=batch.train_prev_inds.size(1),
            num_outputs=self.answer_processor.get_vocab_size(),
        )
        return batch

    def format_for_prediction(self, report: Report) -> list[dict[str, Any]]:
        """Return MMF's prediction entries: question_id, image_id, answer, pred_source."""
        entries = []
        for row, steps in enumerate(report.scores.argmax(dim=-1).tolist()):
            tokens = byte_tensor_to_object(report.context_tokens[row])
            answer, sources = answer_words(steps, tokens, self.answer_processor)
            names = {field: byte_tensor_to_object(report[field][row]) for field in ("question_id", "image_id")}
            entries.append(names | {"answer": answer, "pred_source": sources})
        return entries
