"""Which records of earlier tasks join the training records, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import mmclvqa.methods  # noqa: F401  (registers the methods)
from mmclvqa.clove.data_root import Manifest, save_manifest
from mmclvqa.clove.errors import CloveError, ConfigError, DataError, TaskError
from mmclvqa.clove.records import new_record, save_records
from mmclvqa.clove.tasks import Task, parse_order, task, tasks
from mmclvqa.methods.replay import Replays, ceiling_choice, choose
from mmclvqa.methods.selection import method_defaults, select_methods

CASES = json.loads((Path(__file__).parents[1] / "fixtures" / "replay_selection.json").read_text())
UNSET = ("reg_type", "reg_params_pth", "reg_lambda", "replay_dir", "replay_rate", "replay_mask_img", "restore_rate")
UNSET += ("restore_dir", "restore_paths", "max_restore_per_stage", "gem_memory_batch", "method", "previous_dir")
SIZES = {"object": 40, "attribute": 31, "relation": 20, "logical": 20, "knowledge": 20, "scenetext": 20}


def replays(past: Task, count: int, stage: str | None = None) -> list[dict[str, Any]]:
    stage = stage or f"{past.name}_gen"
    return [new_record(question_id=f"{past.letter}{n:05d}", stage=stage, set_name="train") for n in range(count)]


def select_replays(root: Path, settings: dict[str, Any]) -> Replays:
    """The replays of the methods that ``training.CL`` selects."""
    continual = dict.fromkeys(UNSET) | {"gem_variant": "gem", "replay_rate": 0.2, "replay_mask_img": False} | settings
    trainer = "GEM" if settings["replay_method"] == "gem" else "mmf"
    training = {"training": {"trainer": trainer, "CL": continual}, "optimizer": {"type": "Adam"}}
    config = OmegaConf.merge(OmegaConf.create(method_defaults()), OmegaConf.create(training))
    selected = [replays for replays in (one.replays(root) for one in select_methods(config)) if replays is not None]
    assert len(selected) <= 1
    return selected[0] if selected else Replays()


def ids(mix: Replays) -> list[str]:
    return [record["question_id"] for record in mix.records]


def digest(question_ids: list[str]) -> str:
    return hashlib.sha256("\n".join(question_ids).encode()).hexdigest()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['task_order']}-{case['cur_task']}")
def test_the_ceiling_rule_chooses_what_the_published_code_chooses(case: dict[str, Any]) -> None:
    order = parse_order(case["cl_setting"], case["task_order"])
    sizes = [known.train_size for known in order]
    current = order.index(task(case["cl_setting"], case["cur_task"]))
    kept = {
        known.letter: ceiling_choice(case["pool_size"], case["restore_rate"], sizes, past, current)
        for past, known in enumerate(order[:current])
    }
    chosen = [f"{letter}{index:05d}" for letter, indices in kept.items() for index in indices]
    assert {letter: len(indices) for letter, indices in kept.items()} == case["counts"]
    assert (chosen[:5], chosen[-5:]) == (case["first"], case["last"])
    assert digest(chosen) == case["sha256"]


def test_files_of_a_root_without_manifest_are_chosen_from_by_the_published_sizes(tmp_path: Path) -> None:
    case = next(case for case in CASES if case["cur_task"] == "b#Workplace")
    past = task("scene", "a")
    save_records(tmp_path / "abcdef_REPLAY[a]_AT[b].npy", replays(past, case["pool_size"]))
    settings = {name: case[name] for name in ("cl_setting", "task_order", "cur_task", "restore_rate")}
    settings |= {"use_cl": True, "use_replay": True, "replay_method": "restore_with_prob"}
    settings |= {"restore_dir": str(tmp_path), "restore_paths": "abcdef_REPLAY[a]_AT[b].npy"}
    mix = select_replays(tmp_path, settings)
    assert mix.counts == {"a#ShopAndDining": case["counts"]["a"]}
    assert digest(ids(mix)) == case["sha256"]


def test_the_choice_is_numpys_and_leaves_its_global_state_alone() -> None:
    np.random.seed(7)
    before = np.random.get_state()
    chosen = choose(1000, 300)
    after = np.random.get_state()
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))
    np.random.seed(1234)
    assert np.array_equal(chosen, np.random.choice(1000, 300, replace=False))
    np.random.set_state(before)


# ------------------------------------------------------------------------------ a small root with a manifest

Setup = Callable[..., dict[str, Any]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Real train records of all functional tasks, and a manifest that says how many."""
    folder = tmp_path / "clove"
    for known in tasks("functional").values():
        records = replays(known, SIZES[known.name], stage=known.name)
        save_records(folder / known.annotation_path("train"), records)
    sizes = {name: {"train": count, "val": 4} for name, count in SIZES.items()}
    save_manifest(folder, Manifest("tiny", 1, {"functional": sizes}))
    return folder


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """``setup(order, current, pool=..., **keys)``: training.CL of a task, with SRM's files before it."""

    def setup(order: str, current: str, pool: int = 50, **keys: Any) -> dict[str, Any]:
        learned = parse_order("functional", order)
        now = task("functional", current)
        names = []
        for past in learned[: learned.index(now)]:
            names.append(f"{order}_REPLAY[{past.letter}]_AT[{now.letter}].npy")
            save_records(tmp_path / "srm" / names[-1], replays(past, pool))
        return {
            "use_cl": True,
            "use_replay": True,
            "replay_method": "restore_with_prob",
            "cl_setting": "functional",
            "task_order": order,
            "cur_task": now.name,
            "restore_rate": 1.5,
            "restore_dir": str(tmp_path / "srm"),
            "restore_paths": ",".join(names),
        } | keys

    return setup


