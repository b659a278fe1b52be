"""Records whose texts and answers are tokenized once per process, and functions that pad them to batches."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.records import ITEM_END
from mmclvqa.clove.tasks import is_real_replay
from mmclvqa.datasets.processors import AnswerTargets

BYTE_TENSOR_SIZE = 4094
"""Size of MMF's byte tensors (``mmf.utils.distributed.object_to_byte_tensor``)."""


class PreparedRecord(NamedTuple):
    """The parts of a sample that do not depend on random draws.

    Attributes:
        texts: token ids without padding (int32) and the number of tokens, by field.
        tokens: OCR tokens, preprocessed, at most one per slot.
        ocr_boxes: float32 (slots, 4), None without OCR tokens.
        names: Python values by field, pickled as in MMF's byte tensors.
        image: the fields of the record that locate its image; None for a replay, which has no image.
    """

    texts: dict[str, tuple[np.ndarray, int]]
    targets: AnswerTargets
    tokens: list[str]
    ocr_boxes: np.ndarray | None
    names: dict[str, bytes]
    image: dict[str, Any] | None


def scene_graph_text(record: dict[str, Any], use_gt_sg: bool) -> str:
    """Return the scene graph as text: items joined by spaces, without the last ``[SEP]``.

    It is the predicted graph, or for replayed original records with ``use_gt_sg`` the ground-truth graph.
    """
    true_graph = use_gt_sg and is_real_replay(record["stage"])
    return " ".join(record["gt_scene_graph_seq" if true_graph else "pred_scene_graph_seq"]).removesuffix(ITEM_END)


def pack_text(processed: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Return the token ids of a processed text without padding (zeros), and the number of its tokens."""
    # MMF's own tokenizer processors return the tokens but not their number.
    length = processed["length"] if "length" in processed else len(processed["tokens"])
    return processed["input_ids"].numpy()[:length].astype(np.int32), length


def pack_names(record: dict[str, Any], slot_tokens: list[str]) -> dict[str, bytes]:
    """Return the fields of a record that batches contain as pickled Python values.

    Raises:
        DataError: a value is too long for MMF's byte tensors.
    """
    values = {
        "context_tokens": slot_tokens,
        "answers": record["answers"],
        "question_id": record["question_id"],
        "image_id": str(record["image_id"]),
        "stage": record["stage"],
    }
    names = {field: pickle.dumps(value) for field, value in values.items()}
    for field, packed in names.items():
        if len(packed) + 2 > BYTE_TENSOR_SIZE:
            problem = f"is too long: {len(packed)} bytes instead of at most {BYTE_TENSOR_SIZE - 2}"
            raise DataError(f"record {record['question_id']}: {field} {problem}")
    return names


def text_batch(texts: Sequence[tuple[np.ndarray, int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids, int64 (B, width), zero-padded, and the numbers of tokens, int64 (B,)."""
    ids = np.zeros((len(texts), width), dtype=np.int64)
    for row, (text, _) in enumerate(texts):
        ids[row, : len(text)] = text
    return torch.from_numpy(ids), torch.tensor([length for _, length in texts])


def byte_batch(values: Sequence[bytes]) -> torch.Tensor:
    """Return pickled values in the format of MMF's byte tensors, uint8 (B, 4094)."""
    packed = np.zeros((len(values), BYTE_TENSOR_SIZE), dtype=np.uint8)
    for row, value in enumerate(values):
        packed[row, :2] = divmod(len(value), 256)
        packed[row, 2 : 2 + len(value)] = np.frombuffer(value, dtype=np.uint8)
    return torch.from_numpy(packed)


def region_batch(regions: Sequence[np.ndarray | None], rows: int, width: int) -> torch.Tensor:
    """Return region features or boxes, float32 (B, rows, width), zero-padded or truncated; None becomes zeros.

    If all are None, the zeros take the memory of a single value.
    """
    if all(part is None for part in regions):
        return torch.zeros(1, 1, 1).expand(len(regions), rows, width)
    stacked = torch.empty(len(regions), rows, width)
    array = stacked.numpy()
    for row, part in enumerate(regions):
        count = 0 if part is None else min(len(part), rows)
        if count:
            array[row, :count] = part[:count]
        array[row, count:] = 0.0
    return stacked


def repeats_one_value(value: Any) -> bool:
    """Return whether a value is a tensor with one value in memory, such as the features of a batch without images."""
    return isinstance(value, torch.Tensor) and value.numel() > 1 and not any(value.stride())
