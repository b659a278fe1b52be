"""Region features of a record, through MMF's own readers but without running code in the files."""

from __future__ import annotations

import os
from typing import Any

import lmdb
import mmf.datasets.databases.readers.feature_readers as feature_readers
import numpy as np
import torch
from mmf.datasets.databases.readers.feature_readers import (
    FeatureReader,
    LMDBFeatureReader,
    PaddedFasterRCNNFeatureReader,
)

from mmclvqa.clove.coercion import warn_once
from mmclvqa.clove.errors import DataError, UnsafePickleError
from mmclvqa.clove.features import boxes_problem, feature_path, open_lmdb
from mmclvqa.clove.pickles import safe_loads, safe_numpy_load

REOPEN_AFTER_BYTES = 256 * 2**20
"""Features read before a database is reopened: its mapped pages count as this process's memory."""


class _AllowListPickle:
    """What MMF's reader calls ``pickle``: values of foreign databases go through the allow-list."""

    loads = staticmethod(safe_loads)


feature_readers.pickle = _AllowListPickle


class SharedDatabase:
    """The one open environment that a process may have of a database (lmdb allows no second one).

    Looks like an ``lmdb.Environment`` to MMF's reader. A forked data loading process goes on with the
    parent's (read-only and without lock) until it reopens it for itself.

    Args:
        path: the database.
    """

    _open: dict[str, SharedDatabase] = {}

    def __init__(self, path: str) -> None:
        self._path = path
        self._environment = open_lmdb(path)
        self._read_bytes = 0

    @classmethod
    def at(cls, path: str) -> SharedDatabase:
        """The process's environment of ``path``, opened on first use."""
        path = os.path.realpath(path)
        if path not in cls._open:
            cls._open[path] = cls(path)
        return cls._open[path]

    def begin(self, write: bool = False, buffers: bool = False) -> lmdb.Transaction:
        """Start a read transaction; after a while on a fresh mapping, so that memory stays flat."""
        if self._read_bytes > REOPEN_AFTER_BYTES:
            self._environment.close()
            self._environment = open_lmdb(self._path)
            self._read_bytes = 0
        return self._environment.begin(write=write, buffers=buffers)

    def count(self, read_bytes: int) -> None:
        """Note that so many bytes of the mapping were touched."""
        self._read_bytes += read_bytes


class CloveLMDBReader(LMDBFeatureReader):
    """MMF's LMDB reader with clear errors, a shared environment and bounded memory."""

    def __init__(self, max_features: int, path: str) -> None:
        if not os.path.exists(path):
            raise DataError(f"feature database {path} does not exist")
        super().__init__(max_features, path)

    def _init_db(self) -> None:
        try:
            self.env = SharedDatabase.at(self.db_path)
            with self.env.begin(buffers=True) as transaction:
                self.image_ids = safe_loads(transaction.get(b"keys"), self.db_path)
        except (lmdb.Error, TypeError, OSError) as error:
            raise DataError(f"feature database {self.db_path} is damaged or no LMDB: {error}") from None
        self.image_id_indices = {image_id: index for index, image_id in enumerate(self.image_ids)}

    def _load(self, image_file_path: str) -> dict[str, Any]:
        name = os.path.relpath(image_file_path, self.db_path)
        try:
            info = dict(super()._load(image_file_path))
        except KeyError:
            raise DataError(f"feature database {self.db_path} has no entry for {name!r}") from None
        except UnsafePickleError as error:
            raise UnsafePickleError(f"feature database {self.db_path}, entry {name!r}: {error}") from None
        except (lmdb.Error, TypeError) as error:
            raise DataError(f"feature database {self.db_path}, entry {name!r}: {error}") from None
        self.env.count(info["features"].nbytes)
        return info


class CloveFolderReader(PaddedFasterRCNNFeatureReader):
    """MMF's reader of one ``.npy`` file per image (and ``<name>_info.npy`` beside it)."""

    def _load(self, image_feat_path: str) -> dict[str, Any]:
        info: dict[str, Any] = {"features": safe_numpy_load(image_feat_path)}
        info_path = f"{image_feat_path.removesuffix('.npy')}_info.npy"
        if os.path.exists(info_path):
            info.update(safe_numpy_load(info_path).item())
        return info


