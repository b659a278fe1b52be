"""Features and predicted scene graphs of easy-VQA's images, both computed from the pixels alone.

An image is a light background with one shape, which is darker in at least one of red, green and blue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from examples.easy_vqa.language import Facts
from mmclvqa.clove.errors import DataError

GRID = 4
"""A region is averaged over GRID x GRID cells of three colors each."""
FEATURE_DIM = GRID * GRID * 3
PATCHES = 2
"""The image is cut into PATCHES x PATCHES patches; with the shape's own box, they are its regions."""
REGIONS = 1 + PATCHES * PATCHES
DARK = 180
"""A pixel belongs to the shape if one of its colors is below this value; backgrounds are at least 230."""
RGB = {
    "black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128),
    "green": (0, 255, 0), "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0),
}  # fmt: skip
FILLED = ((0.72, "triangle"), (0.935, "circle"), (1.0, "rectangle"))
"""The largest share of its box that a shape fills, and its kind."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


def read_image(path: Path) -> np.ndarray:
    """Return the pixels of an image, height x width x 3, uint8.

    Raises:
        DataError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from None


def shape_mask(pixels: np.ndarray) -> np.ndarray:
    """Return which pixels belong to the shape, height x width, bool."""
    return pixels.min(axis=2) < DARK


def shape_box(mask: np.ndarray) -> Box | None:
    """Return the smallest box around the shape, or None if there is no shape."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def object_features(pixels: np.ndarray) -> dict[str, Any]:
    """Return the regions of an image as an entry of a feature database: the box of the shape, then the patches.

    The feature of a region is the mean darkness of red, green and blue, from 0 to 1, in each cell of a grid. The boxes
    are not stored and are read as zero: a replay has neither features nor boxes, while masking a real record removes
    only its features, so that UniVQA could tell both apart by the boxes.

    Returns:
        ``features``, float32, REGIONS x FEATURE_DIM.
    """
    height, width = pixels.shape[:2]
    rows, columns = ([size * step // PATCHES for step in range(PATCHES + 1)] for size in (height, width))
    boxes = [(columns[x], rows[y], columns[x + 1], rows[y + 1]) for y in range(PATCHES) for x in range(PATCHES)]
    boxes.insert(0, shape_box(shape_mask(pixels)) or (0, 0, width, height))
    return {"features": np.stack([_darkness(pixels, box) for box in boxes])}


def _darkness(pixels: np.ndarray, box: Box) -> np.ndarray:
    crop = Image.fromarray(pixels).resize((GRID, GRID), Image.Resampling.BOX, box)
    return 1 - np.asarray(crop, dtype=np.float32).reshape(-1) / 255


def predict(pixels: np.ndarray) -> Facts:
    """Predict color and kind of the shape by rules: the nearest color, and the share of its box that it fills.

    Nothing is predicted for an image without a shape.
    """
    mask = shape_mask(pixels)
    box = shape_box(mask)
    if box is None:
        return Facts()
    color = np.median(pixels[mask], axis=0)
    left, top, right, bottom = box
    share = mask.sum() / ((right - left) * (bottom - top))
    return Facts(
        color=min(RGB, key=lambda name: float(np.abs(color - RGB[name]).sum())),
        kind=next(kind for most, kind in FILLED if share <= most),
    )
