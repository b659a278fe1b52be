"""Sampling scene-graph prompts: SPEC section 10."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clove_builders import make_record

from mmclvqa.clove.annotations import save_records
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.prompts import load_prompts
from mmclvqa.clove.scene_graph_items import head, read_item
from mmclvqa.clove.scene_graph_prompts import MOST_FREQUENT, fit_statistics, sample_prompts, setting_prompts
from mmclvqa.clove.tasks import SETTINGS, task, tasks


def about(*related: str, other: tuple[str, ...] = (), fact: list[str] | None = None) -> dict[str, Any]:
    """A record whose question is about the items ``related``."""
    items = [*related, *other]
    return make_record(
        gt_scene_graph_seq=[f"{item} [SEP]" for item in items],
        gt_scene_graph_mask=[1] * len(related) + [0] * len(other),
        supporting_fact=[{"triplet": fact}] if fact else [],
    )


def sample(name: str, records: list[dict[str, Any]], count: int = 400, setting: str = "functional") -> Any:
    return sample_prompts(records, task(setting, name), count, random.Random(3))


# ------------------------------------------------------------------------------ items


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("kiosk", ("kiosk", "", "")),
        ("red metal cup", ("red metal cup", "", "")),
        ("building behind man", ("building", "behind", "man")),
        ("traffic light left of fire hydrant", ("traffic light", "left of", "fire hydrant")),
        ("cord to the left of large brown cabinet", ("cord", "to the left of", "large brown cabinet")),
        ("man wearing brown shirt", ("man", "wearing", "brown shirt")),
        ("standing man leaning against wall", ("standing man", "leaning against", "wall")),
        ("standing eating zebra above ground", ("standing eating zebra", "above", "ground")),
        ("cat lying on top of bed", ("cat", "lying on top of", "bed")),
        ("red sign with [OCR] left of", ("red sign", "", "")),
        ("[OCR] stop", ("", "", "")),
    ],
)
def test_an_item_is_read_as_attributed_object_or_triple(text: str, parts: tuple[str, str, str]) -> None:
    item = read_item(text)
    assert (item.subject, item.predicate, item.object) == parts


def test_kinds_of_attributes_are_those_before_the_noun() -> None:
    assert read_item("red round glass").kinds() == ["color", "shape"]
    assert read_item("glass").kinds() == read_item("red cup on table").kinds() == []


# ------------------------------------------------------------------------------ what a prompt holds


def test_only_related_items_are_drawn_with_weight_log_of_one_more_than_their_count() -> None:
    records = [about("car", other=("tree",))] * 63 + [about("bus", other=("tree",))]
    drawn = Counter(item for prompt in sample("object", records, 7000) for item in prompt)
    # log 64 : log 2 = 6 : 1
    assert set(drawn) == {"car", "bus"} and drawn["bus"] == pytest.approx(1000, rel=0.1)


def test_only_the_most_frequent_items_are_drawn() -> None:
    records = [about(*(f"thing{number}" for number in range(MOST_FREQUENT)))] * 2 + [about("rare")]
    assert ["rare"] not in sample("object", records, 20000)


def test_object_and_scene_prompts_are_one_item() -> None:
    records = [about("red car", "bus"), about("bus near tree")]
    assert {len(prompt) for prompt in sample("object", records)} == {1}
    assert {item for (item,) in sample("object", records)} == {"red car", "bus"}
    assert {item for (item,) in sample("b", records, setting="scene")} == {"red car", "bus", "bus near tree"}


def test_attribute_prompts_are_one_attributed_object() -> None:
    records = [about("car"), about("red car"), about("red car near tree"), about("flat bus")]
    assert {item for (item,) in sample("attribute", records)} == {"red car", "flat bus"}


def test_relation_prompts_are_two_triples_that_share_an_object() -> None:
    records = [about("cup on table", "book on table"), about("man near dog"), about("dog on sofa"), about("table")]
    assert {frozenset(prompt) for prompt in sample("relation", records)} == {
        frozenset(("cup on table", "book on table"))
    }


def test_triples_share_an_object_in_the_roles_in_which_those_of_a_record_do() -> None:
    chained = [about("man near red dog", "dog on sofa"), about("cat on sofa", "sofa in room"), about("man in car")]
    assert fit_statistics(chained).links == {("subject", "object"), ("object", "subject")}
    for first, second in sample("relation", chained):
        one, other = read_item(first), read_item(second)
        assert head(one.object) == head(other.subject) or head(one.subject) == head(other.object)


def test_logical_prompts_are_two_objects_with_an_attribute_of_one_kind() -> None:
    records = [about("red cup", "blue car"), about("round table"), about("square sign"), about("old man")]
    pairs = {frozenset(prompt) for prompt in sample("logical", records)}
    assert pairs == {frozenset(("red cup", "blue car")), frozenset(("round table", "square sign"))}


def test_knowledge_prompts_are_a_fact_and_an_item_about_it() -> None:
    records = [
        about("cup used for drinking", "red cup", fact=["cup", "UsedFor", "drinking"]),
        about("dog is capable of hunting", "brown dog", fact=["dog", "CapableOf", "hunting"]),
        about("table", "cup on table"),
    ]
    for fact, item in sample("knowledge", records):
        assert (fact, item) in {
            ("cup used for drinking", "red cup"),
            ("cup used for drinking", "cup on table"),
            ("dog is capable of hunting", "brown dog"),
        }


def test_scenetext_prompts_are_items_with_a_word_on_different_things() -> None:
    records = [about("red sign with [OCR] stop", "blue sign with [OCR] go", "man"), about("red sign with [OCR] exit")]
    pairs = {frozenset(prompt) for prompt in sample("scenetext", records)}
    assert pairs == {
        frozenset(("red sign with [OCR] stop", "blue sign with [OCR] go")),
        frozenset(("red sign with [OCR] exit", "blue sign with [OCR] go")),
    }


def test_nothing_is_compared_with_its_like() -> None:
    records = [about("red car", "blue bus"), about("black bus", "green car")]
    heads = [{text.split()[-1] for text in prompt} for prompt in sample("logical", records)]
    assert heads and all(pair == {"car", "bus"} for pair in heads)


def test_relations_go_together_as_they_did_in_a_record() -> None:
    records = [about("cup on table", "dog left of table"), about("pen on table", "cat under table")]
    pairs = {frozenset(item.split()[1] for item in prompt) for prompt in sample("relation", records)}
    assert pairs == {frozenset(("on", "left")), frozenset(("on", "under"))}


def test_where_no_two_items_go_together_prompts_are_single_items() -> None:
    assert sample("relation", [about("cup on table")], 2) == [["cup on table"]] * 2


def test_equal_seeds_give_equal_prompts_whatever_the_global_state() -> None:
    records = [about("red car", "blue bus"), about("round cup", "flat plate"), about("red cup")]
    random.seed(1)
    first = sample("logical", records)
    random.seed(2)
    assert sample("logical", records) == first


def test_a_task_without_related_items_is_refused() -> None:
    with pytest.raises(DataError, match="task object: no training record has a related item"):
        sample("object", [about(other=("car",))])


# ------------------------------------------------------------------------------ both settings, and the command


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_small_worlds_records_give_prompts_for_every_task(clove_mini: Path, setting: str) -> None:
    prompts = setting_prompts(clove_mini, setting, per_task=50)
    assert list(prompts) == [known.name for known in tasks(setting).values()]
    two = {"relation", "logical", "knowledge", "scenetext"} if setting == "functional" else set()
    for name, listed in prompts.items():
        assert 0 < len(listed) <= 50
        assert {len(prompt) for prompt in listed} == {2 if name in two else 1}
        assert not any("[SEP]" in item for prompt in listed for item in prompt)
    assert prompts == setting_prompts(clove_mini, setting, per_task=50)
    assert prompts != setting_prompts(clove_mini, setting, per_task=50, seed=1)


def run(project: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sg_generation", *map(str, arguments)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_command_writes_a_file_that_srm_reads(
    project: Path, clove_mini: Path, tmp_path: Path, setting: str
) -> None:
    out = tmp_path / "prompts.json"
    done = run(project, "--setting", setting, "--out", out, "--data_dir", clove_mini, "--per_task", 9, "--seed", 4)
    assert done.returncode == 0, done.stderr
    assert load_prompts(out, setting) == setting_prompts(clove_mini, setting, 9, 4)
    assert str(out) in done.stdout


def test_the_command_tells_what_is_wrong_in_one_line(project: Path, data_root: Path, tmp_path: Path) -> None:
    def message(*arguments: object) -> str:
        done = run(project, *arguments)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        return done.stderr

    assert "no such folder" in message("--setting", "scene", "--data_dir", tmp_path / "none")
    assert "fcl_mmf_a#ShopAndDining_train.npy: there is no such file" in message(
        "--setting", "scene", "--data_dir", data_root
    )
    assert "is there already" in message("--setting", "functional", "--data_dir", data_root)
    save_records(data_root / task("functional", "o").annotation_path("train"), [about(other=("car",))])
    out = tmp_path / "out.json"
    assert "fcl_mmf_object_train.npy: task object: no training record has a related item" in message(
        "--setting", "functional", "--data_dir", data_root, "--out", out
    )
    assert not out.exists()


# ------------------------------------------------------------------------------ the published prompts


def test_sampling_is_like_the_published_prompts(shared_data: Path) -> None:
    """The published file as if its items were related items: ours has their form, and favours the same items."""
    published = load_prompts(shared_data / "stage_sg_scene_setting_50u-50c.json", "scene")
    assert {len(listed) for listed in published.values()} == {20000}
    assert {len(prompt) for listed in published.values() for prompt in listed} == {1}
    for name in ("a#ShopAndDining", "f#Outdoors"):
        listed = published[name]
        counts = Counter(item for (item,) in listed)
        frequent = {item for item, _ in counts.most_common(MOST_FREQUENT)}
        ours = Counter(item for (item,) in sample(name, [about(item) for (item,) in listed], 20000, "scene"))
        assert set(ours) <= frequent
        # Items seen often are drawn more often than items seen once, by log(1 + count).
        common = [item for item, count in counts.items() if count >= 15]
        single = [item for item in frequent if counts[item] == 1] or [min(frequent, key=counts.get)]
        rates = [sum(ours[item] for item in items) / len(items) for items in (common, single)]
        assert rates[0] > 2.5 * rates[1]
        shares = [
            sum(read_item(item).is_triple * count for item, count in drawn.items()) / drawn.total()
            for drawn in (counts, ours)
        ]
        assert all(0.6 < share < 0.9 for share in shares), (name, shares)
