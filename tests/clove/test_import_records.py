"""``import_records``: records of any origin become a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clove_builders import make_record

from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.importing import import_records
from mmclvqa.clove.records import load_records
from mmclvqa.clove.tasks import find_setting


def test_records_of_any_origin_become_a_setting(tmp_path: Path) -> None:
    records = [make_record("", number, image_source=None) for number in range(6)]
    result = import_records(
        {"train": records, "val": records[:3]},
        lambda record: {"0": "small", "5": None}.get(record["image_id"], "large"),
        tmp_path,
        "sizes",
        features=["a.lmdb", "b.lmdb"],
    )
    assert result.counts == {"small": {"train": 1, "val": 1}, "large": {"train": 4, "val": 2}}
    assert result.unassigned == 1
    assert find_setting(result.setting).image_sources["sizes"].features == ("a.lmdb", "b.lmdb")
    assert {record["image_source"] for record in load_records(tmp_path / "sizes/large_train.npy")} == {"sizes"}


def refused(root: Path, train: list[Any], val: list[Any], name: str = "x", **options: Any) -> str:
    """Import records by their stage, which must fail and write nothing, and return the message."""
    with pytest.raises(CloveError) as error:
        import_records({"train": train, "val": val}, lambda record: record["stage"], root, name, **options)
    assert list(root.iterdir()) == []
    return str(error.value)


def test_records_that_do_not_match_the_schema_are_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, [make_record("a"), make_record("b", answers=["red"])], [])
    assert message == "train record 1 (question_id b0): field answers contains 1 answer instead of 10"


def test_a_task_without_records_of_a_split_or_beside_the_named_ones_is_refused(tmp_path: Path) -> None:
    both = [make_record("a"), make_record("b")]
    message = refused(tmp_path, both, both[:1])
    assert "task 'b' has no val records" in message and "another task (--task; in Python, assign)" in message
    assert "task 'b' is not one of a, c" in refused(tmp_path, both, both, tasks=["a", "c"])


def test_incomplete_and_repeated_records_are_left_out_and_counted(tmp_path: Path) -> None:
    complete = [make_record("a", 1), make_record("b", 2)]
    incomplete = [make_record("a", 3, question=" "), make_record("a", 4, answers=[""] * 10), make_record("a", 1)]
    assert "repeated question ids: 1 (first train record 4" in refused(
        tmp_path, complete + incomplete, complete, strict=True
    )
    result = import_records(
        {"train": complete + incomplete, "val": complete}, lambda record: record["stage"], tmp_path, "x"
    )
    assert result.counts["a"]["train"] == 1
    assert {kind: len(places) for kind, places in result.findings.items()} == {
        "questions without a text": 1, "questions without an answer": 1, "repeated question ids": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {"trian": 1}}, "expected a mapping with the keys train and val"),
        ({"sizes": {"train": 0}}, "train is 0, not a whole number above 0"),
        ({"sizes": {"train": "10"}}, "train is '10', not a whole number above 0"),
        ({"tasks": "ab"}, "expected a list of names"),
    ],
)
def test_mistaken_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    both = [make_record("a"), make_record("b")]
    assert message in refused(tmp_path, both, both, **options)


def test_splits_other_than_train_and_val_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the splits train and val, not train"):
        import_records({"train": []}, lambda record: None, tmp_path, "x")


def test_a_name_of_the_package_is_refused(tmp_path: Path) -> None:
    both = [make_record("a"), make_record("b")]
    assert "scene.yaml: this package has a setting 'scene'" in refused(tmp_path, both, both, "scene")
    assert "image_sources.vg: has other databases in this package" in refused(tmp_path, both, both, "vg")
