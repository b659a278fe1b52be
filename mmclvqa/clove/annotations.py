"""Annotation records: their schema, checking, reading and writing.

A record is a dict with the fields of :data:`FIELDS`; it may hold more. A file of records is an ``.npy`` object
array or a ``.json`` list. Records that real files hold in other forms are brought into the schema when they are
read, see :mod:`mmclvqa.clove.coercion`.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmclvqa.clove.coercion import IMAGE_SOURCES, Coercions
from mmclvqa.clove.errors import DataError, RecordError
from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.pickles import safe_numpy_load

ANSWERS_PER_RECORD = 10
"""How many answers a record carries (VQA's ten annotators; a single answer is repeated)."""

ITEM_END = " [SEP]"
"""How an item of a scene graph sequence ends."""

BOX_KEYS = ("top_left_x", "top_left_y", "width", "height")
"""What ``bounding_box`` of an OCR token must have, each a number."""

_NUMBER = (int, float, np.integer, np.floating)
_NONE = type(None)


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes:
        types: what its value may be; empty means anything.
        required: whether a record without it is refused.
        empty: makes the value that says "nothing"; None where a new record does not have the field.
        check: names what is wrong with a value of the right type, or gives None.
    """

    types: tuple[type, ...] = ()
    required: bool = True
    empty: Callable[[], Any] | None = lambda: None
    check: Callable[[Any], str | None] | None = None


def _texts(value: Any) -> str | None:
    if set(map(type, value)) <= {str}:
        return None
    for index, item in enumerate(value):
        if not isinstance(item, str):
            return f"item {index} is {_kind(item)} instead of str"
    return None


def _answers(value: Any) -> str | None:
    if len(value) != ANSWERS_PER_RECORD:
        return f"holds {len(value)} answers instead of {ANSWERS_PER_RECORD}"
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
            if not isinstance(box.get(key), _NUMBER):
                return f"item {index} has no number {key!r} in its 'bounding_box'"
    return None


def _boxes(value: Any) -> str | None:
    if value is None:
        return None
    try:
        boxes = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        return "is no table of numbers"
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
    if not isinstance(triplet, (list, tuple)):
        return "item 0 has no 'triplet' that is a list"
    problem = _texts(triplet)
    return f"item 0, 'triplet': {problem}" if problem else None


_LIST = (list, tuple)

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
"""The schema: what each field may hold, whether it must be there, what stands for nothing."""


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def record_problems(record: Any) -> Iterator[tuple[str, str]]:
    """Yield ``(field, what is wrong with it)`` for everything the schema does not allow in ``record``."""
    if not isinstance(record, Mapping):
        yield "", f"is {_kind(record)} instead of a dict"
        return
    sound = set()
    for name, field in FIELDS.items():
        if name not in record:
            if field.required:
                yield name, "is missing"
            continue
        value = record[name]
        if field.types and (not isinstance(value, field.types) or isinstance(value, bool)):
            wanted = " or ".join("None" if kind is _NONE else kind.__name__ for kind in field.types)
            yield name, f"is {_kind(value)} instead of {wanted}"
        elif field.check is not None and (problem := field.check(value)):
            yield name, problem
        else:
            sound.add(name)
    if {"gt_scene_graph_seq", "gt_scene_graph_mask"} <= sound:
        items, marks = len(record["gt_scene_graph_seq"]), len(record["gt_scene_graph_mask"])
        if items != marks:
            yield "gt_scene_graph_mask", f"has {marks} values for the {items} items of gt_scene_graph_seq"


def check_record(record: Any, where: str) -> None:
    """Raise if ``record`` does not have the fields of the schema.

    Args:
        record: a record; keys beyond the schema are allowed.
        where: what the message calls it, such as ``"data.npy: record 17"``.

    Raises:
        RecordError: names ``where``, the question id and the first field at fault.
    """
    for name, problem in record_problems(record):
        raise RecordError(f"{describe(record, where)}: {f'field {name} ' if name else ''}{problem}")


def describe(record: Any, where: str) -> str:
    """``where`` with the record's question id, as error messages name a record."""
    question_id = record.get("question_id") if isinstance(record, Mapping) else None
    return where if question_id is None else f"{where} (question_id {question_id})"


def new_record(**fields: Any) -> dict[str, Any]:
    """A record in which every field of the schema stands, empty or None, except for those given.

    ``ocr_normalized_boxes``, which a record need not have, is left out. Extra fields are kept.
    """
    record = {name: field.empty() for name, field in FIELDS.items() if field.empty is not None}
    return {**record, **fields}


def read_annotations(path: str | os.PathLike[str]) -> list[Any]:
    """The elements of an annotation file as they stand, unchecked.

    Raises:
        DataError: the file is missing, truncated, or no list of records.
        UnsafePickleError: an ``.npy`` file holds something outside the allow-list.
    """
    path = Path(path)
    if path.suffix == ".npy":
        array = safe_numpy_load(path)
        if array.ndim != 1 or not array.dtype.hasobject:
            shape = "x".join(map(str, array.shape)) or "one value"
            raise DataError(f"{path}: holds an array of {array.dtype} ({shape}), not a list of records")
        return array.tolist()
    if path.suffix == ".json":
        try:
            with open(path, encoding="utf-8") as file:
                records = json.load(file)
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such file") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is no valid JSON ({error})") from None
        if not isinstance(records, list):
            raise DataError(f"{path}: holds {_kind(records)} instead of a list of records")
        return records
    raise DataError(f"{path}: annotations are read from .npy and .json files only")


