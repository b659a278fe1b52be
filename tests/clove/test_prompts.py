"""Scene-graph prompts: their files, the parsing of items, and the sampling of prompts for each task."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clove_builders import make_record

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.prompts import (
    MOST_FREQUENT,
    load_prompts,
    sample_prompts,
    save_prompts,
    setting_prompts,
    task_prompts,
)
from mmclvqa.clove.records import save_records
from mmclvqa.clove.scene_graph_items import OCR, head, read_item
from mmclvqa.clove.tasks import SETTINGS, task, tasks
from sg_generation.__main__ import main


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


# ------------------------------------------------------------------------------ files


def test_published_scene_prompts_have_20000_of_one_item_per_task(shared_data: Path) -> None:
    prompts = load_prompts(shared_data / "stage_sg_scene_setting_50u-50c.json", "scene")
    assert list(prompts) == [task.name for task in tasks("scene").values()]
    assert all(len(listed) == 20000 for listed in prompts.values())
    assert all(len(prompt) == 1 for listed in prompts.values() for prompt in listed)


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
        ({"object": [[" "]]}, "not text"),
        ({"a#ShopAndDining": [["dog"]]}, "not a task of the functional setting"),
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


def test_attributes_are_those_before_the_noun() -> None:
    item = read_item("red round glass")
    assert (item.values("color"), item.values("material"), item.values("shape")) == ({"red"}, set(), {"round"})
    assert not read_item("glass").values("material") and not read_item("red cup on table").values("color")


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


def test_relation_prompts_are_a_triple_and_one_that_shares_an_object() -> None:
    records = [
        about("man near red dog", "dog on sofa", "dog"),
        about("cat on sofa", "brown dog"),
        about("cup in box", "sofa"),
    ]
    prompts = sample("relation", records)
    assert {frozenset(prompt) for prompt in prompts} == {
        frozenset(("man near red dog", "dog on sofa")),
        frozenset(("dog on sofa", "cat on sofa")),
    }
    for first, second in prompts:
        one, other = read_item(first), read_item(second)
        assert {head(one.subject), head(one.object)} & {head(other.subject), head(other.object)}


def test_the_second_triple_is_drawn_among_all_that_share_an_object_by_its_weight() -> None:
    records = [about("man near dog")] + [about("dog on sofa")] * 63 + [about("cat under man")]
    seconds = Counter(second for first, second in sample("relation", records, 9000) if first == "man near dog")
    # log 64 : log 2 = 6 : 1
    assert seconds["dog on sofa"] / seconds["cat under man"] == pytest.approx(6, rel=0.3)


def test_relation_prompts_hold_no_single_words_and_no_item_twice() -> None:
    assert sample("relation", [about("cup on table", "table", "red table")], 2) == [["cup on table"]] * 2
    with pytest.raises(DataError, match="task relation: no training record has a related item that is a triple"):
        sample("relation", [about("table", "red table")])


def test_logical_prompts_are_two_objects_with_the_same_value_of_a_kind() -> None:
    records = [about("red cup", "blue car", "red bus"), about("round table", "round clock", "old man", "old dog")]
    pairs = {frozenset(prompt) for prompt in sample("logical", records, 2000)}
    assert pairs == {frozenset(("red cup", "red bus")), frozenset(("round table", "round clock"))}


def test_logical_prompts_draw_the_kind_of_attribute_with_weights_10_5_1() -> None:
    records = [about("red cup", "red bus", "blue cup", "blue bus")] * 9
    records += [about("metal cup", "metal bus"), about("round cup", "round bus")] * 40
    kinds = Counter(first.split()[0] for first, _ in sample("logical", records, 16000))
    assert kinds["red"] + kinds["blue"] == pytest.approx(10000, rel=0.05)
    assert kinds["metal"] == pytest.approx(5000, rel=0.05)
    assert kinds["round"] == pytest.approx(1000, rel=0.15)


def test_an_object_with_attributes_of_two_kinds_is_paired_by_the_kind_drawn() -> None:
    records = [about("red round cup", "red bus", "round table")]
    pairs = {frozenset(prompt) for prompt in sample("logical", records)}
    assert pairs == {frozenset(("red round cup", "red bus")), frozenset(("red round cup", "round table"))}


def test_knowledge_prompts_are_a_fact_and_an_item_about_it() -> None:
    records = [
        about("cup used for drinking", "red cup", fact=["cup", "UsedFor", "drinking"]),
        about("dog is capable of hunting", "brown dog", fact=["dog", "CapableOf", "hunting"]),
        about("table", "cup on table"),
    ]
    assert {tuple(prompt) for prompt in sample("knowledge", records)} == {
        ("cup used for drinking", "red cup"),
        ("cup used for drinking", "cup on table"),
        ("dog is capable of hunting", "brown dog"),
    }


def test_a_fact_that_is_no_item_of_the_graph_is_one_of_a_prompt() -> None:
    records = [about("red cup", fact=["cup", "is used for", "drinking"])]
    assert sample("knowledge", records, 2) == [["cup is used for drinking", "red cup"]] * 2


def test_facts_of_the_kind_a_type_of_are_no_prompts() -> None:
    records = [
        about("cup used for drinking", "red cup", fact=["cup", "used for", "drinking"]),
        about("cup is a type of container", "blue cup", fact=["cup", "is a type of", "container"]),
    ]
    assert {tuple(prompt) for prompt in sample("knowledge", records)} == {
        ("cup used for drinking", "red cup"),
        ("cup used for drinking", "blue cup"),
    }


def test_scenetext_prompts_are_one_item_with_a_word() -> None:
    records = [about("red sign with [OCR] stop", "blue sign with [OCR] go", "man"), about("door with [OCR]")]
    assert {tuple(prompt) for prompt in sample("scenetext", records)} == {
        ("red sign with [OCR] stop",),
        ("blue sign with [OCR] go",),
    }


def test_where_no_two_items_go_together_prompts_are_single_items() -> None:
    assert sample("logical", [about("red cup", "blue bus", "old man")], 99) != [["old man"]] * 99
    assert {len(prompt) for prompt in sample("logical", [about("red cup", "blue bus")])} == {1}
    fact = about("dog is capable of hunting", "red cup", fact=["dog", "CapableOf", "hunting"])
    assert sample("knowledge", [fact], 2) == [["dog is capable of hunting"]] * 2


def test_equal_seeds_give_equal_prompts_whatever_the_global_state() -> None:
    records = [about("red car", "red bus"), about("round cup", "round plate"), about("red cup")]
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
    two = {"relation", "logical", "knowledge"} if setting == "functional" else set()
    for name, listed in prompts.items():
        assert len(listed) == 50
        assert {len(prompt) for prompt in listed} == {2 if name in two else 1}
        assert not any("[SEP]" in item for prompt in listed for item in prompt)
        assert name != "scenetext" or all(OCR in item for (item,) in listed)
    assert prompts == setting_prompts(clove_mini, setting, per_task=50)
    assert prompts != setting_prompts(clove_mini, setting, per_task=50, seed=1)


Sample = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sg_generation(capsys: pytest.CaptureFixture[str]) -> Sample:
    """Run ``python -m sg_generation ARGUMENTS`` in this process; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_command_writes_a_file_that_srm_reads(
    clove_mini: Path, tmp_path: Path, setting: str, sg_generation: Sample
) -> None:
    out = tmp_path / "prompts.json"
    arguments = ("--setting", setting, "--out", out, "--data_dir", clove_mini, "--per_task", 9, "--seed", 4)
    code, printed, _ = sg_generation(*arguments)
    assert code == 0 and str(out) in printed
    assert load_prompts(out, setting) == setting_prompts(clove_mini, setting, 9, 4)


