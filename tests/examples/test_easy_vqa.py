"""The example on easy-VQA: its language, features and data, on images drawn in the form of the package."""

from __future__ import annotations

import importlib.util
import json
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from examples.easy_vqa import replays
from examples.easy_vqa.images import FEATURE_DIM, REGIONS, RGB, object_features, predict, read_image
from examples.easy_vqa.language import COLORS, KINDS, TASKS, Facts, is_true, parse_question, stated
from examples.easy_vqa.make_data import SETTING, main, make_root, package_folder, read_rows
from mmclvqa.clove.__main__ import main as clove
from mmclvqa.clove.data_root import BERT, existing_root, prompts_path
from mmclvqa.clove.experiment_paths import QAG_SEQ
from mmclvqa.clove.features import FeatureDatabase
from mmclvqa.clove.prompts import task_prompts as prompts_of
from mmclvqa.clove.records import load_records, new_record, save_records
from mmclvqa.clove.tasks import find_setting, setting_names
from mmclvqa.experiments.__main__ import main as experiments
from SRM.data import related_items

EXAMPLE = SETTING.parent
BACKGROUND = (240, 248, 252)


def draw(kind: str, color: str, box: tuple[int, int, int, int]) -> Image.Image:
    """Draw an image like those of easy-VQA, enlarged and reduced again for soft edges."""
    image = Image.new("RGB", (256, 256), BACKGROUND)
    left, top, right, bottom = (4 * side for side in box)
    pen = ImageDraw.Draw(image)
    if kind == "circle":
        pen.ellipse((left, top, right, bottom), RGB[color])
    elif kind == "rectangle":
        pen.rectangle((left, top, right, bottom), RGB[color])
    else:
        pen.polygon([((left + right) / 2, top), (left, bottom), (right, bottom)], RGB[color])
    return image.resize((64, 64), Image.Resampling.BOX)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the form of the package, with every color and kind in both splits."""
    folder = tmp_path_factory.mktemp("package")
    for split in ("train", "test"):
        rows = []
        (folder / "data" / split / "images").mkdir(parents=True)
        for image, (color, kind) in enumerate((color, kind) for color in COLORS for kind in KINDS):
            draw(kind, color, (10, 20, 30, 40)).save(folder / "data" / split / "images" / f"{image}.png")
            other = COLORS[COLORS.index(color) - 1]
            rows += [
                [f"what is the {color} shape?", kind, image],
                [f"what color is the {kind}?", color, image],
                [f"is there a {kind}?", "yes", image],
                [f"is a {other} shape present?", "no", image],
                [f"does the image contain a {other} shape?", "no", image],
                [f"is there not a {other} shape in the image?", "yes", image],
            ]
        (folder / "data" / split / "questions.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def root(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root made of that folder."""
    path = tmp_path_factory.mktemp("data") / "easy"
    make_root(path, package, train=20, val=10)
    return path


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [8, 15, 32])
def test_color_and_kind_are_read_from_the_pixels(kind: str, color: str, size: int) -> None:
    pixels = np.asarray(draw(kind, color, (5, 9, 5 + size, 9 + size)))
    assert predict(pixels) == Facts(color, kind)


def test_an_image_without_a_shape_has_no_items_and_all_regions() -> None:
    blank = np.full((64, 64, 3), 240, dtype=np.uint8)
    assert predict(blank).items == []
    assert object_features(blank)["features"].shape == (REGIONS, FEATURE_DIM)


def test_the_first_region_is_the_box_of_the_shape_and_features_are_darkness() -> None:
    entry = object_features(np.asarray(draw("rectangle", "yellow", (10, 20, 30, 40))))
    assert entry["features"].dtype == np.float32
    assert set(entry) == {"features"}
    # Yellow is dark in blue only.
    assert np.allclose(entry["features"][0].reshape(-1, 3)[5], (0, 0, 1), atol=0.02)


@pytest.mark.parametrize(
    ("question", "task", "word", "negated"),
    [
        ("is there a teal shape?", "yesno", "teal", False),
        ("is no circle present?", "yesno", "circle", True),
        ("does the image not contain a gray shape?", "yesno", "gray", True),
        ("what is the red shape?", "shape", "red", False),
        ("what shape does the image contain?", "shape", None, False),
        ("what is the color of the triangle?", "color", "triangle", False),
        ("what color is the shape?", "color", None, False),
    ],
)
def test_questions_are_assigned_to_tasks(question: str, task: str, word: str | None, negated: bool) -> None:
    asked = parse_question(question)
    assert asked is not None and (asked.task, asked.word, asked.negated) == (task, word, negated)


