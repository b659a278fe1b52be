"""Region features of clove-mini, in MMF's LMDB format.

Features have the form of a detector's fc6 layer: non-negative float32. The feature of a region is the sum of the
codewords of its contents (category, class, attribute), which are sparse and non-negative, plus half-normal noise.
Codewords depend only on the seed and the width.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import numpy as np
from tqdm import tqdm

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.features import KEY_LIST
from mmclvqa.mini.scenes import Box, Scene, named_generator
from mmclvqa.mini.vocabulary import ATTRIBUTE_KIND, CATEGORIES, CLASSES, PLACES, SURFACES

BACKGROUND, TEXT = "background", "text"
REGION_CLASSES: tuple[str, ...] = (*CLASSES, *PLACES, *SURFACES, BACKGROUND, TEXT)
"""Names of the class indices in ``objects``."""

NOISE = 0.05
"""Standard deviation of the noise of each component before taking the absolute value."""
SPARSITY = 8
"""One in this many components of a codeword is non-zero."""
BACKGROUND_SHARE = 0.3
"""Fraction of background among the additional regions; the others repeat an object."""
IMAGES_PER_COMMIT = 256
PICKLE_PROTOCOL = 4

Image = TypeVar("Image")


@dataclass(frozen=True)
class Codebook:
    """The codewords of one data set, for region features of ``width`` numbers."""

    seed: int
    width: int

    @cached_property
    def codes(self) -> dict[str, np.ndarray]:
        """Word -> codeword: ``width`` non-negative float32 values of norm 1."""
        codes = {}
        for word in (*CATEGORIES, *ATTRIBUTE_KIND, *REGION_CLASSES):
            rng = named_generator(self.seed, "codeword", self.width, word)
            code = np.zeros(self.width, dtype=np.float32)
            active = rng.choice(self.width, max(2, self.width // SPARSITY), replace=False)
            code[active] = rng.uniform(0.5, 1.0, active.size)
            codes[word] = code / np.linalg.norm(code)
        return codes


def render_objects(scene: Scene, codebook: Codebook, max_regions: int) -> dict[str, np.ndarray | int]:
    """Render the object regions of a scene as an entry of MMF's feature database.

    Args:
        max_regions: maximum number of regions; an image has between one half and five sixths of it, but at least one
            region for each object and surface.

    Returns:
        ``features`` n x width float32, ``bbox`` n x 4 float32 in pixels, ``num_boxes``, ``image_width``,
        ``image_height``, and ``objects`` n int64, indices into :data:`REGION_CLASSES`.
    """
    rng = named_generator(codebook.seed, "objects", scene.image_id)
    regions: list[tuple[str, tuple[str, ...], Box]] = [(scene.place, (), (0.0, 0.0, 1.0, 1.0))]
    regions += [(thing.name, (thing.category, thing.value), thing.box) for thing in scene.things]
    regions += [(surface.name, (surface.color,), surface.box) for surface in scene.surfaces]
    count = max(len(regions), int(rng.integers(max_regions // 2, max_regions * 5 // 6 + 1)))
    num_distinct = len(regions)
    while len(regions) < count:
        if rng.random() < BACKGROUND_SHARE:
            left, top, width, height = (float(side) for side in (*rng.uniform(0, 0.6, 2), *rng.uniform(0.2, 0.4, 2)))
            regions.append((BACKGROUND, (), (left, top, left + width, top + height)))
        else:
            name, words, box = regions[rng.integers(1, num_distinct)]
            x, y = (float(shift) for shift in rng.uniform(-0.01, 0.01, 2))
            regions.append((name, words, (box[0] + x, box[1] + y, box[2] + x, box[3] + y)))
    order = rng.permutation(len(regions))
    return _entry(scene, [regions[index] for index in order], codebook, rng)


def render_words(scene: Scene, codebook: Codebook) -> dict[str, np.ndarray | int]:
    """Render the OCR regions of a scene, one per surface in order: the appearance of the surface behind the word.

    Returns: as :func:`render_objects`.
    """
    rng = named_generator(codebook.seed, "words", scene.image_id)
    regions = [(TEXT, (surface.name, surface.color), surface.word_box) for surface in scene.surfaces]
    return _entry(scene, regions, codebook, rng)


def _entry(
    scene: Scene, regions: list[tuple[str, tuple[str, ...], Box]], codebook: Codebook, rng: np.random.Generator
) -> dict[str, np.ndarray | int]:
    codes = codebook.codes
    noise = rng.standard_normal((len(regions), codebook.width), dtype=np.float32) * np.float32(NOISE)
    features = np.abs(noise)
    for row, (name, words, _) in enumerate(regions):
        for word in words if name == TEXT else (name, *words):
            features[row] += codes[word]
    width, height = scene.size
    boxes = np.array([box for _, _, box in regions], dtype=np.float32).reshape(-1, 4).clip(0.0, 1.0)
    return {
        "features": features,
        "bbox": boxes * np.array([width, height, width, height], dtype=np.float32),
        "num_boxes": len(regions),
        "image_width": width,
        "image_height": height,
        "objects": np.array([REGION_CLASSES.index(name) for name, _, _ in regions], dtype=np.int64),
    }


def write_database(
    path: Path, scenes: Mapping[str, Image], render: Callable[[Image], Mapping[str, Any]], entry_bytes: int
) -> None:
    """Write a feature database, rendering one image at a time so that memory does not grow with their number.

    Equal input gives equal bytes.

    Args:
        scenes: scenes, or images of another kind, by key, which is the feature path without extension.
        entry_bytes: maximum size of a pickled entry, from which the size of the memory map is computed.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    path.mkdir(parents=True)
    # Without a lock file and with a map size that depends on the input only, the database is one reproducible file.
    map_size = (len(scenes) + 64) * (entry_bytes + 16384)
    keys = sorted(scenes, key=str.encode)
    try:
        with lmdb.open(str(path), map_size=map_size, lock=False, sync=False) as environment:
            for start in tqdm(range(0, len(keys), IMAGES_PER_COMMIT), desc=path.name, disable=None, leave=False):
                with environment.begin(write=True) as transaction:
                    for key in keys[start : start + IMAGES_PER_COMMIT]:
                        entry = pickle.dumps(dict(render(scenes[key])), protocol=PICKLE_PROTOCOL)
                        transaction.put(key.encode(), entry)
            with environment.begin(write=True) as transaction:
                transaction.put(KEY_LIST, pickle.dumps([key.encode() for key in keys], protocol=PICKLE_PROTOCOL))
            environment.sync(True)
    except lmdb.Error as error:
        raise DataError(f"{path}: cannot be written ({error})") from None
