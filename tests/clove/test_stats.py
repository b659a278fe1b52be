"""``stats``: what the tasks of a data root are like."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from clove_builders import make_record

from mmclvqa.clove.stats import root_stats, split_stats

Run = Callable[..., tuple[int, str, str]]
WORDS = frozenset({"dog", "red", "car"})


def test_the_most_frequent_answer_and_its_share() -> None:
    records = [make_record(answer=answer) for answer in ("dog", "dog", "cat", "car")]
    stats = split_stats(records, WORDS)
    assert (stats["records"], stats["answers"]) == (4, 3)
    assert (stats["most_frequent_answer"], stats["most_frequent_share"]) == ("dog", 0.5)


@pytest.mark.parametrize(
    ("answer", "tokens", "shares"),
    [
        ("Red Car", [], (1, 0, 0)),
        ("stop", ["STOP"], (0, 1, 0)),
        ("red stop", ["Stop"], (0, 1, 0)),
        ("stop now", ["stop"], (0, 0, 1)),
        ("", [], (0, 0, 1)),
    ],
)
def test_where_an_answer_can_come_from(answer: str, tokens: list[str], shares: tuple[int, int, int]) -> None:
    stats = split_stats([make_record(answer=answer, ocr_tokens=tokens)], WORDS)
    assert (stats["from_vocabulary"], stats["from_ocr"], stats["from_neither"]) == shares


def test_lengths_are_given_as_quantiles() -> None:
    records = [make_record(question=" ".join(["word"] * length)) for length in range(1, 101)]
    assert split_stats(records, WORDS)["question_words"] == (51, 91, 100, 100)


def test_images_are_counted_once_and_withheld_ones_not() -> None:
    paths = [("vg", "1.npy"), ("vg", "1.npy"), ("textvqa", "1.npy"), (None, None)]
    records = [make_record(image_source=source, feature_path=path) for source, path in paths]
    assert split_stats(records, WORDS)["images"] == 2


def test_a_split_without_records_has_figures_too() -> None:
    assert split_stats([], WORDS)["records"] == 0


def test_every_file_gets_a_row_and_json_holds_the_same(data_root: Path, tmp_path: Path, run_clove: Run) -> None:
    target = tmp_path / "stats.json"
    code, out, _ = run_clove("stats", data_root, "--json", target)
    assert code == 0 and "functional setting" in out
    written = json.loads(target.read_text(encoding="utf-8"))["settings"]["functional"]
    assert written["scenetext"]["train"]["from_ocr"] == 1.0
    assert sum(len(splits) for splits in root_stats(data_root)["functional"].values()) == 12
    assert all(name in out for name in written)


def test_the_folder_of_the_json_file_must_exist_except_below_root(
    data_root: Path, tmp_path: Path, run_clove: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "root" / "results" / "stats.json"
    code, _, err = run_clove("stats", data_root, "--json", target)
    assert code == 1 and err.startswith(f"error: --json {target}: there is no folder {target.parent}; create it")
    assert not target.parent.exists()
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    assert run_clove("stats", data_root, "--json", target)[0] == 0 and target.exists()


def test_a_root_without_annotations_is_an_error(tmp_path: Path, run_clove: Run) -> None:
    code, _, err = run_clove("stats", tmp_path)
    assert code == 1 and "no annotation files of any known setting" in err
