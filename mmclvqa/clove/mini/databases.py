"""Writing feature databases in MMF's LMDB format, a picture at a time; equal input gives equal bytes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
from tqdm import tqdm

from mmclvqa.clove.features import KEY_LIST

PICTURES_PER_COMMIT = 256
PICKLE_PROTOCOL = 4


def write_database(
    path: Path, keys: Sequence[str], render: Callable[[int], Mapping[str, Any]], entry_bytes: int
) -> None:
    """Write one database, rendering one picture at a time, so that memory does not grow with their number.

    Args:
        path: the ``.lmdb`` folder to make.
        keys: key of each picture: its feature path without extension.
        render: gives the entry of the picture at a position of ``keys``.
        entry_bytes: largest size of a pickled entry; it sets the size of the memory map.

    Raises:
        lmdb.Error: the disk is full or the folder cannot be written.
    """
    path.mkdir(parents=True)
    # Without a lock file and with the map size set by the input alone, the folder is one reproducible file.
    map_size = (len(keys) + 64) * (entry_bytes + 16384)
    order = sorted(range(len(keys)), key=lambda index: keys[index].encode())
    environment = lmdb.open(str(path), map_size=map_size, lock=False, sync=False)
    try:
        for start in tqdm(
            range(0, len(order), PICTURES_PER_COMMIT), desc=path.name, disable=None, leave=False
        ):
            with environment.begin(write=True) as transaction:
                for index in order[start : start + PICTURES_PER_COMMIT]:
                    entry = pickle.dumps(dict(render(index)), protocol=PICKLE_PROTOCOL)
                    transaction.put(keys[index].encode(), entry)
        with environment.begin(write=True) as transaction:
            listed = [keys[index].encode() for index in order]
            transaction.put(KEY_LIST, pickle.dumps(listed, protocol=PICKLE_PROTOCOL))
        environment.sync(True)
    finally:
        environment.close()
