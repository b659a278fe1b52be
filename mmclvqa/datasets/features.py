"""Region features of records, read without running code in the files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.features import boxes_problem, feature_path, shared_database
from mmclvqa.clove.files import safe_numpy_load
from mmclvqa.clove.records import warn_once

KEEP_BYTES = 256 * 2**20
"""The features of databases of at most this total size stay in memory once they are read."""


class ImageFeatures(NamedTuple):
    """The region features of an image.

    Attributes:
        objects: n x D, floating point, features of the n object regions; n is at most the maximum number of regions.
        boxes: float32 (n, 4), corners divided by image width and height; zeros if the database has no boxes.
        ocr: m x D, floating point, features of the m OCR regions; None if the source has no OCR database.
    """

    objects: np.ndarray
    boxes: np.ndarray
    ocr: np.ndarray | None


class _Database:
    """An LMDB."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._database = shared_database(path)

    def read(self, path: str) -> dict[str, Any]:
        key = self._database.key(path)
        if key is None:
            raise DataError(f"feature database {self.path} has no entry for {path!r}")
        return _as_dict(self._database.read(key), f"feature database {self.path}, entry {path!r}")


class _Folder:
    """A folder with one ``.npy`` file (and ``<name>_info.npy``) per image, in the formats that MMF reads."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self, path: str) -> dict[str, Any]:
        file = os.path.join(self.path, path)
        value: dict[str, Any] = {"features": safe_numpy_load(file)}
        info_file = f"{file.removesuffix('.npy')}_info.npy"
        if os.path.exists(info_file):
            value |= _as_dict(safe_numpy_load(info_file), info_file)
        if value["features"].dtype == object and value["features"].size == 1:
            item = _as_dict(value["features"], file)
            features = next((item[name] for name in ("features", "image_feat", "feature") if name in item), None)
            value |= {**item, **item.get("info", {}), "features": features}
        return value


def _as_dict(value: Any, where: str) -> dict[str, Any]:
    """Return a dict, which may be the only element of an array."""
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if not isinstance(value, dict):
        raise DataError(f"{where}: is {type(value).__name__} instead of a dict")
    return value


class FeatureStore:
    """The object and OCR region features of records.

    Args:
        features_dir: folder of the databases.
        databases: for each image source a comma-separated list of databases (``.lmdb``) or folders; the second one,
            if present, contains OCR regions. Records whose ``image_source`` is none of these use the first.
        max_features: maximum number of regions per image (R).
        feature_dim: width of a region feature (D).
    """

    def __init__(self, features_dir: str, databases: dict[str, str], max_features: int, feature_dim: int) -> None:
        self.max_features = max_features
        self.feature_dim = feature_dim
        self._paths = {
            source: [os.path.join(features_dir, path) for path in paths.split(",")]
            for source, paths in databases.items()
        }
        self._open: dict[str, list[_Database | _Folder]] = {}
        self._kept: dict[tuple[str, str], ImageFeatures] = {}
        self._keep = False

    def open(self, source: str) -> list[_Database | _Folder]:
        """Return the databases of a source, which are opened on first use.

        Raises:
            DataError: a database does not exist or is damaged.
        """
        if source not in self._open:
            paths = self._paths[source]
            for path in paths:
                if not os.path.exists(path):
                    raise DataError(f"feature database {path} does not exist")
            self._open[source] = [_Database(path) if path.endswith(".lmdb") else _Folder(path) for path in paths]
            self._keep = self._is_small()
        return self._open[source]

    def source(self, record: Mapping[str, Any]) -> str:
        """Return the source of a record's image, which determines the databases."""
        source = record["image_source"]
        return source if source in self._paths else next(iter(self._paths))

    def read(self, record: Mapping[str, Any]) -> ImageFeatures:
        """Return the features of a record's image, of which at most ``max_features`` regions are kept.

        Features without ``bbox`` get zero boxes, as in the published reader.

        Raises:
            DataError: the image has no entry, or one with another width or with boxes that are not n x 4; the message
                names the record.
            UnsafePickleError: the entry refers to an object outside the allow-list.
        """
        path = feature_path(record)
        if not path:
            raise DataError(f"record {record['question_id']} has no feature_path")
        source = self.source(record)
        if (source, path) in self._kept:
            return self._kept[source, path]
        try:
            databases = self.open(source)
            value = databases[0].read(path)
            objects = self._regions(value, path, "object")
            boxes = self._boxes(value, databases[0].path, path)
            ocr = self._regions(databases[1].read(path), path, "OCR") if len(databases) > 1 else None
        except CloveError as error:
            raise type(error)(f"{error} (question {record['question_id']})") from None
        features = ImageFeatures(objects, boxes, ocr)
        if self._keep:
            self._kept[source, path] = features
        return features

    def _is_small(self) -> bool:
        """Return whether all open databases together have at most ``KEEP_BYTES``."""
        paths = (Path(database.path) for opened in self._open.values() for database in opened)
        files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
        # A folder may have a hundred thousand files, so counting ends at the limit.
        return all(total <= KEEP_BYTES for total in accumulate(file.stat().st_size for file in files))

    def _regions(self, value: Mapping[str, Any], path: str, kind: str) -> np.ndarray:
        regions = np.asarray(value.get("features"))
        if regions.ndim < 2:
            raise DataError(f"{kind} features of {path!r} are not a table of numbers")
        regions = regions.reshape(-1, regions.shape[-1])
        if regions.shape[1] != self.feature_dim:
            raise DataError(
                f"{kind} features of {path!r} are {regions.shape[1]} wide, but "
                f"dataset_config.clvqa.feature_dim is {self.feature_dim}"
            )
        return regions[: self.max_features]

    def _boxes(self, value: Mapping[str, Any], database: str, path: str) -> np.ndarray:
        regions = int(np.prod(np.shape(value["features"])[:-1]))
        if "bbox" not in value:
            message = f"{database}: features without bbox get zero boxes (first: {path!r})"
            warn_once(database, "bbox is absent", f"{message}; `python -m mmclvqa.clove check` counts them")
            return np.zeros((min(regions, self.max_features), 4), dtype=np.float32)
        problem = boxes_problem(value, regions)
        if problem:
            raise DataError(f"features of {path!r} in {database}: {problem}")
        width, height = float(value["image_width"]), float(value["image_height"])
        corners = np.asarray(value["bbox"], dtype=np.float32)[: self.max_features]
        return corners / np.array([width, height, width, height], dtype=np.float32)