def load_records(path: str | os.PathLike[str], check: bool = True) -> list[dict[str, Any]]:
    """Read the records of an ``.npy`` or ``.json`` annotation file.

    Records are coerced to the schema where their meaning is plain; each kind of change is logged once per file.

    Args:
        path: the file.
        check: hold every record against the schema (about 20 microseconds each).

    Raises:
        DataError: the file is missing, truncated, or no list of records.
        UnsafePickleError: an ``.npy`` file holds something outside the allow-list.
        RecordError: the first record that does not fit the schema, with the field at fault.
    """
    coercions = Coercions()
    records = []
    for index, element in enumerate(read_annotations(path)):
        record = coercions.apply(element, describe(element, f"record {index}"))
        if check:
            check_record(record, f"{path}: record {index}")
        records.append(record)
    coercions.log(path)
    return records


def save_records(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as an ``.npy`` object array (pickle protocol 4), all of it or nothing.

    Equal records give equal bytes with one numpy version, however their values share memory.

    Raises:
        DataError: a value is of a kind that :func:`load_records` would refuse.
        OSError: the file cannot be written.
    """
    strings: dict[str, str] = {}
    kept = [_canonical(record, strings, f"{path}: record {index}") for index, record in enumerate(records)]
    array = np.empty(len(kept), dtype=object)
    for index, record in enumerate(kept):
        array[index] = record
    with atomic_write(path, "wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(array, file, protocol=4)


def _canonical(value: Any, strings: dict[str, str], where: str) -> Any:
    """A copy in which equal strings are one object and nothing else is shared: pickle writes identities."""
    if value is None or isinstance(value, (bool, int, float)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        text = str(value)
        return strings.setdefault(text, text)
    if isinstance(value, Mapping):
        return {_canonical(key, strings, where): _canonical(item, strings, where) for key, item in value.items()}
    if type(value) is list and set(map(type, value)) == {str}:
        return [strings.setdefault(text, text) for text in value]
    if isinstance(value, (list, tuple)):
        return type(value)(_canonical(item, strings, where) for item in value)
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU":
        return np.array(value, dtype=np.dtype(value.dtype.str), order="C")
    raise DataError(f"{where}: a value of type {type(value).__name__} cannot be kept in an annotation file")
