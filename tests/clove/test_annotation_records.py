"""Annotation records: the schema, the conversion of records that deviate from it, and files of records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clove_builders import make_record

from mmclvqa.clove.errors import DataError, RecordError
from mmclvqa.clove.features import databases
from mmclvqa.clove.records import (
    FIELDS,
    Coercions,
    check_record,
    load_records,
    new_record,
    record_problems,
    save_records,
)

Run = Callable[..., tuple[int, str, str]]
SIZE = {"width": 0.3, "height": 0.4, "rotation": 0.0}
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


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", b"[{"), ("a.json", b"{}"), ("a.json", b"\xff"), ("a.txt", b"[]"), ("a.npy", b"")]
)
def test_a_file_that_is_no_list_of_records_is_a_data_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        load_records(tmp_path / name)


def test_an_array_of_numbers_is_no_list_of_records(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"a\.npy.*float64"):
        load_records(tmp_path / "a.npy")


# Conversion to the schema


def read(tmp_path: Path, *records: dict[str, Any]) -> list[dict[str, Any]]:
    save_records(tmp_path / "records.npy", records)
    return load_records(tmp_path / "records.npy")


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in make_record().items() if name not in names}


def test_a_corner_spelled_as_in_textvqa_is_read(tmp_path: Path, coercions_said: list[str]) -> None:
    box = {"topLeftX": 0.1, "topLeftY": 0.2, **SIZE}
    other = {"top_left_x": 0.5, "top_left_y": 0.6, **SIZE}
    words = [{"word": "stop", "bounding_box": box}, {"word": "go", "bounding_box": other}]
    (record,) = read(tmp_path, make_record("scenetext", ocr_info=words))
    assert record["ocr_info"][0] == {"word": "stop", "bounding_box": {"top_left_x": 0.1, "top_left_y": 0.2, **SIZE}}
    assert record["ocr_info"][1] == words[1]
    assert "ocr_info has boxes with topLeftX, topLeftY" in coercions_said[0]


@pytest.mark.parametrize(
    ("value", "text"), [(262148, "262148"), (np.int64(7), "7"), (7.0, "7"), (np.float32(0.5), "0.5")]
)
def test_a_numeric_question_id_is_read_as_text(
    tmp_path: Path, coercions_said: list[str], value: Any, text: str
) -> None:
    (record,) = read(tmp_path, make_record(question_id=value))
    assert record["question_id"] == text
    assert "question_id is a number, read as text in 1 record" in coercions_said[0]


@pytest.mark.parametrize(("value", "wanted"), [(440, 440), (440.0, 440), (0.5, "0.5"), ("440", "440")])
def test_a_numeric_image_id_is_read(tmp_path: Path, coercions_said: list[str], value: Any, wanted: Any) -> None:
    (record,) = read(tmp_path, make_record(image_id=value))
    assert record["image_id"] == wanted and type(record["image_id"]) is type(wanted)
    assert len(coercions_said) == isinstance(value, float)


def test_another_image_source_than_textvqa_means_gqa(tmp_path: Path, coercions_said: list[str]) -> None:
    coco, none, textvqa = read(
        tmp_path, make_record(image_source="coco"), make_record(image_source=None), make_record("scenetext")
    )
    assert [record["image_source"] for record in (coco, none, textvqa)] == ["vg", None, "textvqa"]
    assert databases(coco["image_source"]) == databases("vg") != databases("textvqa")
    (line,) = coercions_said
    assert "in 1 record (first record 0 (question_id object0): 'coco')" in line


@pytest.mark.parametrize("name", ["ocr", "ocr_info", "ocr_tokens", "supporting_fact"])
def test_an_absent_list_is_empty(tmp_path: Path, coercions_said: list[str], name: str) -> None:
    (record,) = read(tmp_path, without(name))
    assert record[name] == []
    assert f"{name} is absent, read as empty in 1 record" in coercions_said[0]


def test_absent_normalized_boxes_need_no_mention(tmp_path: Path, coercions_said: list[str]) -> None:
    (record,) = read(tmp_path, without("ocr_normalized_boxes"))
    assert record.get("ocr_normalized_boxes") is None and not coercions_said


@pytest.mark.parametrize(
    "mask", [[1.0, 0.0], [True, False], [1, False], [np.float32(1), np.bool_(False)], np.array([1.0, 0.0])]
)
def test_a_mask_of_floats_or_booleans_is_read_as_zeros_and_ones(
    tmp_path: Path, coercions_said: list[str], mask: Any
) -> None:
    (record,) = read(tmp_path, make_record(gt_scene_graph_mask=mask))
    assert record["gt_scene_graph_mask"] == [1, 0]
    assert {type(value) for value in record["gt_scene_graph_mask"]} == {int}
    assert "gt_scene_graph_mask contains floats or booleans" in coercions_said[0]


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_records_with_more_keys_load_as_they_are(tmp_path: Path, coercions_said: list[str], suffix: str) -> None:
    record = make_record(caption="a dog on grass", objects=[{"name": "dog", "box": [0, 0, 1, 1]}], split=None)
    path = tmp_path / f"peers{suffix}"
    if suffix == ".npy":
        save_records(path, [record])
    else:
        path.write_text(json.dumps([record]), encoding="utf-8")
    assert load_records(path) == [record] and not coercions_said


def test_a_replay_of_the_published_model_loads(tmp_path: Path, coercions_said: list[str]) -> None:
    items = ["dog [SEP]", "sign with [OCR] stop [SEP]"]
    empty = {"image_id": None, "image_source": None, "feature_path": None, "program": None}
    empty |= {"raw_question_type": None, "gqa_question": None, "ocr": [], "ocr_info": [], "supporting_fact": []}
    replay = {
        "anno_source": "distilgpt2_replay",
        "stage": "object_gen",
        "question_id": "0a1b2c3d",
        "question": "what is it?",
        "answer": "dog",
        "answers": ["dog"] * 10,
        "ocr_tokens": ["stop"],
        "set_name": "train",
        "gt_scene_graph_seq": items,
        "gt_scene_graph_mask": [1, 0],
        "pred_scene_graph_seq": items[::-1],
        **empty,
    }
    assert read(tmp_path, replay) == [replay] and not coercions_said


def test_a_sound_record_is_not_copied() -> None:
    record, coercions = make_record("scenetext"), Coercions()
    assert coercions.apply(record, "record 0") is record and not coercions.counts


def test_changes_are_counted_and_said_once_per_file_and_kind(tmp_path: Path, coercions_said: list[str]) -> None:
    records = [make_record(question_id=number, gt_scene_graph_mask=[True, False]) for number in range(3)]
    for name in ("a.npy", "b.npy"):
        save_records(tmp_path / name, records)
        load_records(tmp_path / name)
        load_records(tmp_path / name)
    lines = coercions_said
    assert len(lines) == 4 and all("in 3 records (first record 0" in line for line in lines)
    assert [line.partition(": ")[0] for line in lines] == [str(tmp_path / "a.npy")] * 2 + [str(tmp_path / "b.npy")] * 2


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("question_id", float("nan"), "field question_id is float instead of str"),
        ("question_id", True, "field question_id is bool instead of str"),
        ("image_source", 3, "field image_source is int instead of str or None"),
        ("gt_scene_graph_mask", [1.0, 0.5], "field gt_scene_graph_mask item 1 is 0.5 instead of 0 or 1"),
        ("gt_scene_graph_mask", [1.0], "field gt_scene_graph_mask has 1 value for the 2 items"),
        ("ocr_normalized_boxes", [[0.0, 0.0, 1.0]], r"field ocr_normalized_boxes has shape \(1, 3\) instead of n x 4"),
        (
            "ocr_info",
            [{"word": "a", "bounding_box": {"topLeftX": 0.0, "topLeftY": 0.0, "width": 1.0}}],
            "field ocr_info item 0 has no number 'height' in its 'bounding_box'",
        ),
        ("ocr_info", [{"word": "a", "bounding_box": [0, 0, 1]}], "field ocr_info item 0 has no 'bounding_box' that"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(tmp_path: Path, field: str, value: Any, problem: str) -> None:
    with pytest.raises(RecordError, match=rf"records\.npy: record 1.*: {problem}"):
        read(tmp_path, make_record(), make_record(**{field: value}))


def test_a_record_without_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"records\.npy: record 0 .*: field question is missing"):
        read(tmp_path, without("question", "ocr"))


# ------------------------------------------------------------------------------ check


def test_check_notes_what_is_coerced_and_finds_nothing(data_root: Path, run_clove: Run) -> None:
    records = [{**without("ocr"), "feature_path": f"{n}.npy", "question_id": n, "caption": "a"} for n in range(3)]
    save_records(data_root / "functional/fcl_mmf_object_train.npy", records)
    code, out, _ = run_clove("check", data_root)
    assert code == 0 and out.rstrip().endswith("no problems")
    assert "note: functional/fcl_mmf_object_train.npy: ocr is absent, read as empty in 3 records" in out
    assert "note: functional/fcl_mmf_object_train.npy: question_id is a number, read as text in 3 records" in out