def test_other_data_counts_by_its_own_manifest(root: Path, setup: Setup) -> None:
    mix = select_replays(root, setup("oarlks", "relation", restore_rate=0.5))
    # object: ceil(.5 * 31 / 1) = 16, then ceil(.5 * 20 / 2) = 5; attribute: 5 at once
    assert mix.counts == {"object": 5, "attribute": 5}
    first = choose(50, math.ceil(0.5 * 31))
    second = first[choose(16, 5)]
    assert ids(mix)[:5] == [f"o{index:05d}" for index in second]


def test_a_file_with_fewer_replays_than_asked_for_is_taken_whole_and_in_order(root: Path, setup: Setup) -> None:
    mix = select_replays(root, setup("oarlks", "attribute", pool=30, restore_rate=1.5))
    assert ids(mix) == [f"o{index:05d}" for index in range(30)]


def test_the_first_task_has_nothing_to_replay(root: Path, setup: Setup) -> None:
    for method in ("restore_with_prob", "restore_with_number", "random", "kmeans", "gem"):
        keys = setup("oarlks", "object", replay_method=method, replay_rate=0.1, max_restore_per_stage=5)
        assert select_replays(root, keys) == Replays()


@pytest.mark.parametrize("keys", [{"use_replay": False, "use_cl": False}, {"replay_method": "gem"}])
def test_nothing_is_mixed_without_replay_and_with_gem(root: Path, setup: Setup, keys: dict[str, Any]) -> None:
    assert select_replays(root, setup("oarlks", "relation", **keys)) == Replays()


def test_restore_with_number_cuts_each_file_at_random(root: Path, setup: Setup) -> None:
    keys = setup("oarlks", "relation", replay_method="restore_with_number", max_restore_per_stage=7)
    mix = select_replays(root, keys)
    assert mix.counts == {"object": 7, "attribute": 7}
    assert ids(mix) == [f"{letter}{index:05d}" for letter in "oa" for index in choose(50, 7)]
    keys["max_restore_per_stage"] = 100
    assert ids(select_replays(root, keys)) == [f"{letter}{index:05d}" for letter in "oa" for index in range(50)]


