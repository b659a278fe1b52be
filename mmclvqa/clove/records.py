"""Annotation records: their schema, and reading, checking and writing them.

A record is a dict with the fields of :data:`FIELDS` and possibly more. An annotation file is an ``.npy`` object array
or a ``.json`` list of records. Published files deviate from the schema: they spell the corner of a box in two ways,
have numbers as question ids, or omit fields that a task does not use. Deviations with a clear meaning are converted to
the schema on reading, and each kind of conversion is counted and logged. Any other deviation is rejected.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmclvqa.clove.errors import DataError, RecordError
from mmclvqa.clove.files import atomic_write, read_json, safe_numpy_load
from mmclvqa.clove.tasks import IMAGE_SOURCES
from mmclvqa.clove.text import counted

#: A child of MMF's logger, so that conversions appear in a run's train.log; without MMF they go to stderr.
logger = logging.getLogger("mmf.clove")

ANSWERS_PER_RECORD = 10
"""Number of answers of a record (VQA's ten annotators; a single answer is repeated)."""

ITEM_END = " [SEP]"
"""End of each item of a scene-graph sequence."""

BOX_KEYS = ("top_left_x", "top_left_y", "width", "height")
"""Required keys of the ``bounding_box`` of an OCR token, each a number."""

CORNER_KEYS = {"topLeftX": "top_left_x", "topLeftY": "top_left_y"}
"""TextVQA's spelling of the corner of a box, and that of the schema."""

ABSENT_IS_EMPTY = ("ocr_tokens", "ocr_info", "ocr", "supporting_fact")
"""Lists that a record may omit. (``ocr_normalized_boxes`` is optional in the schema itself.)"""

_NUMBERS = (int, float, np.integer, np.floating)
_NONE = type(None)
_LIST = (list, tuple)


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes:
        types: allowed types of the value; empty allows any.
        required: whether a record without the field is rejected.
        empty: makes the empty value; None if a new record does not have the field.
        check: describes the problem of a value of an allowed type, or returns None.
    """

    types: tuple[type, ...] = ()
    required: bool = True
    empty: Callable[[], Any] | None = lambda: None
    check: Callable[[Any], str | None] | None = None


def _texts(value: Any) -> str | None:
    if set(map(type, value)) <= {str}:  # the usual case, in a fraction of the time
        return None
    for index, item in enumerate(value):
        if not isinstance(item, str):
            return f"item {index} is {_kind(item)} instead of str"
    return None


def _answers(value: Any) -> str | None:
    if len(value) != ANSWERS_PER_RECORD:
        return f"contains {counted(len(value), 'answer')} instead of {ANSWERS_PER_RECORD}"
    return _texts(value)


def _mask(value: Any) -> str | None:
    for index, item in enumerate(value):
        if not (isinstance(item, (int, np.integer, np.bool_)) and item in (0, 1)):
            return f"item {index} is {item!r} instead of 0 or 1"
    return None


def _image_source(value: str | None) -> str | None:
    if value is None or value in IMAGE_SOURCES:
        return None
    return f"is {value!r} instead of {', '.join(IMAGE_SOURCES)} or None"


def _ocr_info(value: Any) -> str | None:
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            return f"item {index} is {_kind(item)} instead of a dict"
        if not isinstance(item.get("word"), str):
            return f"item {index} has no 'word' that is str"
        box = item.get("bounding_box")
        if not isinstance(box, Mapping):
            return f"item {index} has no 'bounding_box' that is a dict"
        for key in BOX_KEYS:
            if not isinstance(box.get(key), _NUMBERS):
                return f"item {index} has no number {key!r} in its 'bounding_box'"
    return None


def _boxes(value: Any) -> str | None:
    if value is None:
        return None
    try:
        boxes = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        return "is not a table of numbers"
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        return f"has shape {boxes.shape} instead of n x 4"
    return None


def _supporting_fact(value: Any) -> str | None:
    if not len(value):
        return None
    fact = value[0]
    if not isinstance(fact, Mapping):
        return f"item 0 is {_kind(fact)} instead of a dict"
    triplet = fact.get("triplet")
    if not isinstance(triplet, _LIST):
        return "item 0 has no 'triplet' that is a list"
    return f"item 0, 'triplet': {problem}" if (problem := _texts(triplet)) else None


FIELDS: dict[str, Field] = {
    "answer": Field((str,), empty=str),
    "answers": Field(_LIST, empty=lambda: [""] * ANSWERS_PER_RECORD, check=_answers),
    "question": Field((str,), empty=str),
    "question_id": Field((str,), empty=str),
    "image_id": Field((str, int, np.integer, _NONE)),
    "image_source": Field((str, _NONE), check=_image_source),
    "feature_path": Field((str, _NONE)),
    "ocr_tokens": Field(_LIST, empty=list, check=_texts),
    "ocr_info": Field(_LIST, empty=list, check=_ocr_info),
    "ocr": Field(empty=list),
    "ocr_normalized_boxes": Field((*_LIST, np.ndarray, _NONE), required=False, empty=None, check=_boxes),
    "gt_scene_graph_seq": Field(_LIST, empty=list, check=_texts),
    "gt_scene_graph_mask": Field(_LIST, empty=list, check=_mask),
    "pred_scene_graph_seq": Field(_LIST, empty=list, check=_texts),
    "supporting_fact": Field(_LIST, empty=list, check=_supporting_fact),
    "stage": Field((str,), empty=str),
    "program": Field(required=False),
    "raw_question_type": Field(required=False),
    "gqa_question": Field(required=False),
    "set_name": Field(required=False, empty=str),
}
"""The schema: allowed values of each field, whether it is required, and its empty value."""


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def record_problems(record: Any) -> Iterator[tuple[str, str]]:
    """Yield ``(field, problem)`` for every deviation of ``record`` from the schema."""
    if not isinstance(record, Mapping):
        yield "", f"is {_kind(record)} instead of a dict"
        return
    valid_fields = set()
    for name, field in FIELDS.items():
        if name not in record:
            if field.required:
                yield name, "is missing"
            continue
        value = record[name]
        if field.types and (not isinstance(value, field.types) or isinstance(value, bool)):
            allowed = " or ".join("None" if kind is _NONE else kind.__name__ for kind in field.types)
            yield name, f"is {_kind(value)} instead of {allowed}"
        elif field.check is not None and (problem := field.check(value)):
            yield name, problem
        else:
            valid_fields.add(name)
    if {"gt_scene_graph_seq", "gt_scene_graph_mask"} <= valid_fields:
        num_items, num_mask_values = len(record["gt_scene_graph_seq"]), len(record["gt_scene_graph_mask"])
        if num_items != num_mask_values:
            items, values = counted(num_items, "item"), counted(num_mask_values, "value")
            yield "gt_scene_graph_mask", f"has {values} for the {items} of gt_scene_graph_seq"


def check_record(record: Any, where: str) -> None:
    """Raise an error if a record does not match the schema; additional keys are allowed.

    Args:
        where: name of the record in the message, such as ``"data.npy: record 17"``.

    Raises:
        RecordError: names ``where``, the question id and the first invalid field.
    """
    for name, problem in record_problems(record):
        raise RecordError(f"{describe(record, where)}: {f'field {name} ' if name else ''}{problem}")


def describe(record: Any, where: str) -> str:
    """Return ``where`` with the question id of the record, as error messages name records."""
    question_id = record.get("question_id") if isinstance(record, Mapping) else None
    return where if question_id is None else f"{where} (question_id {question_id})"


def new_record(**fields: Any) -> dict[str, Any]:
    """Return a record with every field of the schema, empty or None unless given.

    The optional ``ocr_normalized_boxes`` is omitted. Additional fields are kept.
    """
    record = {name: field.empty() for name, field in FIELDS.items() if field.empty is not None}
    return {**record, **fields}


Conversion = tuple[Any, str]
"""A converted value and a description of the conversion."""


def _coerced_question_id(value: Any) -> Conversion | None:
    number = _finite_number(value)
    return None if number is None else (str(number), "question_id is a number, read as text")


def _coerced_image_id(value: Any) -> Conversion | None:
    if not isinstance(value, (float, np.floating)) or (number := _finite_number(value)) is None:
        return None  # the schema allows text and integers
    return (number if isinstance(number, int) else str(number)), "image_id is a float, read as a whole number or text"


def _coerced_image_source(value: Any) -> Conversion | None:
    if not isinstance(value, str) or value in IMAGE_SOURCES:
        return None
    default = next(iter(IMAGE_SOURCES))
    return default, f"image_source is not {' or '.join(IMAGE_SOURCES)}, read as {default}"


def _coerced_mask(value: Any) -> Conversion | None:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    elif not isinstance(value, _LIST) or set(map(type, value)) <= {int}:
        return None
    # A value other than 0 and 1 is rejected by the check.
    values = [int(item) if isinstance(item, (*_NUMBERS, np.bool_)) and item in (0, 1) else item for item in value]
    return values, "gt_scene_graph_mask contains floats or booleans, read as 0 and 1"


def _coerced_ocr_info(value: Any) -> Conversion | None:
    if not isinstance(value, _LIST):
        return None
    words = [_respelled(word) for word in value]
    if all(new is old for new, old in zip(words, value, strict=True)):
        return None
    return words, f"ocr_info has boxes with {', '.join(CORNER_KEYS)}, read as {', '.join(CORNER_KEYS.values())}"


def _respelled(word: Any) -> Any:
    """Return an OCR token whose box has the keys of the schema, the token itself if nothing changes."""
    box = word.get("bounding_box") if isinstance(word, Mapping) else None
    keys = {old: new for old, new in CORNER_KEYS.items() if isinstance(box, Mapping) and old in box and new not in box}
    return {**word, "bounding_box": {keys.get(key, key): side for key, side in box.items()}} if keys else word


_COERCIONS: dict[str, Callable[[Any], Conversion | None]] = {
    "question_id": _coerced_question_id,
    "image_id": _coerced_image_id,
    "image_source": _coerced_image_source,
    "gt_scene_graph_mask": _coerced_mask,
    "ocr_info": _coerced_ocr_info,
}


def _finite_number(value: Any) -> int | float | None:
    """Return the value as a Python number, an int if it is whole; None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else float(value)


class Coercions:
    """Conversions of the records of one file to the schema.

    Attributes:
        counts: number of converted records by kind of conversion.
        first: first converted record by kind of conversion, as named in messages.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def apply(self, record: Any, where: str) -> Any:
        """Convert a record to the schema as far as its meaning is clear.

        Args:
            record: an element of an annotation file; it is not modified.

        Returns:
            The record itself if nothing is converted, else a copy.
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
        """Return one line for each kind of conversion."""
        return [
            f"{kind} in {counted(count, 'record')} (first {self.first[kind]})" for kind, count in self.counts.items()
        ]

    def _count(self, kind: str, where: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, where)

    def log(self, path: str | os.PathLike[str]) -> None:
        """Warn once per process about each kind of conversion in the file ``path``."""
        for kind, line in zip(self.counts, self.lines(), strict=True):
            warn_once(path, kind, f"{path}: {line}")


_warned: set[tuple[str, str]] = set()


def warn_once(path: str | os.PathLike[str], kind: str, message: str) -> None:
    """Log a warning about a file once per process and kind, on rank 0 only."""
    key = (os.path.abspath(path), kind)
    if key in _warned or os.environ.get("RANK", "0") != "0":
        return
    _warned.add(key)
    logger.warning(message)


def read_annotations(path: str | os.PathLike[str]) -> list[Any]:
    """Return the elements of an annotation file without conversion or check.

    Raises:
        DataError: the file is missing, truncated or not a list of records.
        UnsafePickleError: an ``.npy`` file refers to an object outside the allow-list.
    """
    path = Path(path)
    if path.suffix == ".npy":
        array = safe_numpy_load(path)
        if array.ndim != 1 or not array.dtype.hasobject:
            shape = "x".join(map(str, array.shape)) or "one value"
            raise DataError(f"{path}: is an array of {array.dtype} ({shape}), not a list of records")
        return array.tolist()
    if path.suffix == ".json":
        records = read_json(path)
        if not isinstance(records, list):
            raise DataError(f"{path}: is {_kind(records)} instead of a list of records")
        return records
    raise DataError(f"{path}: annotations are read from .npy and .json files only")


def load_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the records of an ``.npy`` or ``.json`` annotation file, convert them to the schema, and check them.

    Each kind of conversion is logged once per file.

    Raises:
        DataError: the file is missing, truncated or not a list of records.
        UnsafePickleError: an ``.npy`` file refers to an object outside the allow-list.
        RecordError: a record does not match the schema; the message names the first invalid field.
    """
    coercions = Coercions()
    records = []
    for index, element in enumerate(read_annotations(path)):
        records.append(coercions.apply(element, describe(element, f"record {index}")))
        check_record(records[-1], f"{path}: record {index}")
    coercions.log(path)
    return records


def load_filled(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the records of a file that must not be empty; see :func:`load_records`."""
    records = load_records(path)
    if not records:
        raise DataError(f"{path}: contains no records")
    return records


def save_records(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write records atomically as an ``.npy`` object array (pickle protocol 4).

    Equal records give equal bytes with the same numpy version, whether or not their values share memory.

    Raises:
        DataError: a value has a type that :func:`load_records` rejects.
        OSError: the file cannot be written.
    """
    strings: dict[str, str] = {}
    kept = [_canonical(record, strings, f"{path}: record {index}") for index, record in enumerate(records)]
    array = np.empty(len(kept), dtype=object)
    array[:] = kept
    with atomic_write(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(array, file, protocol=4)


def _canonical(value: Any, strings: dict[str, str], where: str) -> Any:
    """Copy a value so that equal strings are one object and nothing else is shared; pickles store identities."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        text = str(value)
        return strings.setdefault(text, text)
    if isinstance(value, Mapping):
        return {_canonical(key, strings, where): _canonical(item, strings, where) for key, item in value.items()}
    if type(value) is list and set(map(type, value)) == {str}:
        return [strings.setdefault(text, text) for text in value]
    if isinstance(value, _LIST):
        return type(value)(_canonical(item, strings, where) for item in value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU":
        return np.array(value, dtype=np.dtype(value.dtype.str), order="C")
    raise DataError(f"{where}: a value of type {type(value).__name__} cannot be stored in an annotation file")
