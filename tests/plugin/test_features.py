"""Region features in the forms that MMF and the published reader accept."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from mmclvqa.clove.errors import DataError
from mmclvqa.datasets.features import FeatureStore

REGIONS = np.arange(12, dtype=np.float32).reshape(3, 4)
BOXES = np.array([[0, 0, 10, 10], [5, 5, 20, 10], [0, 10, 40, 20]], dtype=np.float32)
INFO = {"bbox": BOXES, "num_boxes": 3, "image_width": 40, "image_height": 20}
RECORD = {"question_id": "q1", "feature_path": "7.npy", "image_source": "vg"}


def store(folder: Path, **databases: str) -> FeatureStore:
    return FeatureStore(str(folder), databases, max_features=100, feature_dim=4)


def whole(value: Any) -> np.ndarray:
    array = np.empty((), dtype=object)
    array[()] = value
    return array


@pytest.mark.parametrize(
    ("value", "info"),
    [
        (REGIONS, INFO),
        (REGIONS[None], INFO),
        (whole({"features": REGIONS, **INFO}), None),
        (whole({"image_feat": REGIONS, "info": INFO}), None),
        (whole({"feature": REGIONS, **INFO}), None),
    ],
    ids=["table and info", "one more axis", "value of a database", "image_feat", "feature"],
)
def test_a_file_of_a_folder_may_have_each_of_the_known_forms(tmp_path: Path, value: np.ndarray, info: dict) -> None:
    np.save(tmp_path / "7.npy", value, allow_pickle=True)
    if info:
        np.save(tmp_path / "7_info.npy", whole(info), allow_pickle=True)
    image = store(tmp_path, gqa=".").read(RECORD)
    assert np.array_equal(image.objects, REGIONS)
    assert np.array_equal(image.boxes, BOXES / np.array([40, 20, 40, 20], dtype=np.float32))


@pytest.mark.parametrize("value", [np.float32([1, 2]), whole({"bbox"}), whole(None)], ids=["numbers", "set", "none"])
def test_a_file_without_a_dict_is_refused_with_record_and_file(tmp_path: Path, value: np.ndarray) -> None:
    np.save(tmp_path / "7.npy", REGIONS)
    np.save(tmp_path / "7_info.npy", value, allow_pickle=True)
    with pytest.raises(DataError, match=r"7_info\.npy: is .* instead of a dict \(question q1\)"):
        store(tmp_path, gqa=".").read(RECORD)
    (tmp_path / "7_info.npy").unlink()
    np.save(tmp_path / "7.npy", whole([1]), allow_pickle=True)
    with pytest.raises(DataError, match=r"7\.npy: is list instead of a dict \(question q1\)"):
        store(tmp_path, gqa=".").read(RECORD)


def test_each_database_with_features_without_boxes_is_named_once(tmp_path: Path, coercions_said: list[str]) -> None:
    for name in ("a.lmdb", "b.lmdb"):
        with lmdb.open(str(tmp_path / name), map_size=2**24) as database, database.begin(write=True) as writing:
            keys = [b"7", b"8", b"train/7", b"train/8"]
            writing.put(b"keys", pickle.dumps(keys))
            for key in keys:
                writing.put(key, pickle.dumps({"features": REGIONS}))
    features = store(tmp_path, gqa="a.lmdb", textvqa="b.lmdb")
    for record in (RECORD, RECORD | {"feature_path": "8.npy"}):
        for source in ("gqa", "textvqa"):
            assert not features.read(record | {"image_source": source}).boxes.any()
    named = [line.partition(": ")[0] for line in coercions_said]
    assert named == [str(tmp_path / "a.lmdb"), str(tmp_path / "b.lmdb")]
