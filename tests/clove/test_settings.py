"""Setting files: what they say, and how a mistake in one is refused."""

from __future__ import annotations

import ast
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from clove_builders import make_record

from mmclvqa.clove.data_root import Manifest, save_manifest, split_size
from mmclvqa.clove.errors import DataError, TaskError
from mmclvqa.clove.features import databases, feature_path
from mmclvqa.clove.records import load_records, save_records
from mmclvqa.clove.settings import PROMPT_KINDS
from mmclvqa.clove.tasks import (
    REPORTED_ORDERS,
    SETTINGS,
    find_setting,
    has_image,
    is_real_replay,
    order_index,
    order_text,
    parse_order,
    setting_argument,
    setting_names,
    task,
    task_name,
    tasks,
)

PROJECT = Path(__file__).resolve().parents[2]
SHAPES = [{"name": "shape", "letter": "s"}, {"name": "color #1", "letter": "col"}, {"name": "zahl-über 2"}]


def write(root: Path, content: Any = None, name: str = "shapes", **more: Any) -> Path:
    """Write a setting file into a data root and return its path."""
    path = root / "settings" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    content = {"tasks": SHAPES, **more} if content is None else content
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_setting_of_the_data_root_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TaskError, match="unknown setting 'shapes'; the settings are functional, scene; others are"):
        tasks("shapes")
    monkeypatch.setenv("CLOVE_ROOT", str(tmp_path))
    write(tmp_path)
    assert [one.letter for one in tasks("shapes").values()] == ["s", "col", "zahl_über 2"]
    assert task("shapes", "color #1_replay_##").annotation_path("test") == "shapes/color #1_val.npy"
    assert setting_argument("shapes") == "shapes"


def test_a_setting_given_by_its_path_is_then_known_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, annotations="{letter}/{name}.{split}.json", sweep_key="<{letter}>")
    assert find_setting(str(path)).name == "shapes" and setting_argument("shapes") == str(path)
    assert task("shapes", "s").annotation_path("train") == "s/shape.train.json"
    assert task("shapes", "col").sweep_key == "<col>"


def test_orders_are_written_in_letters_short_names_or_names(tmp_path: Path) -> None:
    shapes = str(write(tmp_path))
    for text in ("col,s,zahl_über 2", "color #1, shape,zahl-über 2", "col-s-zahl_über 2"):
        assert order_text(parse_order(shapes, text)) == "col-s-zahl_über 2"
    assert order_text(parse_order("functional", "object,attribute,r,l,k,s")) == "oarlks"
    for text, message in (
        ("col,s", "zahl_über 2 is missing"),
        ("col,s,s", "s occurs more than once"),
        ("col,s,", "'' is not a task of the shapes setting (its tasks are s, col, zahl_über 2)"),
        ("", "'' is not a task"),
    ):
        with pytest.raises(TaskError) as refused:
            parse_order(shapes, text)
        assert message in str(refused.value)


def test_the_index_of_an_order_is_its_position_among_the_permutations(tmp_path: Path) -> None:
    path = str(write(tmp_path, {"tasks": [{"name": name} for name in "tuvwx"]}))
    orders = ["".join(letters) for letters in itertools.permutations("tuvwx")]
    assert [order_index(path, order) for order in orders] == list(range(1, 121))
    many = str(write(tmp_path, {"tasks": [{"name": f"t{number}"} for number in range(30)]}, "many"))
    began = time.process_time()
    assert order_index(many, ",".join(f"t{number}" for number in reversed(range(30)))) > 10**30
    assert time.process_time() - began < 1


def test_reported_orders_are_a_list_or_a_table_with_indices(tmp_path: Path) -> None:
    assert find_setting(write(tmp_path)).orders == ("s-col-zahl_über 2",)
    for orders in (["col,s,zahl_über 2"], {"col,s,zahl_über 2": 3}):
        assert find_setting(write(tmp_path, orders=orders)).orders == ("col-s-zahl_über 2",)