@pytest.mark.parametrize(("masked", "suffix"), [(False, "_replay"), (True, "_replay_##")])
def test_random_replays_real_records_by_the_same_rule(root: Path, setup: Setup, masked: bool, suffix: str) -> None:
    keys = setup("oarlks", "relation", replay_method="random", replay_rate=0.5, replay_mask_img=masked)
    mix = select_replays(root, keys)
    assert mix.counts == {"object": 5, "attribute": 5}
    indices = [ceiling_choice(SIZES[name], 0.5, list(SIZES.values()), past, 2) for past, name in enumerate(mix.counts)]
    assert ids(mix) == [f"{letter}{i:05d}" for letter, kept in zip("oa", indices, strict=True) for i in kept]
    assert Counter(r["stage"] for r in mix.records) == {f"object{suffix}": 5, f"attribute{suffix}": 5}


@pytest.mark.parametrize("suffix", ["", "_replay"])
def test_kmeans_appends_what_the_callback_stored(root: Path, setup: Setup, tmp_path: Path, suffix: str) -> None:
    stored = replays(task("functional", "o"), 3, f"object{suffix}")
    stored += replays(task("functional", "a"), 2, "attribute")
    save_records(tmp_path / "memory" / "kmeans_replay.npy", stored)
    keys = setup("oarlks", "relation", replay_method="kmeans", replay_dir=str(tmp_path / "memory"))
    mix = select_replays(root, keys)
    assert mix.counts == {"object": 3, "attribute": 2}
    assert {record["stage"] for record in mix.records} == {"object_replay", "attribute_replay"}


def test_the_log_line_says_how_many_of_which_task_join_how_many(root: Path, setup: Setup) -> None:
    mix = select_replays(root, setup("oarlks", "relation", restore_rate=0.5))
    assert (
        mix.describe(20, "relation")
        == "10 replays are added to 20 real records of relation (5 of object, 5 of attribute)"
    )


# ------------------------------------------------------------------------------ what is refused, in one line


def refused(root: Path, keys: dict[str, Any], kind: type[CloveError], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        select_replays(root, keys)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_wrong_number_of_replay_files_is_refused(root: Path, setup: Setup) -> None:
    keys = setup("oarlks", "relation")
    keys["restore_paths"] = keys["restore_paths"].split(",")[0]
    refused(root, keys, ConfigError, "restore_paths lists 1 files", "relation", "2 tasks (o a)")
    refused(root, keys | {"restore_paths": None}, ConfigError, "restore_paths lists 0 files")
    first = setup("oarlks", "object", restore_paths="oarlks_REPLAY[o]_AT[a].npy")
    refused(root, first, ConfigError, "restore_paths lists 1 files", "0 tasks (none)")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("roslak_REPLAY[o]_AT[a].npy", "its task order is roslak instead of oarlks"),
        ("oarlks_REPLAY[r]_AT[a].npy", "its replayed task is r instead of o"),
        ("oarlks_REPLAY[o]_AT[l].npy", "its task about to be learned is l instead of a"),
    ],
)
def test_a_file_named_for_another_order_or_task_is_refused(root: Path, setup: Setup, name: str, part: str) -> None:
    refused(root, setup("oarlks", "attribute", restore_paths=name), DataError, part, "oarlks_REPLAY[o]_AT[a].npy")


@pytest.mark.parametrize("stage", ["attribute_gen", "b#Workplace_gen"])
def test_records_of_another_task_are_refused_whatever_the_file_is_called(
    root: Path, setup: Setup, tmp_path: Path, stage: str
) -> None:
    records = replays(task("functional", "o"), 3)
    records[1]["stage"] = stage
    save_records(tmp_path / "srm" / "mine.npy", records)
    keys = setup("oarlks", "attribute", restore_paths="mine.npy")
    refused(root, keys, DataError, "mine.npy: record 1 (question_id o00001)", stage, "should replay object")