@pytest.mark.parametrize(
    "text", ["", "what is the red circle?", "is there a shape?", "where is the circle?", "what now?"]
)
def test_other_texts_are_no_questions_of_the_data_set(text: str) -> None:
    assert parse_question(text) is None and is_true(text, "yes", ["red circle"]) is None


@pytest.mark.parametrize(
    ("question", "answer", "items", "truth"),
    [
        ("is there a red shape?", "yes", ["red circle [SEP]"], True),
        ("is there a red shape?", "no", ["red circle [SEP]"], False),
        ("is there a blue shape?", "no", ["red shape"], True),
        ("is there a circle?", "yes", ["red shape"], False),
        ("is there not a circle?", "no", ["circle"], True),
        ("what is the red shape?", "circle", ["red circle"], True),
        ("what is the blue shape?", "circle", ["red circle"], False),
        ("what shape is present?", "circle", ["red shape"], False),
        ("what color is the circle?", "red", ["red circle"], True),
        ("what color is the shape?", "blue", ["red shape"], False),
    ],
)
def test_an_answer_is_true_if_it_follows_from_the_items(
    question: str, answer: str, items: list[str], truth: bool
) -> None:
    assert is_true(question, answer, items) is truth


@pytest.mark.parametrize(
    ("text", "answer", "items"),
    [
        ("is there a red shape?", "yes", ["red shape"]),
        ("is there a red shape?", "no", []),
        ("is there not a circle?", "yes", []),
        ("is there not a circle?", "no", ["circle"]),
        ("what shape is present?", "circle", ["circle"]),
        ("what is the red shape?", "circle", ["red circle", "red shape", "circle"]),
        ("what color is the shape?", "red", ["red shape"]),
    ],
)
def test_a_question_and_its_answer_state_items(text: str, answer: str, items: list[str]) -> None:
    question = parse_question(text)
    assert question is not None and stated(question, answer).items == items


