"""Region features of records, read by MMF's readers without running code in the files."""

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

from mmclvqa.clove.errors import DataError, UnsafePickleError
from mmclvqa.clove.features import boxes_problem, feature_path, open_lmdb
from mmclvqa.clove.files import safe_loads, safe_numpy_load
from mmclvqa.clove.records import warn_once

REOPEN_AFTER_BYTES = 256 * 2**20
"""Bytes read before a database is reopened, because its mapped pages count as memory of this process."""


class _AllowListPickle:
    """Replaces ``pickle`` in MMF's reader, so that values of databases are loaded through the allow-list."""

    loads = staticmethod(safe_loads)


feature_readers.pickle = _AllowListPickle


class SharedDatabase:
    """The environment of a database, shared within a process because lmdb allows only one per database and process.

    It has the interface of ``lmdb.Environment`` that MMF's reader uses. A forked data loading worker uses the parent's
    environment (read-only, without lock) until it opens its own.

    Args:
        path: path of the database.
    """

    _open: dict[str, SharedDatabase] = {}

    def __init__(self, path: str) -> None:
        self._path = path
        self._environment = open_lmdb(path)
        self._read_bytes = 0

    @classmethod
    def at(cls, path: str) -> SharedDatabase:
        """Return this process's environment of ``path``, which is opened on first use."""
        path = os.path.realpath(path)
        if path not in cls._open:
            cls._open[path] = cls(path)
        return cls._open[path]

    def begin(self, write: bool = False, buffers: bool = False) -> lmdb.Transaction:
        """Start a read transaction; the database is reopened from time to time so that memory does not grow."""
        if self._read_bytes > REOPEN_AFTER_BYTES:
            self._environment.close()
            self._environment = open_lmdb(self._path)
            self._read_bytes = 0
        return self._environment.begin(write=write, buffers=buffers)

    def count(self, read_bytes: int) -> None:
        """Add to the number of bytes that were read since the database was opened."""
        self._read_bytes += read_bytes


class CloveLMDBReader(LMDBFeatureReader):
    """MMF's LMDB reader with one-line errors, a shared environment and bounded memory."""

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
            raise DataError(f"feature database {self.db_path} is damaged or is not an LMDB database: {error}") from None
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
    """MMF's reader of folders with one ``.npy`` file (and ``<name>_info.npy``) per image."""

    def _load(self, image_feat_path: str) -> dict[str, Any]:
        info: dict[str, Any] = {"features": safe_numpy_load(image_feat_path)}
        info_path = f"{image_feat_path.removesuffix('.npy')}_info.npy"
        if os.path.exists(info_path):
            info.update(safe_numpy_load(info_path).item())
        return info


class CloveFeatureReader(FeatureReader):
    """MMF's FeatureReader, which uses one of the two readers above."""

    def __init__(self, path: str, max_features: int) -> None:
        super().__init__(base_path=path, depth_first=False, max_features=max_features)
        is_database = path.endswith(".lmdb")
        self.feat_reader = (CloveLMDBReader if is_database else CloveFolderReader)(
            *((max_features, path) if is_database else (max_features,))
        )


class FeatureStore:
    """The object and OCR region features of records.

    Args:
        features_dir: folder of the databases.
        databases: for each image source a comma-separated list of databases or folders; the second one, if present,
            holds OCR regions. The first source is that of records whose ``image_source`` is none of these.
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
        self._readers: dict[str, list[CloveFeatureReader]] = {}
        # In shared memory, so that only one of several data loading workers warns.
        self._without_boxes = torch.zeros(1, dtype=torch.int64).share_memory_()

    def open(self, source: str) -> list[CloveFeatureReader]:
        """Return the readers of a source, which are created on first use.

        Raises:
            DataError: a database does not exist.
        """
        if source not in self._readers:
            self._readers[source] = [CloveFeatureReader(path, self.max_features) for path in self._paths[source]]
        return self._readers[source]

    def source(self, record: dict[str, Any]) -> str:
        """Return the source of a record's image."""
        source = record["image_source"]
        return source if source in self._paths else next(iter(self._paths))

    def nothing(self) -> torch.Tensor:
        """Return zeros of shape (R, D) that take the memory of a single value."""
        return torch.zeros(1, 1).expand(self.max_features, self.feature_dim)

    def read(self, record: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the features of a record's image.

        Features without ``bbox`` get zero boxes, as in the published reader.

        Returns:
            ``objects`` float32 (R, D), zero-padded; ``num_objects`` int64 (); ``boxes`` float32 (R, 4), corners divided
            by image width and height; ``ocr`` float32 (R, D), zeros if the source has no OCR database.

        Raises:
            DataError: the image has no entry, or one with another width or with boxes that are not n x 4; the message
                names the record.
        """
        path = feature_path(record)
        if not path:
            raise DataError(f"record {record['question_id']} has no feature_path")
        try:
            readers = self.open(self.source(record))
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
        corners = np.asarray(info["bbox"], dtype=np.float32)[: self.max_features]
        boxes[: len(corners)] = corners / np.array([width, height, width, height], dtype=np.float32)
        return torch.from_numpy(boxes)

    def _warn_of_no_boxes(self, database: str, path: str) -> None:
        self._without_boxes += 1
        if int(self._without_boxes) == 1:
            message = f"{database}: features without bbox get zero boxes (first: {path!r})"
            warn_once(database, "bbox is absent", f"{message}; `python -m mmclvqa.clove check` counts them")