def test_an_unknown_setting_is_looked_for_in_the_given_data_root(
    data_root: Path, sg_generation: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOVE_ROOT", "/elsewhere")
    code, _, err = sg_generation("--setting", "mines", "--data_dir", data_root)
    assert code == 1 and f"{data_root}/settings or /elsewhere/settings\n" in err


def test_errors_of_the_command_are_one_line(data_root: Path, tmp_path: Path, sg_generation: Sample) -> None:
    def message(*arguments: object) -> str:
        code, _, error = sg_generation(*arguments)
        assert code == 1 and error.startswith("error: ") and error.count("\n") == 1
        return error

    assert "no such folder" in message("--setting", "scene", "--data_dir", tmp_path / "none")
    assert "fcl_mmf_a#ShopAndDining_train.npy: there is no such file" in message(
        "--setting", "scene", "--data_dir", data_root
    )
    assert "already exists" in message("--setting", "functional", "--data_dir", data_root)
    out = tmp_path / "none" / "out.json"
    assert f"--out {out}: there is no folder {tmp_path}/none; create it" in message(
        "--setting", "functional", "--data_dir", data_root, "--out", out
    )
    assert not out.parent.exists()
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
    name = "f#Outdoors"
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
    assert all(0.6 < share < 0.9 for share in shares), shares