FIRST = {"name": "shape"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("- a", "the file: must be a table"),
        ({}, "tasks: must be a list of at least two tasks"),
        ({"tasks": [FIRST]}, "tasks: must be a list of at least two tasks"),
        ({"task": [FIRST]}, "task: there is no such key; did you mean tasks?"),
        ({"tasks": [FIRST, {"nam": "x"}]}, "tasks[1].nam: there is no such key; did you mean name?"),
        ({"tasks": [FIRST, {}]}, "tasks[1].name: is missing; it must be text"),
        ({"tasks": [FIRST, {"name": False}]}, "tasks[1].name: is False; it must be text; put quotes around it"),
        ({"tasks": [FIRST, {"name": "a/b"}]}, "tasks[1].name: 'a/b' is not a name: a letter, then letters, digits"),
        ({"tasks": [FIRST, {"name": "x_gen"}]}, "tasks[1].name: 'x_gen' is reserved"),
        ({"tasks": [FIRST, {"name": "multitask"}]}, "tasks[1].name: 'multitask' is reserved"),
        ({"tasks": [FIRST, {"name": "x", "letter": "a-b"}]}, "tasks[1].letter: 'a-b' contains '-', which joins"),
        ({"tasks": [FIRST, FIRST]}, "tasks[1].letter: 'shape' is also that of tasks[0]; rename one"),
        (
            {"tasks": [{"name": "x", "letter": "s"}, {"name": "y", "letter": "s"}]},
            "tasks[1].letter: 's' is also that of tasks[0]; rename one",
        ),
        ({"tasks": [{"name": name} for name in ("a", "b2c", "a2b", "c")]}, "tasks: sweep keys such as a2b are amb"),
        ({"tasks": [FIRST, {"name": "y", "train": 0}]}, "tasks[1].train: is 0; it must be a whole number above 0"),
        ({"tasks": [FIRST, {"name": "y", "val": "3"}]}, "tasks[1].val: is '3'; it must be a whole number above 0"),
        ({"tasks": [FIRST, {"name": "y", "prompts": "hue"}]}, f"'hue' is not one of {', '.join(PROMPT_KINDS)}"),
        ({"tasks": [FIRST, {"name": "y", "annotations": "y.npy"}]}, "'y.npy' must contain {split}"),
        ({"tasks": SHAPES, "orders": ["s,col,count"]}, "orders: task order 's,col,count': count is not a task"),
        ({"tasks": SHAPES, "orders": {"s,col,zahl_über 2": 2}}, "orders.s,col,zahl_über 2: its index is 1, not 2"),
        ({"tasks": SHAPES, "abbreviation": "../x"}, "abbreviation: '../x' is not a name"),
        ({"tasks": SHAPES, "orders": "s"}, "orders: must be a list of task orders"),
        ({"tasks": SHAPES, "image_sources": {"x": {}}}, "image_sources.x.features: must be one or two databases"),
        ({"tasks": SHAPES, "image_sources": {"vg": {"features": "x"}}}, "image_sources.vg: has other databases in"),
        ({"tasks": SHAPES, "task_configs": "yes"}, "task_configs: is 'yes'; it must be true or false"),
        (
            {"tasks": [{"name": letter * 50} for letter in "abö"]},
            "tasks: file names would have 423 bytes for the tasks and their order, and 200 are possible; give the",
        ),
    ],
)
def test_a_mistake_in_a_file_is_refused_with_file_key_and_mend(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(TaskError) as refused:
        find_setting(path)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("character", list("\"'$`\\"))
def test_a_path_that_commands_cannot_quote_is_refused(tmp_path: Path, character: str) -> None:
    path = tmp_path / f"a{character}b" / "settings" / "shapes.yaml"
    path.parent.parent.mkdir()
    write(path.parent.parent)
    with pytest.raises(TaskError, match="shapes.yaml: commands cannot name a setting with .* in its path"):
        setting_argument(path)


def test_a_missing_file_and_a_taken_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="nowhere.yaml: there is no such setting file"):
        find_setting(tmp_path / "nowhere.yaml")
    with pytest.raises(TaskError, match="scene.yaml: this package has a setting 'scene'; give the file another name"):
        find_setting(write(tmp_path, name="scene"))


def test_records_are_counted_and_a_number_that_contradicts_them_is_refused(tmp_path: Path) -> None:
    shapes = [{"name": "shape", "train": 3}, {"name": "size", "val": 5}]
    path = write(tmp_path, {"tasks": shapes})
    shape, size = find_setting(path).tasks.values()
    with pytest.raises(DataError, match=rf"shapes/shape_train.npy: there is no such file .*; {path} names it as annot"):
        split_size(tmp_path, shape, "train")
    for name, split in itertools.product(("shape", "size"), ("train", "val")):
        save_records(tmp_path / f"shapes/{name}_{split}.npy", [make_record(name, number) for number in range(3)])
    assert split_size(tmp_path, shape, "train") == split_size(tmp_path, shape, "val") == 3
    assert split_size(tmp_path, size, "train") == 3
    with pytest.raises(DataError, match=rf"{path}: task size: val is 5, but .*size_val.npy has 3 records; correct"):
        split_size(tmp_path, size, "val")
    save_manifest(tmp_path, Manifest("x", None, {"shapes": {"size": {"train": 3, "val": 4}}}))
    with pytest.raises(DataError, match="val is 5, but .*manifest.json has 4 records"):
        split_size(tmp_path, size, "val")


