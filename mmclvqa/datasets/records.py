"""The records of a split in packed form."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.records import load_filled

USED_FIELDS = (
    *("answers", "question", "question_id", "image_id", "image_source", "feature_path", "stage"),
    *("ocr_tokens", "ocr_info", "ocr_normalized_boxes"),
    *("gt_scene_graph_seq", "pred_scene_graph_seq", "supporting_fact"),
)
"""The fields of a record that the data set reads; other fields are not kept in memory."""


class PackedRecords:
    """Records pickled into one byte array, which takes less memory than dicts and no time of the garbage collector.

    Data loading processes share the array; they would copy dicts, because reading an object writes its reference count.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        packed = [pickle.dumps({k: r[k] for k in USED_FIELDS if k in r}, protocol=5) for r in records]
        self._ends = np.cumsum([len(p) for p in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = int(self._ends[index - 1]) if index else 0
        # Safe: these bytes were pickled by this object from checked records.
        return pickle.loads(memoryview(self._bytes)[start : int(self._ends[index])])


def read_split(root: str, paths: Iterable[str]) -> list[dict[str, Any]]:
    """Read and check the annotation files of one split; ``paths`` are relative to ``root``, the data root.

    Raises:
        DataError: the data root or a file does not exist, is damaged or is empty.
        RecordError: a field of a record is missing or has the wrong type.
    """
    if not Path(root).is_dir():
        raise DataError(
            f"data root {root} does not exist; set CLOVE_ROOT (or env.clove_root), "
            "or generate a small one with: python -m mmclvqa.clove mini DIR"
        )
    records = []
    for name in paths:
        path = Path(root, str(name))
        if not path.exists() and path.with_suffix(".json").exists():
            path = path.with_suffix(".json")
        records += load_filled(path)
    return records
