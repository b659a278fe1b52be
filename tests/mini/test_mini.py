"""clove-mini: equal bytes for equal seeds, sound records, true answers, noise, and safety on disk."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import lmdb
import numpy as np
import pytest

from mmclvqa.clove.__main__ import main
from mmclvqa.clove.data_root import (
    BERT,
    DISTILGPT2,
    FASTTEXT,
    FC7_BIAS,
    FC7_WEIGHT,
    GQA_FEATURES,
    MANIFEST,
    TEXTVQA_FEATURES,
    TEXTVQA_OCR_FEATURES,
    VOCABULARY,
    load_manifest,
    load_vocabulary,
    prompts_path,
    split_size,
)
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.features import FeatureDatabase, databases, feature_path
from mmclvqa.clove.prompts import load_prompts
from mmclvqa.clove.records import ITEM_END, check_record, load_records
from mmclvqa.clove.tasks import SETTINGS, Task, tasks
from mmclvqa.mini import generator
from mmclvqa.mini.features import REGION_CLASSES, Codebook, render_objects
from mmclvqa.mini.generator import Settings, make_root
from mmclvqa.mini.questions import MIXES, ask
from mmclvqa.mini.records import TEXT_TASK, draw_records
from mmclvqa.mini.scenes import Box, Scene, named_random, predicted_graph, sample_scenes, sample_text_scenes, scene_type
from mmclvqa.mini.truth import is_true, read_items
from mmclvqa.mini.vocabulary import (
    ATTRIBUTE_KIND,
    CATEGORY_OF,
    FORMS,
    UNLISTED_WORDS,
    YES,
    answer_vocabulary,
    parse_question,
)

TINY = Settings(train=20, val=10, images=12, regions=14, feature_dim=16)
TASKS = [task for setting in SETTINGS for task in tasks(setting).values()]
NAMES = [task.name for task in TASKS]
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data root."""
    path = tmp_path_factory.mktemp("mini") / "root"
    make_root(path, TINY)
    return path


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """600 GQA-like scenes."""
    return sample_scenes(0, "val", 600)


@pytest.fixture(scope="module")
def drawn(scenes: list[Scene]) -> dict[str, list[dict]]:
    """400 records of every task."""
    texts = sample_text_scenes(0, "val", 200)
    return {task.name: draw_records(task, "val", 400, _scenes_of(task, scenes, texts), seed=0) for task in TASKS}


def _scenes_of(task: Task, scenes: list[Scene], texts: list[Scene]) -> list[Scene]:
    if task.setting == "scene":
        return [scene for scene in scenes if scene.letter == task.letter]
    return texts if task.name == TEXT_TASK else scenes


def _related(record: dict) -> list[str]:
    return list(itertools.compress(record["gt_scene_graph_seq"], record["gt_scene_graph_mask"]))


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_one_seed_gives_the_same_bytes_in_every_file(root: Path, tmp_path: Path) -> None:
    make_root(tmp_path / "again", TINY)
    assert _digests(tmp_path / "again") == _digests(root)


def test_another_seed_gives_other_records_features_and_weights(root: Path, tmp_path: Path) -> None:
    make_root(tmp_path / "other", Settings(**{**vars(TINY), "seed": 1}))
    digests, others = _digests(root), _digests(tmp_path / "other")
    assert digests.keys() == others.keys()
    for name in (
        "functional/fcl_mmf_object_train.npy",
        f"{GQA_FEATURES}/data.mdb",
        f"{BERT}/model.safetensors",
        FASTTEXT,
    ):
        assert digests[name] != others[name], name


def test_the_root_has_every_file_of_the_real_one(root: Path) -> None:
    wanted = [task.annotation_path(split) for task in TASKS for split in ("train", "val")]
    wanted += [VOCABULARY, MANIFEST, FASTTEXT, FC7_WEIGHT, FC7_BIAS]
    wanted += [prompts_path(setting) for setting in SETTINGS]
    databases_ = (GQA_FEATURES, TEXTVQA_FEATURES, TEXTVQA_OCR_FEATURES)
    wanted += [f"{path}/data.mdb" for path in databases_]
    bert = ("vocab.txt", "config.json", "tokenizer_config.json", "model.safetensors")
    gpt2 = ("vocab.json", "merges.txt", "config.json", "tokenizer_config.json", "model.safetensors")
    wanted += [f"{BERT}/{name}" for name in bert] + [f"{DISTILGPT2}/{name}" for name in gpt2]
    assert sorted(_digests(root)) == sorted(wanted)


