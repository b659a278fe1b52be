"""Records that depart from the published form in a way whose meaning is plain are read, counted and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clove_builders import make_record

from mmclvqa.clove.annotations import load_records, save_records
from mmclvqa.clove.coercion import Coercions
from mmclvqa.clove.errors import RecordError
from mmclvqa.clove.features import databases

Run = Callable[..., tuple[int, str, str]]
BOX = {"width": 0.3, "height": 0.4, "rotation": 0.0}


def read(tmp_path: Path, *records: dict[str, Any]) -> list[dict[str, Any]]:
    save_records(tmp_path / "records.npy", records)
    return load_records(tmp_path / "records.npy")


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in make_record().items() if name not in names}


def test_a_corner_spelled_as_in_textvqa_is_read(tmp_path: Path, coercions_said: list[str]) -> None:
    box = {"topLeftX": 0.1, "topLeftY": 0.2, **BOX}
    other = {"top_left_x": 0.5, "top_left_y": 0.6, **BOX}
    words = [{"word": "stop", "bounding_box": box}, {"word": "go", "bounding_box": other}]
    (record,) = read(tmp_path, make_record("scenetext", ocr_info=words))
    assert record["ocr_info"][0] == {"word": "stop", "bounding_box": {"top_left_x": 0.1, "top_left_y": 0.2, **BOX}}
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


def test_absent_normalised_boxes_need_no_mention(tmp_path: Path, coercions_said: list[str]) -> None:
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
    assert "gt_scene_graph_mask holds floats or booleans" in coercions_said[0]


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
        ("question", None, "field question is None"),
        ("question_id", float("nan"), "field question_id is float instead of str"),
        ("question_id", True, "field question_id is bool instead of str"),
        ("image_source", 3, "field image_source is int instead of str or None"),
        ("gt_scene_graph_mask", [1.0, 0.5], "field gt_scene_graph_mask item 1 is 0.5 instead of 0 or 1"),
        ("gt_scene_graph_mask", [1.0], "field gt_scene_graph_mask has 1 values for the 2 items"),
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
    assert code == 0 and out.rstrip().endswith("no findings")
    assert "note: functional/fcl_mmf_object_train.npy: ocr is absent, read as empty in 3 records" in out
    assert "note: functional/fcl_mmf_object_train.npy: question_id is a number, read as text in 3 records" in out


def test_check_finds_what_loading_refuses(data_root: Path, run_clove: Run) -> None:
    records = [without("question"), make_record(number=1, gt_scene_graph_mask=[1.0]), make_record(number=2)]
    save_records(data_root / "functional/fcl_mmf_object_train.npy", records)
    code, out, _ = run_clove("check", data_root)
    assert code == 1 and out.rstrip().endswith("2 findings")
    assert "field question is missing" in out and "field gt_scene_graph_mask has 1 values" in out
