"""Annotation records: what the schema asks for, and that files keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clove_builders import make_record

from mmclvqa.clove.annotations import (
    FIELDS,
    check_record,
    load_records,
    new_record,
    record_problems,
    save_records,
)
from mmclvqa.clove.errors import DataError, RecordError

BOX = {"top_left_x": 0.0, "top_left_y": 0.0, "width": 1.0, "height": 1.0}

WRONG: dict[str, tuple[str, Any]] = {
    "an answer that is no text": ("answer", 3),
    "nine answers": ("answers", ["a"] * 9),
    "answers that are no texts": ("answers", ["a"] * 9 + [None]),
    "answers as one text": ("answers", "aaaaaaaaaa"),
    "a question that is None": ("question", None),
    "a question id that is a number": ("question_id", 5),
    "an image id that is a list": ("image_id", []),
    "an unknown image source": ("image_source", "coco"),
    "a feature path that is a number": ("feature_path", 440),
    "an OCR token that is no text": ("ocr_tokens", ["a", 1]),
    "OCR info without a word": ("ocr_info", [{"bounding_box": BOX}]),
    "OCR info without a box": ("ocr_info", [{"word": "a"}]),
    "a box without a width": ("ocr_info", [{"word": "a", "bounding_box": BOX | {"width": None}}]),
    "boxes that are not n x 4": ("ocr_normalized_boxes", np.zeros((2, 5))),
    "boxes of different lengths": ("ocr_normalized_boxes", [[0, 0, 1, 1], [0]]),
    "a scene graph item that is no text": ("gt_scene_graph_seq", ["dog [SEP]", 1]),
    "a mask of another length": ("gt_scene_graph_mask", [1]),
    "a mask value of 2": ("gt_scene_graph_mask", [1, 2]),
    "a mask value of one half": ("gt_scene_graph_mask", [1, 0.5]),
    "a predicted scene graph that is None": ("pred_scene_graph_seq", None),
    "a supporting fact that is no dict": ("supporting_fact", ["dogs bark"]),
    "a supporting fact without triplet": ("supporting_fact", [{"fact": "dogs bark"}]),
    "a triplet that is one text": ("supporting_fact", [{"triplet": "dogs bark"}]),
    "a stage that is None": ("stage", None),
}


def test_a_sound_record_passes() -> None:
    check_record(make_record(), "here")
    check_record(make_record("scenetext"), "here")
    fact = {"triplet": ["dog", "can", "bark"], "score": 1.0}
    check_record(make_record(supporting_fact=[fact], image_id=440, ocr_normalized_boxes=[]), "here")


def test_extra_fields_are_allowed() -> None:
    check_record(make_record(anno_source="distilgpt2_replay"), "here")


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.required])
def test_a_missing_field_is_named(name: str) -> None:
    record = make_record()
    del record[name]
    with pytest.raises(RecordError, match=f"file.npy: record 3.*field {name} is missing"):
        check_record(record, "file.npy: record 3")


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_with_record_and_field(case: str) -> None:
    field, value = WRONG[case]
    with pytest.raises(RecordError, match=rf"record 3 \(question_id .*\): field {field} ") as error:
        check_record(make_record(**{field: value}), "file.npy: record 3")
    assert "\n" not in str(error.value)


def test_every_problem_of_a_record_is_found() -> None:
    record = make_record(answer=1, stage=2, gt_scene_graph_mask=[])
    assert [name for name, _ in record_problems(record)] == ["answer", "stage", "gt_scene_graph_mask"]


def test_what_is_no_dict_is_no_record() -> None:
    with pytest.raises(RecordError, match="record 0: is list instead of a dict"):
        check_record([], "record 0")


def test_a_new_record_has_every_field_empty_or_none() -> None:
    record = new_record()
    check_record(record, "here")
    assert set(FIELDS) - set(record) == {"ocr_normalized_boxes"}
    assert not any(value for name, value in record.items() if name != "answers")
    assert new_record()["ocr"] is not record["ocr"]


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_records_are_read_from_npy_and_json(tmp_path: Path, suffix: str) -> None:
    records = [make_record(number=number) for number in range(3)]
    path = tmp_path / f"records{suffix}"
    if suffix == ".npy":
        save_records(path, records)
    else:
        path.write_text(json.dumps(records), encoding="utf-8")
    assert load_records(path) == records


def test_saved_records_are_what_numpy_reads(tmp_path: Path) -> None:
    save_records(tmp_path / "a.npy", [make_record()])
    array = np.load(tmp_path / "a.npy", allow_pickle=True)
    assert array.shape == (1,) and array.dtype == object and array[0] == make_record()


def test_equal_records_give_equal_bytes_however_they_share_memory(tmp_path: Path) -> None:
    word = "".join(["d", "og"])
    shared = [make_record(answers=[word] * 10, pred_scene_graph_seq=["dog [SEP]"])] * 2
    apart = json.loads(json.dumps(shared))
    save_records(tmp_path / "a.npy", shared)
    save_records(tmp_path / "b.npy", apart)
    save_records(tmp_path / "c.npy", load_records(tmp_path / "a.npy"))
    written = (tmp_path / "a.npy").read_bytes()
    assert written == (tmp_path / "b.npy").read_bytes() == (tmp_path / "c.npy").read_bytes()


def test_boxes_survive_saving(tmp_path: Path) -> None:
    boxes = np.asfortranarray(np.arange(8, dtype=np.float32).reshape(2, 4))
    save_records(tmp_path / "a.npy", [make_record(ocr_normalized_boxes=boxes)])
    loaded = load_records(tmp_path / "a.npy")[0]["ocr_normalized_boxes"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, boxes)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    save_records(path, [make_record()])
    before = path.read_bytes()
    with pytest.raises(DataError, match="record 1.*Path"):
        save_records(path, [make_record(), make_record(program=tmp_path)])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_broken_record_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    save_records(path, [make_record(), make_record(number=1, answers=[])])
    with pytest.raises(RecordError, match=r"a\.npy: record 1 \(question_id object1\): field answers"):
        load_records(path)
    assert len(load_records(path, check=False)) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"[{"), ("a.json", b"{}"), ("a.json", b"\xff"), ("a.txt", b"[]"), ("a.npy", b"")],
)
def test_a_file_that_is_no_list_of_records_is_a_data_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        load_records(tmp_path / name)


def test_an_array_of_numbers_is_no_list_of_records(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"a\.npy.*float64"):
        load_records(tmp_path / "a.npy")