def test_the_check_command_finds_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(root)]) == 0, capsys.readouterr()


def test_the_manifest_gives_the_sizes(root: Path) -> None:
    assert load_manifest(root).seed == TINY.seed
    task = tasks("scene")["b"]
    assert split_size(root, task, "train") == len(load_records(root / task.annotation_path("train")))


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_records_fit_the_schema_and_have_unique_ids(root: Path, task: Task) -> None:
    records = [r for split in ("train", "val") for r in load_records(root / task.annotation_path(split))]
    for record in records:
        check_record(record, task.name)
        assert record["stage"] == task.name
        assert record["answers"] == [record["answer"]] * 10
        assert all(item.endswith(ITEM_END) for item in record["gt_scene_graph_seq"] + record["pred_scene_graph_seq"])
    assert len({record["question_id"] for record in records}) == len(records)


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_every_record_has_features_that_fit_its_picture(root: Path, task: Task) -> None:
    for split in ("train", "val"):
        for record in load_records(root / task.annotation_path(split)):
            for name in databases(record["image_source"]):
                with closing(FeatureDatabase(root / "features" / name.removeprefix("features/"))) as database:
                    key = database.key(feature_path(record))
                    assert key is not None and database.holds(key)


def test_train_and_val_share_no_picture(root: Path) -> None:
    for task in TASKS:
        ids = [{r["image_id"] for r in load_records(root / task.annotation_path(s))} for s in ("train", "val")]
        assert not ids[0] & ids[1]


def test_a_plain_lmdb_reader_finds_the_entries(root: Path) -> None:
    for name in (GQA_FEATURES, TEXTVQA_FEATURES, TEXTVQA_OCR_FEATURES):
        with lmdb.open(str(root / name), readonly=True, lock=False) as env, env.begin() as transaction:
            keys = pickle.loads(transaction.get(b"keys"))
            assert keys == sorted(keys) and len(keys) == env.stat()["entries"] - 1
            entry = pickle.loads(transaction.get(keys[0]))
        count = entry["num_boxes"]
        assert entry["features"].shape == (count, TINY.feature_dim) and entry["features"].dtype == np.float32
        assert entry["bbox"].shape == (count, 4) and entry["objects"].shape == (count,)
        assert (entry["features"] >= 0).all()
        assert (entry["bbox"] <= [entry["image_width"], entry["image_height"]] * 2).all()


def test_pictures_differ_in_their_number_of_regions(scenes: list[Scene]) -> None:
    codebook = Codebook(0, 32)
    counts = {render_objects(scene, codebook, 24)["num_boxes"] for scene in scenes[:50]}
    assert min(counts) >= 12 and max(counts) <= 20 and len(counts) > 4


def test_features_show_the_class_of_a_region(scenes: list[Scene]) -> None:
    codebook = Codebook(0, 64)
    codes = np.stack([codebook.codes[name] for name in REGION_CLASSES])
    hits = []
    for scene in scenes[:100]:
        entry = render_objects(scene, codebook, 16)
        hits.append((entry["features"] @ codes.T).argmax(1) == entry["objects"])
    assert np.concatenate(hits).mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_checker_accepts_every_generated_record(drawn: dict[str, list[dict]], name: str) -> None:
    for record in drawn[name]:
        assert is_true(record["question"], record["answer"], record["gt_scene_graph_seq"]) is True, record
        assert is_true(record["question"], record["answer"], _related(record)) is True, record
        assert not read_items(record["gt_scene_graph_seq"] + record["pred_scene_graph_seq"]).unread


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_checker_refuses_another_records_answer(drawn: dict[str, list[dict]], name: str) -> None:
    records = drawn[name]
    for record, other in zip(records, records[1:] + records[:1], strict=True):
        if record["answer"] != other["answer"]:
            assert is_true(record["question"], other["answer"], record["gt_scene_graph_seq"]) is False