def test_check_names_a_wrong_number_and_a_broken_file(tmp_path: Path, data_root: Path, run_clove: Any) -> None:
    shapes = write(data_root, {"tasks": [{"name": "shape", "train": 4}, {"name": "size"}]})
    write(data_root, "[", "broken")
    for name, split in itertools.product(("shape", "size"), ("train", "val")):
        save_records(data_root / f"shapes/{name}_{split}.npy", [make_record(name, number) for number in range(3)])
    code, out, _ = run_clove("check", data_root)
    assert code == 1
    assert f"shape_train.npy: 3 records instead of 4, the number for train in {shapes}" in out
    assert "settings/broken.yaml: is not valid YAML" in out
    assert "scene_graph_prompts/shapes.json: there is no such file" in out and out.rstrip().endswith("3 problems")


def test_check_counts_records_of_a_setting_without_manifest(tmp_path: Path, data_root: Path, run_clove: Any) -> None:
    write(tmp_path, {"tasks": [{"name": "shape"}, {"name": "size"}]})
    save_records(tmp_path / "shapes/shape_train.npy", [make_record("shape", 0)])
    assert "none: records are counted" in run_clove("check", tmp_path)[1]
    (data_root / "manifest.json").unlink()
    assert "none: sizes of published CLOVE" in run_clove("check", data_root)[1]


def test_image_sources_of_a_setting_are_known_to_its_records(tmp_path: Path) -> None:
    save_records(tmp_path / "x.npy", [make_record("shape", image_source="drawings")])
    (record,) = load_records(tmp_path / "x.npy")
    assert record["image_source"] == "vg"
    find_setting(write(tmp_path, image_sources={"drawings": {"features": ["a.lmdb", "b.lmdb"], "prefix": "all/"}}))
    (record,) = load_records(tmp_path / "x.npy")
    assert databases("drawings") == ("features/a.lmdb", "features/b.lmdb")
    assert record["image_source"] == "drawings" and feature_path(record) == "all/0.npy"


def test_settings_with_an_image_source_of_the_same_name_read_their_own_databases(tmp_path: Path) -> None:
    files = {name: write(tmp_path, image_sources={"photos": {"features": name}}, name=name) for name in ("one", "two")}
    for name in ("one", "two", "one"):
        find_setting(files[name])
        assert databases("photos") == (f"features/{name}",)


def test_source_code_names_no_task_setting_order_or_image_source_of_the_package() -> None:
    """Except for clove-mini, the published files and the translation of published configurations."""
    named = {*SETTINGS, *(order for orders in REPORTED_ORDERS.values() for order in orders), "vg", "textvqa", "gqa"}
    named |= {one.name for setting in SETTINGS for one in tasks(setting).values()} - set(PROMPT_KINDS)
    files = [PROJECT / "eval_os.py", PROJECT / "generate_run_scripts.py"]
    files += [path for folder in ("mmclvqa", "SRM", "sg_generation") for path in (PROJECT / folder).rglob("*.py")]
    files = [path for path in files if path.parent.name != "mini"]
    files = [path for path in files if path.name not in ("download.py", "published_configs.py")]
    assert len(files) > 60
    for path in files:
        constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not named & {value for value in constants if isinstance(value, str)}, path


def test_a_file_given_by_its_path_comes_before_one_of_the_data_root_with_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "root").mkdir()
    given = write(tmp_path / "else", annotations="given/{name}_{split}.npy", name="twice")
    write(tmp_path / "root", name="twice")
    assert find_setting(given).name == "twice"
    assert "twice" in setting_names(tmp_path / "root")
    assert task("twice", "s").annotation_path("train") == "given/shape_train.npy"


def test_a_task_name_may_contain_what_stages_end_with(tmp_path: Path) -> None:
    find_setting(write(tmp_path, {"tasks": [{"name": "person_gender"}, {"name": "tv_replay_show"}]}, name="suffixes"))
    assert has_image("person_gender") and not has_image("person_gender_gen")
    assert not is_real_replay("tv_replay_show") and is_real_replay("tv_replay_show_replay_##")


@pytest.mark.parametrize("suffixes", ["_gen_replay", "_##_replay", "_replay_gen", "_gen_replay_##"])
def test_suffixes_of_a_stage_may_be_in_any_order(suffixes: str) -> None:
    assert is_real_replay(f"object{suffixes}") and not has_image(f"object{suffixes}")
    assert task_name(f"object{suffixes}") == "object" and task_name("a#ShopAndDining") == "a#ShopAndDining"
