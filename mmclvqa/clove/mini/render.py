"""Region features and boxes of a scene, as a detector's fc6 layer would give them: non-negative float32.

A region's feature is the sum of the codewords of what it shows (category, class, attributes), which are
sparse and non-negative, plus half-normal noise. Codewords depend on the seed and the width alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmclvqa.clove.mini.draws import named_generator
from mmclvqa.clove.mini.scenes import Box, Scene
from mmclvqa.clove.mini.vocabulary import ATTRIBUTE_KIND, CATEGORIES, CLASSES, PLACES, SURFACES

BACKGROUND, TEXT = "background", "text"
REGION_CLASSES: tuple[str, ...] = (*CLASSES, *PLACES, *SURFACES, BACKGROUND, TEXT)
"""What a region's number in ``objects`` stands for."""

NOISE = 0.05
"""Standard deviation of the noise on each component, before its absolute value is taken."""
SPARSITY = 8
"""A codeword is non-zero in one component out of this many."""
BACKGROUND_SHARE = 0.3
"""Share of the regions beyond one for each thing that show background; the others show a thing again."""


@dataclass(frozen=True)
class Codebook:
    """The codewords of one world.

    Attributes:
        seed: the world's seed.
        width: features per region.
    """

    seed: int
    width: int

    @cached_property
    def codes(self) -> dict[str, np.ndarray]:
        """Word -> codeword of length 1: ``width`` non-negative float32."""
        words = (*CATEGORIES, *ATTRIBUTE_KIND, *REGION_CLASSES)
        return {word: self._code(word) for word in words}

    def _code(self, word: str) -> np.ndarray:
        rng = named_generator(self.seed, "codeword", self.width, word)
        code = np.zeros(self.width, dtype=np.float32)
        active = rng.choice(self.width, max(2, self.width // SPARSITY), replace=False)
        code[active] = rng.uniform(0.5, 1.0, active.size)
        return code / np.linalg.norm(code)


def render_objects(scene: Scene, codebook: Codebook, max_regions: int) -> dict[str, np.ndarray | int]:
    """The object regions of a scene as an entry of MMF's feature database.

    Args:
        scene: the picture.
        codebook: the world's codewords.
        max_regions: most regions a picture has; each has between half and five sixths of that, but never
            fewer than it needs to show everything once.

    Returns:
        ``features`` n×width float32, ``bbox`` n×4 float32 in pixels, ``num_boxes``, ``image_width``,
        ``image_height``, and ``objects`` n int64, indices into :data:`REGION_CLASSES`.
    """
    rng = named_generator(codebook.seed, "objects", scene.image_id)
    shown: list[tuple[str, tuple[str, ...], Box]] = [(scene.place, (), (0.0, 0.0, 1.0, 1.0))]
    shown += [(thing.name, (thing.category, thing.value), thing.box) for thing in scene.things]
    shown += [(surface.name, (surface.color,), surface.box) for surface in scene.surfaces]
    count = max(len(shown), int(rng.integers(max_regions // 2, max_regions * 5 // 6 + 1)))
    once = len(shown)
    while len(shown) < count:
        if rng.random() < BACKGROUND_SHARE:
            left, top, width, height = (
                float(side) for side in (*rng.uniform(0, 0.6, 2), *rng.uniform(0.2, 0.4, 2))
            )
            shown.append((BACKGROUND, (), (left, top, left + width, top + height)))
        else:
            name, words, box = shown[rng.integers(1, once)]
            shown.append((name, words, _shifted(box, rng)))
    order = rng.permutation(len(shown))
    return _entry(scene, [shown[index] for index in order], codebook, rng)


def render_words(scene: Scene, codebook: Codebook) -> dict[str, np.ndarray | int]:
    """The OCR regions of a scene, one per surface in order: the look of the surface behind the word.

    Returns: as :func:`render_objects`.
    """
    rng = named_generator(codebook.seed, "words", scene.image_id)
    shown = [(TEXT, (surface.name, surface.color), surface.word_box) for surface in scene.surfaces]
    return _entry(scene, shown, codebook, rng)


def _shifted(box: Box, rng: np.random.Generator) -> Box:
    x, y = (float(shift) for shift in rng.uniform(-0.01, 0.01, 2))
    return (box[0] + x, box[1] + y, box[2] + x, box[3] + y)


def _entry(
    scene: Scene,
    shown: list[tuple[str, tuple[str, ...], Box]],
    codebook: Codebook,
    rng: np.random.Generator,
) -> dict[str, np.ndarray | int]:
    codes = codebook.codes
    noise = rng.standard_normal((len(shown), codebook.width), dtype=np.float32) * np.float32(NOISE)
    features = np.abs(noise)
    for row, (name, words, _) in enumerate(shown):
        for word in words if name == TEXT else (name, *words):
            features[row] += codes[word]
    width, height = scene.size
    boxes = np.array([box for _, _, box in shown], dtype=np.float32).reshape(-1, 4).clip(0.0, 1.0)
    return {
        "features": features,
        "bbox": boxes * np.array([width, height, width, height], dtype=np.float32),
        "num_boxes": len(shown),
        "image_width": width,
        "image_height": height,
        "objects": np.array([REGION_CLASSES.index(name) for name, _, _ in shown], dtype=np.int64),
    }
