"""The data root: sizes from the manifest, and the answer vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmclvqa.clove.data_root import (
    PUBLISHED_SIZE,
    SPECIALS,
    Manifest,
    load_manifest,
    load_vocabulary,
    save_manifest,
    save_vocabulary,
    split_size,
)
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import task


def test_sizes_are_the_published_ones_without_manifest(tmp_path: Path) -> None:
    assert load_manifest(tmp_path) is None
    scenetext = task("functional", "s")
    assert [split_size(tmp_path, scenetext, split) for split in ("train", "val")] == [16868, 2422]


def test_sizes_are_the_manifests_where_there_is_one(tmp_path: Path) -> None:
    manifest = Manifest("tiny", 3, {"functional": {"object": {"train": 5, "val": 2}}}, {"regions": 4})
    save_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path) == manifest
    assert split_size(tmp_path, task("functional", "o"), "train") == 5
    with pytest.raises(DataError, match="does not have task attribute"):
        split_size(tmp_path, task("functional", "a"), "train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "no 'tasks'"),
        ({"tasks": {"other": {}}}, "'other' is not a setting"),
        ({"tasks": {"scene": []}}, "not a table"),
        ({"tasks": {"scene": {"object": {}}}}, "'object' is not a task"),
        ({"tasks": {"functional": {"object": {"train": 5}}}}, "'val' is not a number"),
        ({"tasks": {"functional": {"object": {"train": -1, "val": 2}}}}, "'train' is not a number"),
    ],
)
def test_a_malformed_manifest_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    write_json(tmp_path / "manifest.json", content)
    with pytest.raises(DataError, match=rf"manifest\.json: .*{said}"):
        load_manifest(tmp_path)


def test_published_vocabulary_has_6182_lines(shared_data: Path) -> None:
    words = load_vocabulary(shared_data / "clvqa_answer_6k.txt")
    assert len(words) == PUBLISHED_SIZE == 6182
    assert words[:5] == [*SPECIALS, "yes"]


def test_a_vocabulary_survives_saving(tmp_path: Path) -> None:
    words = [*SPECIALS, "yes", "red car"]
    save_vocabulary(tmp_path / "v.txt", words)
    assert load_vocabulary(tmp_path / "v.txt") == words


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["yes", *SPECIALS], "first lines must be <pad> <s> </s> <unk>"),
        (["<pad>", "</s>", "<s>", "<unk>"], "first lines"),
        ([*SPECIALS, "yes", "", "no"], "line 6 is blank"),
        ([*SPECIALS, "yes", "no", "yes "], "line 7: 'yes' already occurs on line 5"),
        ([], "first lines"),
    ],
)
def test_a_faulty_vocabulary_is_refused_with_the_line(tmp_path: Path, lines: list[str], said: str) -> None:
    (tmp_path / "v.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load_vocabulary(tmp_path / "v.txt")


def test_a_vocabulary_that_is_no_text_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(b"<pad>\n\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        load_vocabulary(tmp_path / "v.txt")
