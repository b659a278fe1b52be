"""The records of a split, kept packed so that data loading processes share one copy of them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmclvqa.clove.annotations import load_records
from mmclvqa.clove.errors import DataError

USED_FIELDS = (
    "answers",
    "question",
    "question_id",
    "image_id",
    "image_source",
    "feature_path",
    "ocr_tokens",
    "ocr_info",
    "ocr_normalized_boxes",
    "gt_scene_graph_seq",
    "pred_scene_graph_seq",
    "supporting_fact",
    "stage",
)
"""What the data set reads of a record; the rest of it is not kept in memory."""


class PackedRecords:
    """Records as one byte array: forked workers read it without copying it page by page.

    (A list of dicts is copied in time by every worker, because reading a Python object writes its
    reference count.)

    Args:
        records: annotation records, see :mod:`mmclvqa.clove.annotations`.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        packed = [pickle.dumps({k: r[k] for k in USED_FIELDS if k in r}, protocol=5) for r in records]
        self._ends = np.cumsum([len(p) for p in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = int(self._ends[index - 1]) if index else 0
        # Packed by this object from checked records, so nothing foreign is unpickled here.
        return pickle.loads(memoryview(self._bytes)[start : int(self._ends[index])])


def read_split(root: str, paths: Iterable[str]) -> list[dict[str, Any]]:
    """Read and check the annotation files of one split, one after another.

    Args:
        root: the data root; relative paths are below it.
        paths: annotation files.

    Raises:
        DataError: the data root or a file is missing, damaged or empty.
        RecordError: a record without a field, or with one of the wrong kind.
    """
    if not Path(root).is_dir():
        raise DataError(
            f"data root {root} does not exist; set CLOVE_ROOT (or env.clove_root), "
            "or make a small one with: python -m mmclvqa.clove mini DIR"
        )
    records = []
    for name in paths:
        path = Path(root, name)
        if not path.exists() and path.with_suffix(".json").exists():
            path = path.with_suffix(".json")
        found = load_records(path)
        if not found:
            raise DataError(f"{path} holds no records")
        records += found
    return records