@pytest.mark.parametrize(
    ("question", "answer", "items", "verdict"),
    [
        ("what color is the cup?", "red", ["red metal cup"], True),
        ("What color is the cup ?", "Red", ["red metal cup [SEP]"], True),
        ("what color is the cup?", "blue", ["red metal cup"], False),
        ("what color is the cup?", "red", ["red plate"], False),
        ("are the cup and the plate the same color?", "yes", ["red cup", "red round plate"], True),
        ("are the cup and the plate the same color?", "no", ["red cup", "metal plate"], False),
        ("which one is red, the cup or the plate?", "cup", ["red cup", "blue plate"], True),
        ("which one is red, the cup or the plate?", "cup", ["red cup"], False),
        ("what animal is right of the cup?", "dog", ["cup left of dog"], True),
        ("what fruit is right of the cup?", "dog", ["cup left of dog"], False),
        ("what is the dog right of?", "cup", ["cup left of dog"], True),
        (
            "what is written on the red sign, not on the blue label?",
            "kavo",
            ["red sign with[OCR] kavo", "blue sign with [OCR] migo"],
            True,
        ),
        (
            "what is written on the red sign, not on the blue sign?",
            "migo",
            ["red sign with [OCR] kavo", "blue sign with [OCR] migo"],
            False,
        ),
        ("what is the red dish used for?", "drinking", ["red cup"], True),
        ("what is the red fruit used for?", "drinking", ["red cup"], False),
        ("what is the red dish used for?", "drinking", ["blue cup", "cup used for drinking"], False),
        ("what red thing is used for drinking?", "cup", ["red cup"], True),
        ("what red thing is used for drinking?", "cup", ["cup used for drinking", "blue cup"], False),
        ("what red dish is in the picture?", "cup", ["red cup"], True),
        ("what red fruit is in the picture?", "cup", ["red cup"], False),
        ("what is the wood thing, cup or plate?", "plate", ["wood plate", "red cup"], True),
        ("what is the wood thing, cup or bowl?", "plate", ["wood plate"], False),
        ("what is the wood thing, plate or plate?", "plate", ["wood plate"], False),
        ("is the cup wood or metal?", "metal", ["metal cup"], True),
        ("is the cup wood or metal?", "glass", ["glass cup"], False),
        ("is the cup wood or round?", "wood", ["wood cup"], False),
        ("how are you today?", "fine", ["red cup"], None),
    ],
)
def test_the_truth_checker_knows_the_rules(question: str, answer: str, items: list[str], verdict: bool | None) -> None:
    assert is_true(question, answer, items) is verdict


def test_every_question_form_is_parsed_back(scenes: list[Scene]) -> None:
    rng = named_random(0, "forms")
    pictures = scenes[:100] + sample_text_scenes(0, "val", 50)
    seen = Counter()
    for kind, scene in itertools.product(FORMS, pictures):
        question = ask(kind, scene, rng)
        if question:
            seen[kind] += 1
            assert parse_question(question.text)[0] == kind, question.text
    assert seen.keys() == FORMS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_blind_guess_is_poor(drawn: dict[str, list[dict]], name: str) -> None:
    answers = Counter(record["answer"] for record in drawn[name])
    assert answers.most_common(1)[0][1] / answers.total() <= 0.25


def test_questions_differ_between_functional_tasks() -> None:
    kinds = [set(mix) for mix in MIXES.values()]
    assert all(not first & second for first, second in itertools.combinations(kinds, 2))


def test_some_answers_are_shared_between_tasks(drawn: dict[str, list[dict]]) -> None:
    answers = {name: {record["answer"] for record in records} for name, records in drawn.items()}
    assert answers["object"] & answers["relation"] and answers["attribute"] & answers["knowledge"]
    assert not answers["object"] & answers["attribute"]


def test_yes_and_no_are_balanced(drawn: dict[str, list[dict]]) -> None:
    verdicts = [r["answer"] == YES for r in drawn["logical"] if r["raw_question_type"] == "same"]
    assert 0.4 <= np.mean(verdicts) <= 0.6


def _relation(first: Box, second: Box) -> str | None:
    """The relation of two boxes: near and aligned; ``on`` means that the first overlaps the top of the second."""
    near, aligned = 0.045, 0.03
    dx = (first[0] + first[2] - second[0] - second[2]) / 2
    dy = (first[1] + first[3] - second[1] - second[3]) / 2
    gaps = {"left of": second[0] - first[2], "right of": first[0] - second[2]} if abs(dy) <= aligned else {}
    if abs(dx) <= aligned:
        if 0 <= first[3] - second[1] <= aligned:
            return "on"
        gaps |= {"above": second[1] - first[3], "below": first[1] - second[3]}
    return next((word for word, gap in gaps.items() if 0 < gap <= near), None)