def test_an_empty_and_a_missing_replay_file_are_refused(root: Path, setup: Setup, tmp_path: Path) -> None:
    save_records(tmp_path / "srm" / "empty.npy", [])
    refused(root, setup("oarlks", "attribute", restore_paths="empty.npy"), DataError, "empty.npy", "no records")
    refused(root, setup("oarlks", "attribute", restore_paths="none.npy"), DataError, "none.npy", "no such file")


def test_a_kmeans_memory_with_the_current_task_in_it_is_refused(root: Path, setup: Setup, tmp_path: Path) -> None:
    save_records(tmp_path / "memory" / "kmeans_replay.npy", replays(task("functional", "r"), 2, "relation"))
    keys = setup("oarlks", "relation", replay_method="kmeans", replay_dir=str(tmp_path / "memory"))
    refused(root, keys, DataError, "kmeans_replay.npy: record 0", "object or attribute")


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"use_cl": False}, ("use_cl=True",)),
        ({"cl_setting": None}, ("training.CL.cl_setting is missing",)),
        ({"cl_setting": "visual"}, ("cl_setting=visual", "functional, scene")),
        ({"task_order": None}, ("training.CL.task_order is missing",)),
        ({"cur_task": None}, ("training.CL.cur_task is missing",)),
        ({"restore_rate": None}, ("training.CL.restore_rate=null: it must be a number above 0",)),
        ({"restore_rate": 0}, ("restore_rate=0", "above 0")),
        ({"restore_dir": None}, ("training.CL.restore_dir is missing",)),
        ({"replay_method": "restore_with_number"}, ("training.CL.max_restore_per_stage is missing",)),
        ({"replay_method": "random", "replay_rate": None}, ("training.CL.replay_rate=null: it must be a number",)),
        ({"replay_method": "kmeans"}, ("training.CL.replay_dir is missing",)),
        ({"replay_method": "randon"}, ("replay_method=randon", "restore_with_prob", "kmeans", "mean random?")),
        ({"replay_method": None}, ("replay_method=None", "restore_with_number")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_key_that_cannot_be_followed_is_named(
    root: Path, setup: Setup, keys: dict[str, Any], parts: tuple[str, ...]
) -> None:
    refused(root, setup("oarlks", "attribute", **keys), ConfigError, *parts)


def test_a_foreign_letter_in_the_order_is_refused(root: Path, setup: Setup) -> None:
    keys = setup("oarlks", "attribute") | {"task_order": "oarlkz"}
    refused(root, keys, TaskError, "oarlkz", "z is not a task of the functional setting")


# ------------------------------------------------------------------------------ through mmf_run's own data set


def test_the_data_set_holds_the_replays_after_its_own_records(clove_mini: Path, build_clvqa: Any, setup: Setup) -> None:
    keys = setup("oarlks", "attribute", pool=200, restore_rate=1.5)
    words = [f"training.CL.{key}={value}" for key, value in keys.items()]
    data, log = build_clvqa("attribute", "train", *words)
    assert len(data) == 64 + math.ceil(1.5 * 64)
    assert [data.records[index]["stage"] for index in (0, 63, 64)] == ["attribute", "attribute", "object_gen"]
    assert "replay: 96 replays are added to 64 real records of attribute (96 of object)" in log
    assert data[64].image_feature_0.abs().sum() == 0
    validation, _ = build_clvqa("attribute", "val", *words)
    assert len(validation) == 32


def test_a_replay_with_words_but_no_boxes_is_a_sample(build_clvqa: Any, setup: Setup, tmp_path: Path) -> None:
    keys = setup("soarlk", "object")
    words = {"ocr_tokens": ["open", "42"], "pred_scene_graph_seq": ["red sign with [OCR] open [SEP]"]}
    records = [record | words for record in replays(task("functional", "s"), 3)]
    save_records(tmp_path / "srm" / keys["restore_paths"], records)
    data, _ = build_clvqa("object", "train", *(f"training.CL.{key}={value}" for key, value in keys.items()))
    sample = data[64]
    assert int(sample.context_info_0.max_features) == 2
    assert sample.ocr_bbox_coordinates.abs().sum() == 0