class CloveFeatureReader(FeatureReader):
    """MMF's FeatureReader that chooses between the two readers above."""

    def __init__(self, path: str, max_features: int) -> None:
        super().__init__(base_path=path, depth_first=False, max_features=max_features)
        is_database = path.endswith(".lmdb")
        self.feat_reader = (CloveLMDBReader if is_database else CloveFolderReader)(
            *((max_features, path) if is_database else (max_features,))
        )


class FeatureStore:
    """Object and OCR region features by record.

    Args:
        features_dir: folder of the databases.
        databases: for each image source (``gqa``, ``textvqa``) a comma list of databases or folders;
            the second one, where there is one, holds OCR regions.
        max_features: regions kept per image (R).
        feature_dim: width of a region's feature (D).
    """

    def __init__(self, features_dir: str, databases: dict[str, str], max_features: int, feature_dim: int) -> None:
        self.max_features = max_features
        self.feature_dim = feature_dim
        self._paths = {
            source: [os.path.join(features_dir, path) for path in paths.split(",")]
            for source, paths in databases.items()
        }
        self._readers: dict[str, list[CloveFeatureReader]] = {}
        # Shared memory, so that one of several data loading processes warns, not each.
        self._without_boxes = torch.zeros(1, dtype=torch.int64).share_memory_()

    def open(self, source: str) -> list[CloveFeatureReader]:
        """The readers of a source, made on first use.

        Raises:
            DataError: a database does not exist.
        """
        if source not in self._readers:
            self._readers[source] = [CloveFeatureReader(path, self.max_features) for path in self._paths[source]]
        return self._readers[source]

    def nothing(self) -> torch.Tensor:
        """R x D zeros that take no memory (one value, seen R x D times)."""
        return torch.zeros(1, 1).expand(self.max_features, self.feature_dim)

    def read(self, record: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Features of a record's image.

        Returns:
            ``objects`` float32 (R, D) zero-padded; ``num_objects`` int64 (); ``boxes`` float32 (R, 4),
            corners divided by image width and height; ``ocr`` float32 (R, D), zeros where the source
            has no OCR database.

        Features without ``bbox`` get zero boxes, as in the published reader.

        Raises:
            DataError: no entry, or one of another width or with boxes that are not n x 4; names the record.
        """
        path = feature_path(record)
        if not path:
            raise DataError(f"record {record['question_id']} has no feature_path")
        try:
            readers = self.open(image_source(record))
            objects, info = readers[0].read(path)
            boxes = self._normalised_boxes(info, readers[0].base_path, path)
            ocr = readers[1].read(path)[0] if len(readers) > 1 else self.nothing()
        except DataError as error:
            raise DataError(f"{error} (question {record['question_id']})") from None
        for name, features in (("object", objects), ("OCR", ocr)):
            if features.shape[1] != self.feature_dim:
                raise DataError(
                    f"{name} features of {path!r} are {features.shape[1]} wide, but "
                    f"dataset_config.clvqa.feature_dim is {self.feature_dim} (question {record['question_id']})"
                )
        num_objects = info["max_features"].clamp(max=self.max_features)
        return {"objects": objects, "num_objects": num_objects, "boxes": boxes, "ocr": ocr}

    def _normalised_boxes(self, info: dict[str, Any], database: str, path: str) -> torch.Tensor:
        boxes = np.zeros((self.max_features, 4), dtype=np.float32)
        if "bbox" not in info:
            self._warn_of_no_boxes(database, path)
            return torch.from_numpy(boxes)
        problem = boxes_problem(info, int(info["max_features"]))
        if problem:
            raise DataError(f"features of {path!r} in {database}: {problem}")
        width, height = float(info["image_width"]), float(info["image_height"])
        found = np.asarray(info["bbox"], dtype=np.float32)[: self.max_features]
        boxes[: len(found)] = found / np.array([width, height, width, height], dtype=np.float32)
        return torch.from_numpy(boxes)

    def _warn_of_no_boxes(self, database: str, path: str) -> None:
        self._without_boxes += 1
        if int(self._without_boxes) == 1:
            message = f"{database}: features without bbox get zero boxes (first: {path!r})"
            warn_once(database, "bbox is absent", f"{message}; `python -m mmclvqa.clove check` counts them")


def image_source(record: dict[str, Any]) -> str:
    """Which databases hold a record's image: ``textvqa`` or ``gqa``."""
    return "textvqa" if record["image_source"] == "textvqa" else "gqa"