def test_relations_agree_with_the_boxes(scenes: list[Scene]) -> None:
    for scene in scenes:
        pairs = itertools.permutations(range(len(scene.things)), 2)
        seen = {(i, _relation(scene.things[i].box, scene.things[j].box), j) for i, j in pairs}
        expected = set(scene.relations) | {(j, INVERSE[w], i) for i, w, j in scene.relations if w in INVERSE}
        assert {triple for triple in seen if triple[1]} == expected
        assert all(0 <= side <= 1 for thing in scene.things for side in thing.box)


def _right_by_reading(records: list[dict]) -> float:
    """Accuracy of reading the predicted graph alone, guessing if several answers fit."""
    rng = named_random(0, "oracle")
    right = []
    for record in records:
        items = record["pred_scene_graph_seq"]
        graph = read_items(items)
        words = sorted({*graph.attributes, *graph.places, *ATTRIBUTE_KIND})
        candidates = [word for word in words if is_true(record["question"], word, items)]
        right.append(bool(candidates) and rng.choice(candidates) == record["answer"])
    return float(np.mean(right))


def test_a_reader_of_the_predicted_graph_alone_answers_three_quarters_of_the_object_questions(
    drawn: dict[str, list[dict]],
) -> None:
    assert 0.7 <= _right_by_reading(drawn["object"][:200]) <= 0.85


def test_in_the_scene_setting_predicted_graphs_tell_what_belongs_in_the_place(drawn: dict[str, list[dict]]) -> None:
    for task in (task for task in TASKS if task.setting == "scene"):
        assert 0.6 <= _right_by_reading(drawn[task.name][:150]) <= 0.9
        classes = scene_type(task.letter).classes
        for record in drawn[task.name]:
            described = {
                name for name, values in read_items(record["pred_scene_graph_seq"]).attributes.items() if values
            }
            assert {CATEGORY_OF[name] for name in described} <= set(classes)


def test_a_task_of_the_scene_setting_has_a_quarter_of_the_train_records() -> None:
    sizes = Settings(train=42, val=5).manifest().tasks
    assert all(counts == {"train": 42, "val": 5} for counts in sizes["functional"].values())
    assert all(counts == {"train": 10, "val": 5} for counts in sizes["scene"].values())


def test_predicted_graphs_miss_a_seventh_of_the_objects(scenes: list[Scene]) -> None:
    shares = []
    for scene in scenes:
        items = predicted_graph(scene, named_random(0, scene.image_id))
        names = [thing.name for thing in scene.things]
        shares.append(np.mean([not any(item.endswith(f" {n}") or item == n for item in items) for n in names]))
    assert 0.1 <= np.mean(shares) <= 0.2


def test_facts_stand_in_the_true_graph_and_are_the_supporting_fact(drawn: dict[str, list[dict]]) -> None:
    for record in drawn["knowledge"]:
        fact = " ".join(record["supporting_fact"][0]["triplet"])
        assert fact + ITEM_END in _related(record)
        assert fact + ITEM_END not in record["pred_scene_graph_seq"]


def test_the_related_items_are_as_many_as_srm_begins_with(drawn: dict[str, list[dict]]) -> None:
    two = ("relation", "logical", "knowledge")
    for name, records in drawn.items():
        assert {sum(record["gt_scene_graph_mask"]) for record in records} == {2 if name in two else 1}


def test_many_sign_words_must_be_copied(root: Path, drawn: dict[str, list[dict]]) -> None:
    vocabulary = load_vocabulary(root / VOCABULARY)
    assert vocabulary == list(answer_vocabulary())
    records = drawn[TEXT_TASK]
    assert all(record["answer"] in record["ocr_tokens"] for record in records)
    assert 0.4 <= np.mean([record["answer"] in UNLISTED_WORDS for record in records]) <= 0.9
    others = {word for name in NAMES if name != TEXT_TASK for r in drawn[name] for word in r["answer"].split()}
    assert others <= set(vocabulary) and not UNLISTED_WORDS & set(vocabulary)


def test_ocr_boxes_lie_in_their_surface() -> None:
    for scene in sample_text_scenes(0, "val", 50):
        for surface in scene.surfaces:
            (left, top, right, bottom), word = surface.box, surface.word_box
            assert left <= word[0] < word[2] <= right and top <= word[1] < word[3] <= bottom


