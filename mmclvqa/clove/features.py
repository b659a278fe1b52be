"""Region features on disk: MMF's LMDB format, read without executing pickled code.

Key: the feature path without ``.npy``. Value: a pickled dict with ``features`` n x width, ``bbox`` n x 4,
``num_boxes``, ``image_width``, ``image_height``. The key ``keys`` holds the pickled list of all keys.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np

from mmclvqa.clove import layout
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.pickles import safe_loads

KEY_LIST = b"keys"

SIZE_KEYS = ("image_width", "image_height")
"""What boxes are divided by."""


def has_image(stage: str) -> bool:
    """Whether records of this stage show an image: SRM's and image-withheld replays do not."""
    return "_gen" not in stage and "_##" not in stage


def databases(image_source: str | None) -> tuple[str, ...]:
    """The feature databases a record's image is read from, relative to the data root."""
    if image_source == "textvqa":
        return layout.TEXTVQA_FEATURES, layout.TEXTVQA_OCR_FEATURES
    return (layout.GQA_FEATURES,)


def feature_path(record: Mapping[str, Any]) -> str | None:
    """The path of a record's features in its databases; TextVQA's lie below ``train/``. None without one."""
    path = record["feature_path"]
    if path is not None and record["image_source"] == "textvqa" and not path.startswith("train"):
        return f"train/{path}"
    return path


class FeatureDatabase:
    """One feature database, open for reading.

    Args:
        path: the ``.lmdb`` folder or file.

    Raises:
        DataError: it is missing, no LMDB, truncated, or has no readable list of keys.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._environment = open_lmdb(self.path)
        try:
            with self._environment.begin(buffers=True) as transaction:
                packed = transaction.get(KEY_LIST)
                if packed is None:
                    raise DataError(f"{self.path}: has no entry 'keys', which lists its features")
                keys = safe_loads(packed, f"{self.path}, entry 'keys'")
            if not isinstance(keys, (list, tuple)) or not all(isinstance(key, bytes) for key in keys):
                raise DataError(f"{self.path}: entry 'keys' is no list of bytes")
        except BaseException:
            self.close()
            raise
        self.keys: frozenset[bytes] = frozenset(keys)

    def key(self, path: str) -> bytes | None:
        """The key under which MMF's reader finds a feature path, None if there is none."""
        stem = path.split(".npy")[0]
        number = stem.rsplit("_", 1)[-1]
        if number.isdecimal() and (key := str(int(number)).encode()) in self.keys:
            return key
        key = stem.encode()
        return key if key in self.keys else None

    def holds(self, key: bytes) -> bool:
        """Whether a value stands under ``key`` (the list of keys may promise more than there is)."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            return cursor.set_key(key)

    def read(self, key: bytes) -> Any:
        """The value of ``key``, unpickled through the allow-list.

        Raises:
            DataError: there is none or it is broken.
            UnsafePickleError: it asks for something outside the allow-list.
        """
        name = f"{self.path}, key {key.decode(errors='replace')}"
        with self._environment.begin(buffers=True) as transaction:
            packed = transaction.get(key)
            if packed is None:
                raise DataError(f"{name}: there is no such entry")
            return safe_loads(packed, name)

    def close(self) -> None:
        """Close the database; it cannot be read afterwards."""
        self._environment.close()

    def __enter__(self) -> FeatureDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def value_problem(value: Any, has_boxes: bool) -> str | None:
    """What is wrong with the value of a feature database, None if nothing.

    Args:
        value: as read.
        has_boxes: boxes are read from the value. It may lack them altogether, which makes them zero; the boxes of
            OCR regions come with the records.
    """
    if not isinstance(value, dict):
        return f"holds {type(value).__name__} instead of a dict"
    if "features" not in value:
        return "has no features"
    features = value["features"]
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        return "its features are no table of floating point numbers (regions x width)"
    if not np.isfinite(features).all():
        return "its features hold values that are not finite"
    return boxes_problem(value, len(features)) if has_boxes and "bbox" in value else None


def boxes_problem(value: Mapping[str, Any], regions: int) -> str | None:
    """What is wrong with ``bbox`` of a feature value and the image size that it is divided by, None if nothing.

    Args:
        value: has ``bbox``.
        regions: how many boxes there must be.
    """
    missing = [name for name in SIZE_KEYS if not _is_positive(value.get(name))]
    if missing:
        return f"has bbox and no {', '.join(missing)} above 0"
    try:
        boxes = np.asarray(value["bbox"], dtype=np.float32)
    except (TypeError, ValueError):
        return "its bbox is no table of numbers"
    if boxes.shape != (regions, 4):
        shape = " x ".join(map(str, boxes.shape))
        return f"its bbox has shape {shape} instead of {regions} x 4, four numbers for each region"
    return None


def _is_positive(value: Any) -> bool:
    try:
        return float(value) > 0
    except (TypeError, ValueError):
        return False


def open_lmdb(path: str | os.PathLike[str]) -> lmdb.Environment:
    """Open an LMDB for reading, without lock file.

    A file cut short is refused here: LMDB maps it into memory, and touching a page that is not there would
    end the process with a bus error.

    Raises:
        DataError: it is missing, no LMDB, or truncated.
    """
    path = Path(path)
    file = path / "data.mdb" if path.is_dir() else path
    if not file.exists():
        raise DataError(f"{path}: there is no such feature database")
    try:
        environment = lmdb.open(
            str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False
        )
    except (lmdb.Error, OSError) as error:
        raise DataError(f"{path}: is no LMDB database or is truncated ({error})") from None
    pages = environment.info()["last_pgno"] + 1
    size, page_size = file.stat().st_size, environment.stat()["psize"]
    # The last pages of a large database may be free ones that were never written.
    unwritten = min(64, pages // 100)
    if size < (pages - unwritten) * page_size:
        environment.close()
        raise DataError(f"{path}: is truncated: {size} bytes instead of {pages * page_size}; fetch it again")
    return environment
