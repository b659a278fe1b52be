"""Builders of small records, features and feature databases."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from mmclvqa.clove.records import new_record


def make_record(stage: str = "object", number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a valid record; scenetext records are from TextVQA and have an OCR token."""
    record = new_record(
        answer="dog",
        answers=["dog"] * 10,
        question=f"what is number {number}?",
        question_id=f"{stage}{number}",
        image_id=str(number),
        image_source="vg",
        feature_path=f"{number}.npy",
        gt_scene_graph_seq=["dog [SEP]", "dog on grass [SEP]"],
        gt_scene_graph_mask=[1, 0],
        pred_scene_graph_seq=["cat on grass [SEP]"],
        stage=stage,
    )
    if stage == "scenetext":
        box = {"top_left_x": 0.1, "top_left_y": 0.1, "width": 0.2, "height": 0.1}
        record |= {
            "answer": "stop",
            "answers": ["stop"] * 10,
            "image_source": "textvqa",
            "ocr_tokens": ["STOP"],
            "ocr_info": [{"word": "STOP", "bounding_box": box}],
        }
    return record | fields


def make_features(regions: int = 3, width: int = 4) -> dict[str, Any]:
    """Return the value of an entry of a feature database."""
    return {
        "features": np.ones((regions, width), np.float32),
        "bbox": np.zeros((regions, 4), np.float32),
        "num_boxes": regions,
        "image_width": 640,
        "image_height": 480,
    }


def write_lmdb(path: Path, values: Mapping[bytes, Any]) -> None:
    """Write a feature database in MMF's format; ``bytes`` values are written unchanged, others are pickled."""
    path.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value if isinstance(value, bytes) else pickle.dumps(value))
        transaction.put(b"keys", pickle.dumps(list(values)))
