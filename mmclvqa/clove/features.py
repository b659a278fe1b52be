"""Region features in MMF's LMDB format, read without executing pickled code.

The key of an entry is the feature path without ``.npy``; its value is a pickled dict with ``features`` (n x width),
``bbox`` (n x 4), ``num_boxes``, ``image_width`` and ``image_height``. The entry ``keys`` is the pickled list of keys.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import numpy as np

from mmclvqa.clove.data_root import FEATURES
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import safe_loads
from mmclvqa.clove.settings import ImageSource
from mmclvqa.clove.tasks import IMAGE_SOURCES

KEY_LIST = b"keys"

REOPEN_AFTER_BYTES = 256 * 2**20
"""Number of bytes read before a database is reopened, because its mapped pages count as memory of the process."""


def databases(image_source: str | None) -> tuple[str, ...]:
    """Return the feature databases of an image source, relative to the data root: of objects, then of OCR tokens."""
    return tuple(f"{FEATURES}/{path}" for path in _source(image_source).features)


def feature_path(record: Mapping[str, Any]) -> str | None:
    """Return the path of a record's features in its databases, with the prefix of its source; None if it has none."""
    path, prefix = record["feature_path"], _source(record["image_source"]).prefix
    return path if path is None or path.startswith(prefix) else prefix + path


def _source(name: str | None) -> ImageSource:
    return IMAGE_SOURCES.get(name) or next(iter(IMAGE_SOURCES.values()))


class FeatureDatabase:
    """A feature database (an ``.lmdb`` folder or file) opened for reading, also by several threads.

    Raises:
        DataError: the database is missing, truncated, not an LMDB, or has no readable list of keys.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._read_bytes = 0
        self._readers = 0
        self._lock = threading.Lock()
        self._environment = open_lmdb(self.path)
        try:
            if not self.holds(KEY_LIST):
                raise DataError(f"{self.path}: has no entry 'keys', which lists its features")
            keys = self.read(KEY_LIST)
            if not isinstance(keys, (list, tuple)) or not all(isinstance(key, bytes) for key in keys):
                raise DataError(f"{self.path}: entry 'keys' is not a list of bytes")
        except BaseException:
            self.close()
            raise
        self.keys: frozenset[bytes] = frozenset(keys)

    def key(self, path: str) -> bytes | None:
        """Return the key under which MMF's reader finds a feature path, None if there is none."""
        stem = path.split(".npy")[0]
        number = stem.rsplit("_", 1)[-1]
        if number.isdecimal() and (key := str(int(number)).encode()) in self.keys:
            return key
        key = stem.encode()
        return key if key in self.keys else None

    def holds(self, key: bytes) -> bool:
        """Return whether ``key`` has a value; a key of the list of keys may have none."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            return cursor.set_key(key)

    def read(self, key: bytes) -> Any:
        """Return the value of ``key``, unpickled with the allow-list.

        Raises:
            DataError: there is no value or it is damaged.
            UnsafePickleError: the value refers to an object outside the allow-list.
        """
        name = f"{self.path}, key {key.decode(errors='replace')}"
        try:
            with self._reading(), self._environment.begin(buffers=True) as transaction:
                pickled_value = transaction.get(key)
                if pickled_value is None:
                    raise DataError(f"{name}: there is no such entry")
                self._read_bytes += len(pickled_value)
                return safe_loads(pickled_value, name)
        except lmdb.Error as error:
            raise DataError(f"{name}: cannot be read ({error}); download or generate the database again") from None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Count a reader; the first one after many bytes reopens the database."""
        with self._lock:
            if self._read_bytes > REOPEN_AFTER_BYTES and not self._readers:
                self.close()
                self._environment = open_lmdb(self.path)
                self._read_bytes = 0
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1

    def close(self) -> None:
        """Close the database."""
        self._environment.close()


_OPEN: WeakValueDictionary[str, FeatureDatabase] = WeakValueDictionary()


def shared_database(path: str | os.PathLike[str]) -> FeatureDatabase:
    """Return the database of a file, shared by its users in this process, because lmdb opens a file once per process.

    It is closed when nothing refers to it. A forked data loading worker uses the parent's environment (read-only,
    without lock) until it is reopened.

    Raises:
        DataError: as :class:`FeatureDatabase`.
    """
    real_path = os.path.realpath(path)
    database = _OPEN.get(real_path)
    if database is None:
        database = _OPEN[real_path] = FeatureDatabase(path)
    return database


def value_problem(value: Any, has_boxes: bool) -> str | None:
    """Return the problem of a value of a feature database, None if it is valid.

    Args:
        has_boxes: whether boxes are read from the value. A value without ``bbox`` has zero boxes; the boxes of OCR
            regions are part of the records.
    """
    if not isinstance(value, dict):
        return f"is {type(value).__name__} instead of a dict"
    if "features" not in value:
        return "has no features"
    features = value["features"]
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        return "its features are not a table of floating-point numbers (regions x width)"
    if not np.isfinite(features).all():
        return "its features contain values that are not finite"
    return boxes_problem(value, len(features)) if has_boxes and "bbox" in value else None


def boxes_problem(value: Mapping[str, Any], regions: int) -> str | None:
    """Return the problem of the boxes or the image size of a feature value with ``regions`` regions, None if valid."""
    missing = [name for name in ("image_width", "image_height") if not _is_positive(value.get(name))]
    if missing:
        return f"has bbox and no {', '.join(missing)} above 0"
    try:
        boxes = np.asarray(value["bbox"], dtype=np.float32)
    except (TypeError, ValueError):
        return "its bbox is not a table of numbers"
    if boxes.shape != (regions, 4):
        shape = " x ".join(map(str, boxes.shape))
        return f"its bbox has shape {shape} instead of {regions} x 4, four numbers for each region"
    return None if np.isfinite(boxes).all() else "its bbox contains values that are not finite"


def _is_positive(value: Any) -> bool:
    try:
        return float(value) > 0
    except (TypeError, ValueError):
        return False


def open_lmdb(path: str | os.PathLike[str]) -> lmdb.Environment:
    """Open an LMDB for reading, without a lock file.

    LMDB maps the file into memory, and access to a missing page of a truncated file would end the process with a bus
    error. Truncated files are therefore rejected here.

    Raises:
        DataError: the database is missing, truncated or not an LMDB.
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
        raise DataError(f"{path}: is not an LMDB database or is truncated ({error})") from None
    pages = environment.info()["last_pgno"] + 1
    size, page_size = file.stat().st_size, environment.stat()["psize"]
    # The last pages of a large database may be free pages that were never written.
    unwritten = min(64, pages // 100)
    if size < (pages - unwritten) * page_size:
        environment.close()
        raise DataError(f"{path}: is truncated: {size} bytes instead of {pages * page_size}; download it again")
    return environment
