"""Reading records as tolerantly as the published reader does, and saying what was changed.

Real files spell a box's corner in two ways, number their questions, or leave out what a task does not use. Such a
record is rewritten to the schema of :mod:`mmclvqa.clove.annotations` before it is checked, and each kind of change
is counted. Anything else that departs from the schema stays as it is and is refused by the check.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

#: Below MMF's logger, so that a run's train.log says what was coerced; elsewhere the lines go to stderr.
logger = logging.getLogger("mmf.clove")

IMAGE_SOURCES = ("vg", "textvqa")
"""Where an image comes from: Visual Genome (GQA's features) or TextVQA."""

ABSENT_IS_EMPTY = ("ocr_tokens", "ocr_info", "ocr", "supporting_fact")
"""Lists that a record may leave out. (``ocr_normalized_boxes`` is optional in the schema itself.)"""

CORNER_KEYS = {"topLeftX": "top_left_x", "topLeftY": "top_left_y"}
"""TextVQA's own spelling of a box's corner, and that of the schema."""

Change = tuple[Any, str]
"""The value in place of a field's, and what was changed."""

_NUMBERS = (int, float, np.integer, np.floating)
_said: set[tuple[str, str]] = set()


def _question_id(value: Any) -> Change | None:
    number = _finite_number(value)
    return None if number is None else (str(number), "question_id is a number, read as text")


def _image_id(value: Any) -> Change | None:
    if not isinstance(value, (float, np.floating)) or (number := _finite_number(value)) is None:
        return None  # text and integers are in the schema
    return (number if isinstance(number, int) else str(number)), "image_id is a float, read as a whole number or text"


def _image_source(value: Any) -> Change | None:
    if not isinstance(value, str) or value in IMAGE_SOURCES:
        return None
    return "vg", f"image_source is not {' or '.join(IMAGE_SOURCES)}, read as vg (GQA's features)"


def _mask(value: Any) -> Change | None:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    elif not isinstance(value, (list, tuple)) or set(map(type, value)) <= {int}:
        return None
    # A value other than 0 and 1 is left for the check, which names it.
    values = [int(item) if isinstance(item, (*_NUMBERS, np.bool_)) and item in (0, 1) else item for item in value]
    return values, "gt_scene_graph_mask holds floats or booleans, read as 0 and 1"


def _ocr_info(value: Any) -> Change | None:
    if not isinstance(value, (list, tuple)) or not any(map(_is_respelled, value)):
        return None
    words = [{**word, "bounding_box": _box(word["bounding_box"])} if _is_respelled(word) else word for word in value]
    return words, f"ocr_info has boxes with {', '.join(CORNER_KEYS)}, read as {', '.join(CORNER_KEYS.values())}"


def _is_respelled(word: Any) -> bool:
    box = word.get("bounding_box") if isinstance(word, Mapping) else None
    return isinstance(box, Mapping) and any(old in box and new not in box for old, new in CORNER_KEYS.items())


def _box(box: Mapping[str, Any]) -> dict[str, Any]:
    return {(new if (new := CORNER_KEYS.get(key, key)) not in box else key): side for key, side in box.items()}


_COERCIONS: dict[str, Callable[[Any], Change | None]] = {
    "question_id": _question_id,
    "image_id": _image_id,
    "image_source": _image_source,
    "gt_scene_graph_mask": _mask,
    "ocr_info": _ocr_info,
}


def _finite_number(value: Any) -> int | float | None:
    """The value as a Python number, whole where it can be; None if it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else float(value)


class Coercions:
    """What was changed in the records of one file.

    Attributes:
        counts: by kind of change, how many records it concerns.
        first: by kind of change, the first record that it concerns, as messages name it.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}

    def apply(self, record: Any, where: str) -> Any:
        """The record in the form of the schema as far as its meaning is plain.

        Args:
            record: an element of an annotation file; it is not modified.
            where: how messages name it, such as ``"record 17"``.

        Returns:
            The record itself where nothing is to be changed, else a changed copy.
        """
        if not isinstance(record, Mapping):
            return record
        changed: dict[str, Any] = {}
        for name in ABSENT_IS_EMPTY:
            if name not in record:
                changed[name] = []
                self._count(f"{name} is absent, read as empty", where)
        for name, coerce in _COERCIONS.items():
            value = record.get(name)
            change = None if value is None else coerce(value)
            if change is not None:
                changed[name], kind = change
                self._count(kind, f"{where}: {value!r}" if isinstance(value, (str, *_NUMBERS)) else where)
        return {**record, **changed} if changed else record

    def lines(self) -> list[str]:
        """One line for each kind of change."""
        return [
            f"{kind} in {count} record{'' if count == 1 else 's'} (first {self.first[kind]})"
            for kind, count in self.counts.items()
        ]

    def _count(self, kind: str, where: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, where)

    def log(self, path: str | os.PathLike[str]) -> None:
        """Warn once per process about each kind of change in the file ``path``."""
        for kind, line in zip(self.counts, self.lines(), strict=True):
            warn_once(path, kind, f"{path}: {line}")


def warn_once(path: str | os.PathLike[str], kind: str, message: str) -> None:
    """Log a warning about a file, unless this process has warned of this kind; only the first of several ranks does."""
    key = (os.path.abspath(path), kind)
    if key in _said or os.environ.get("RANK", "0") != "0":
        return
    _said.add(key)
    logger.warning(message)
