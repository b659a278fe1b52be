"""Scene-graph prompts and the answer vocabulary, the published ones where they are here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.prompts import load_prompts, save_prompts, task_prompts
from mmclvqa.clove.tasks import tasks
from mmclvqa.clove.vocabulary import PUBLISHED_SIZE, SPECIALS, load_vocabulary, save_vocabulary


def test_published_scene_prompts_have_20000_of_one_item_per_task(shared_data: Path) -> None:
    prompts = load_prompts(shared_data / "stage_sg_scene_setting_50u-50c.json", "scene")
    assert list(prompts) == [task.name for task in tasks("scene").values()]
    assert all(len(listed) == 20000 for listed in prompts.values())
    assert all(len(prompt) == 1 for listed in prompts.values() for prompt in listed)


def test_published_vocabulary_has_6182_lines(shared_data: Path) -> None:
    words = load_vocabulary(shared_data / "clvqa_answer_6k.txt")
    assert len(words) == PUBLISHED_SIZE == 6182
    assert words[:5] == [*SPECIALS, "yes"]


def test_prompts_survive_saving(tmp_path: Path) -> None:
    prompts = {"object": [["red dog"], ["red dog", "dog on grass"]]}
    save_prompts(tmp_path / "p.json", prompts)
    assert load_prompts(tmp_path / "p.json", "functional") == prompts
    assert task_prompts(tmp_path / "p.json", "functional", "o") == prompts["object"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "list"),
        ({"object": {}}, "task object"),
        ({"object": [["dog"], "dog"]}, "prompt 1"),
        ({"object": [[]]}, "prompt 0"),
        ({"object": [["dog", 3]]}, "item 3"),
        ({"object": [[" "]]}, "no text"),
        ({"a#ShopAndDining": [["dog"]]}, "no task of the functional setting"),
    ],
)
def test_malformed_prompts_are_refused_with_task_and_prompt(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "functional.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=rf"functional\.json: .*{said}"):
        load_prompts(path, "functional")


def test_a_task_without_prompts_is_named(tmp_path: Path) -> None:
    save_prompts(tmp_path / "p.json", {"object": [["dog"]], "logical": []})
    for name in ("logical", "relation"):
        with pytest.raises(DataError, match=f"no prompt for task {name}"):
            task_prompts(tmp_path / "p.json", "functional", name)


def test_missing_and_broken_prompt_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_prompts(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="JSON"):
        load_prompts(tmp_path / "p.json")


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
        ([*SPECIALS, "yes", "no", "yes "], "line 7: 'yes' stands on line 5"),
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