@pytest.mark.parametrize("setting", SETTINGS)
def test_prompts_hold_items_of_the_tasks_own_kind(root: Path, setting: str) -> None:
    prompts = load_prompts(root / prompts_path(setting), setting)
    for task in tasks(setting).values():
        items = {i for r in load_records(root / task.annotation_path("train")) for i in _related(r)}
        assert prompts[task.name]
        assert all(item + ITEM_END in items for prompt in prompts[task.name] for item in prompt)
    if setting == "functional":
        assert all(len(prompt) == 2 and prompt[0] != prompt[1] for prompt in prompts["relation"])


def test_word_vectors_open_in_fasttext_and_are_finite(root: Path) -> None:
    fasttext = pytest.importorskip("fasttext")
    model = fasttext.load_model(str(root / FASTTEXT))
    assert model.get_dimension() == 300
    known, unseen = model.get_word_vector("kavo"), model.get_word_vector("kavomi")
    assert np.isfinite(known).all() and np.isfinite(unseen).all()
    assert known @ unseen / np.linalg.norm(known) / np.linalg.norm(unseen) > 0.5


def test_tokenizers_and_models_open_in_transformers(root: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bert = transformers.AutoTokenizer.from_pretrained(root / BERT)
    assert bert.unk_token not in bert.tokenize("What is written on the red sign? katami 96")
    gpt2 = transformers.AutoTokenizer.from_pretrained(root / DISTILGPT2)
    assert gpt2.eos_token_id == gpt2.convert_tokens_to_ids("<|endoftext|>")
    assert len(gpt2.tokenize("red metal cup")) == 3
    assert transformers.AutoModel.from_pretrained(root / BERT).config.vocab_size == len(bert)
    model = transformers.AutoModelForCausalLM.from_pretrained(root / DISTILGPT2)
    assert model.config.vocab_size == len(gpt2)


def test_a_root_made_with_the_same_settings_is_left_as_it_is(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert "already exists" in make_root(root, TINY)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_root_made_with_other_settings_is_replaced_only_when_asked(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "root")
    larger = Settings(**{**vars(TINY), "val": 12})
    with pytest.raises(DataError, match="val 10 instead of 12.*--overwrite"):
        make_root(tmp_path / "root", larger)
    make_root(tmp_path / "root", larger, overwrite=True)
    assert load_manifest(tmp_path / "root") == larger.manifest()
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    assert main(["mini", str(tmp_path), "--overwrite"]) == 1
    assert capsys.readouterr().err.startswith("error: ") and (tmp_path / "thesis.txt").exists()


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generator, "write_pretrained", full_disk)
    with pytest.raises(OSError, match="No space"):
        make_root(tmp_path / "root", TINY)
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_root_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmclvqa.clove", "mini", str(tmp_path / "root"), "--images", "3000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".root.partial-*/functional/*.npy")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "root").exists() and list(tmp_path.iterdir())
    make_root(tmp_path / "root", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_folders_of_a_killed_run_with_the_same_process_id_are_removed(root: Path, tmp_path: Path) -> None:
    """In containers, a process often has the id of an earlier one."""
    for name in (f".root.partial-{os.getpid()}", f".root.partial-old-{os.getpid()}"):
        (tmp_path / name / "functional").mkdir(parents=True)
    make_root(tmp_path / "root", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_val_images_are_in_proportion_to_the_records() -> None:
    assert Settings(20000, 3000, 5000, 100, 2048).scenes("val") == 750


def test_the_command_line_names_what_is_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mini", str(tmp_path / "root"), "--regions", "3"]) == 1
    assert "--regions 3" in capsys.readouterr().err


def test_the_command_line_sets_the_sizes(tmp_path: Path) -> None:
    sizes = ("--train", "8", "--val", "6", "--images", "6", "--regions", "12", "--feature-dim", "16", "--seed", "2")
    assert main(["mini", str(tmp_path / "root"), *sizes]) == 0
    assert load_manifest(tmp_path / "root") == Settings(8, 6, 6, 12, 16, 2).manifest()


def test_regions_have_the_shape_of_the_real_ones(scenes: list[Scene]) -> None:
    entry = render_objects(scenes[0], Codebook(0, 2048), 100)
    assert 50 <= entry["num_boxes"] <= 83 and entry["features"].shape[1] == 2048


def test_two_processes_that_generate_the_same_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written_meanwhile(partial: Path, settings: Settings) -> None:
        write_root(partial, settings)
        shutil.copytree(partial, tmp_path / "root")

    write_root = generator.write_root
    monkeypatch.setattr(generator, "write_root", written_meanwhile)
    assert "written" in make_root(tmp_path / "root", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