def test_the_data_root_has_no_findings(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clove(["check", str(root), "--setting", "easy_vqa"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_records_have_true_answers_balanced_and_without_negated_questions(root: Path) -> None:
    setting_names(existing_root(root))
    records = [row for task in TASKS for row in load_records(root / f"easy_vqa/{task}_train.npy")]
    for row in records:
        question = parse_question(row["question"])
        assert question is not None and not question.negated and row["stage"] == question.task
        related = related_items(row)
        assert len(related) == (2 if row["answer"] == "no" else 1)
        assert is_true(row["question"], row["answer"], related)
        assert is_true(row["question"], row["answer"], row["pred_scene_graph_seq"])
    # Of 24 questions answered yes and 48 answered no, 24 each remain, of which 20 are drawn.
    answers = [row["answer"] for row in records if row["stage"] == "yesno"]
    assert len(answers) == 20 and 4 <= answers.count("yes") <= 16


@pytest.mark.parametrize(
    ("text", "facts", "items"),
    [
        ("is there a red shape?", Facts("blue", "circle"), ["blue circle", "blue shape"]),
        ("is there a triangle?", Facts("blue", "circle"), ["blue circle", "circle"]),
        ("is there a triangle?", Facts(None, "circle"), ["circle"]),
        ("is there a red shape?", Facts(None, "circle"), []),
    ],
)
def test_no_follows_from_the_item_of_the_kind_that_a_question_asks_for(
    text: str, facts: Facts, items: list[str]
) -> None:
    question = parse_question(text)
    assert question is not None and facts.contradicting(question) == items


def test_prompts_are_related_items_of_train_records(root: Path) -> None:
    setting_names(existing_root(root))
    for task in TASKS:
        groups = {related_items(row) for row in load_records(root / f"easy_vqa/{task}_train.npy")}
        assert {tuple(prompt) for prompt in prompts_of(root / prompts_path("easy_vqa"), "easy_vqa", task)} <= groups


def test_predicted_graphs_do_not_depend_on_answers(package: Path, tmp_path: Path) -> None:
    changed = tmp_path / "package"
    for split in ("train", "test"):
        (changed / "data" / split).mkdir(parents=True)
        (changed / "data" / split / "images").symlink_to(package / "data" / split / "images")
        rows = read_rows(package / "data" / split)
        swapped = [(text, "red" if answer in COLORS else answer, image) for text, answer, image in rows]
        (changed / "data" / split / "questions.json").write_text(json.dumps(swapped))
    make_root(tmp_path / "root", changed, train=20, val=10)
    setting_names(existing_root(tmp_path / "root"))
    for row in load_records(tmp_path / "root/easy_vqa/color_val.npy"):
        number = int(row["image_id"].rpartition("/")[2])
        assert COLORS[number // 3] in " ".join(row["pred_scene_graph_seq"])


def test_features_of_every_record_are_in_the_database(root: Path) -> None:
    setting_names(existing_root(root))
    with closing(FeatureDatabase(root / "features/easy_vqa/objects.lmdb")) as database:
        for task in TASKS:
            for row in load_records(root / f"easy_vqa/{task}_val.npy"):
                key = database.key(row["feature_path"])
                assert key is not None and database.read(key)["features"].shape == (REGIONS, FEATURE_DIM)


def test_the_configured_sizes_are_those_of_the_data() -> None:
    sizes = yaml.safe_load((EXAMPLE / "config/sizes.yaml").read_text())
    features, network = sizes["dataset_config"]["clvqa"], sizes["model_config"]["unicl"]
    assert (features["max_features"], features["feature_dim"]) == (REGIONS, FEATURE_DIM)
    assert network["obj"] == {"in_dim": FEATURE_DIM, "mmt_in_dim": FEATURE_DIM}
    assert tuple(task.name for task in find_setting(SETTING).tasks.values()) == TASKS


@pytest.mark.skipif(not importlib.util.find_spec("easy_vqa"), reason="the package easy-vqa is not installed")
@pytest.mark.slow
def test_the_rules_agree_with_every_answer_of_the_package(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = package_folder() / "data" / split
        predicted: dict[int, list[str]] = {}
        for text, answer, image in read_rows(folder):
            if image not in predicted:
                predicted[image] = predict(read_image(folder / "images" / f"{image}.png")).items
            assert is_true(text, answer, predicted[image]), (split, text, answer, predicted[image])
    assert main([str(tmp_path / "data"), "--train", "40", "--val", "10"]) == 0
    vocabulary = (tmp_path / "data" / BERT / "vocab.txt").read_text().splitlines()
    sizes = yaml.safe_load((EXAMPLE / "config/sizes.yaml").read_text())
    assert len(vocabulary) == sizes["model_config"]["unicl"]["text_bert"]["vocab_size"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}', "questions.json: is not a list of questions"),
        ('[["is there a circle?", "yes"]]', "question 0 is not [question, answer, image number]"),
        ('[["is there a dog?", "yes", 0]]', "question 0 is not of easy-VQA: 'is there a dog?'"),
        ('[["is there a circle?", "yes", 0]]', "0.png: cannot be read as an image"),
    ],
)
def test_other_data_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    for split in ("train", "test"):
        (tmp_path / "data" / split / "images").mkdir(parents=True)
        (tmp_path / "data" / split / "questions.json").write_text(content)
        (tmp_path / "data" / split / "images/0.png").write_text("no image")
    assert main([str(tmp_path / "root"), "--package", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_an_existing_folder_is_kept(root: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(root), "--package", str(package)]) == 1
    assert "already exists" in capsys.readouterr().err


def test_true_replays_are_counted(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    file = tmp_path / QAG_SEQ / "run" / "yesno-shape_REPLAY[yesno]_AT[shape].npy"
    replayed = [
        new_record(
            question=question, answer=answer, gt_scene_graph_seq=[item, "circle [SEP]"], gt_scene_graph_mask=[1, 0]
        )
        for question, answer, item in (
            ("is there a red shape?", "yes", "red shape [SEP]"),
            ("is there a circle?", "yes", "red shape [SEP]"),
        )
    ]
    save_records(file, replayed)
    monkeypatch.setenv("CLOVE_ROOT", str(root))
    assert replays.main([str(tmp_path)]) == 0
    assert re.search(r"yesno +shape +2 +1 +0\.500", capsys.readouterr().out)
    assert replays.main([str(root)]) == 1


def test_the_plan_of_the_command_has_every_method(root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("CLOVE_ROOT", str(root))
    script = (EXAMPLE / "run.sh").read_text()
    methods = re.search(r"--method (.+?) --seed", script)[1].split()
    words = ["run", "--setting", "easy_vqa", "--config", "examples/easy_vqa/config", "--method", *methods, "--dry-run"]
    assert experiments(words) == 0
    commands = capsys.readouterr().out
    files = re.findall(r"config=\"?\$CONFIG/(\S+?\.yaml)", commands.replace('"$CONFIG"', "$CONFIG"))
    assert len(files) == 1 + 2 * 3 + 3 + 1, "EWC trains the first task itself"
    assert all((EXAMPLE / "config" / file).is_file() for file in files)
