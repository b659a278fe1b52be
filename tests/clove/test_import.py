"""``python -m mmclvqa.clove import``: files in the form of VQA v2, GQA and TextVQA become a setting."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from clove_builders import make_features, write_lmdb

from mmclvqa.clove.data_root import SPECIALS, VOCABULARY, load_vocabulary, split_size
from mmclvqa.clove.importing import answer_words
from mmclvqa.clove.records import load_records, new_record
from mmclvqa.clove.tasks import find_setting, setting_names, task
from sg_generation.__main__ import main as sample_prompts

Run = Callable[..., tuple[int, str, str]]
SPLITS = ("train", "val")


def vqa_question(number: int, question: str = "What color is the dog?") -> dict[str, Any]:
    return {"image_id": 458752 + number, "question": question, "question_id": 458752000 + number}


def vqa_annotation(number: int, question_type: str = "what color is the", answer: str = "red") -> dict[str, Any]:
    answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": one} for one in range(1, 10)]
    return {
        "question_type": question_type,
        "multiple_choice_answer": answer,
        "answers": [*answers, {"answer": "brown", "answer_confidence": "maybe", "answer_id": 10}],
        "image_id": 458752 + number,
        "answer_type": "yes/no" if answer in ("yes", "no") else "other",
        "kinds": {"structural": "query", "semantic": "attr"},
        "data_type": "real",
        "question_id": 458752000 + number,
    }


def write_vqa(folder: Path, questions: list[Any] | None = None, annotations: list[Any] | None = None) -> list[str]:
    """Write both files of both splits and return the arguments that name them."""
    if questions is None:
        questions = [vqa_question(0), vqa_question(1, "Is it big?"), vqa_question(2, "What color is it?")]
    if annotations is None:
        annotations = [vqa_annotation(0), vqa_annotation(1, "is it", "yes"), vqa_annotation(2, "what color")]
    info = {"info": {"version": "2.0", "year": 2017}, "data_subtype": "train2014", "license": {"name": "CC BY 4.0"}}
    words = []
    for split in SPLITS:
        files = {
            f"v2_OpenEnded_mscoco_{split}2014_questions.json": {"task_type": "Open-Ended", "questions": questions},
            f"v2_mscoco_{split}2014_annotations.json": {"annotations": annotations},
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(info | content))
        words += [f"--{split}", *(str(folder / name) for name in files)]
    return words


GRAPH = {
    "width": 500,
    "height": 333,
    "location": "kitchen",
    "weather": "none",
    "objects": {
        "681267": {"name": "banana", "x": 248, "y": 55, "w": 64, "h": 34, "attributes": ["small", "yellow"],
                   "relations": [{"object": "681265", "name": "to the left of"}]},
        "681265": {"name": "spots", "x": 92, "y": 43, "w": 20, "h": 9, "attributes": [], "relations": []},
        "681262": {"name": "bowl", "x": 9, "y": 7, "w": 20, "h": 9, "attributes": [],
                   "relations": [{"object": "681267", "name": "below"}]},
    },
}  # fmt: skip
"""A scene graph as in GQA's train_sceneGraphs.json."""


def gqa_question(structural: str, question: str, answer: str, named: dict[str, str], **more: Any) -> dict[str, Any]:
    return {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "banana (681267)"}],
        "entailed": [],
        "equivalent": [],
        "question": question,
        "imageId": "2405722",
        "isBalanced": True,
        "groups": {"global": None, "local": "10q-banana"},
        "answer": answer,
        "semanticStr": "select: banana (681267)",
        "annotations": {"answer": {}, "question": named, "fullAnswer": {"2": next(iter(named.values()), "681267")}},
        "types": {"detailed": "categoryRelS", "semantic": "rel", "structural": structural},
        "fullAnswer": f"It is {answer}.",
    } | more


PLACE = {"annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
         "types": {"detailed": "place", "semantic": "global", "structural": "query"}}  # fmt: skip


def write_gqa(folder: Path, graphs: dict[str, Any] | None = None, **more: Any) -> list[str]:
    questions = {
        "07333408": gqa_question("query", "What is left of the spots?", "banana", {"3:5": "681265,681267"}),
        "07333409": gqa_question("verify", "Is the banana yellow?", "yes", {"2": "681267"}),
        "07333410": gqa_question("query", "What place is this?", "kitchen", {}, **PLACE),
    }
    words = []
    for split in SPLITS:
        for name, content in (
            (f"{split}_balanced_questions.json", questions | more),
            (f"{split}_sceneGraphs.json", {"2405722": GRAPH} if graphs is None else graphs),
        ):
            (folder / name).write_text(json.dumps(content))
        words += [f"--{split}", *(f"{folder}/{split}_{name}.json" for name in ("balanced_questions", "sceneGraphs"))]
    return words


def write_textvqa(folder: Path) -> list[str]:
    questions = [
        {
            "question": question,
            "image_id": "0054c91397f2fe05",
            "image_classes": [kind, "Vehicle"],
            "flickr_original_url": "https://farm6.staticflickr.com/2891/9134076951_f65b421097_o.jpg",
            "flickr_300k_url": "https://c4.staticflickr.com/3/2891/9134076951_9db89d3e0f_z.jpg",
            "image_width": 1024,
            "image_height": 730,
            "answers": ["Nous les", "nous les", "nous les gosses", *["nous les"] * 7],
            "question_tokens": question.split(),
            "question_id": 34602 + number,
            "set_name": "train",
        }
        for number, (question, kind) in enumerate([("what is written?", "Poster"), ("what is said?", "Traffic sign")])
    ]
    angles = {"rotation": 1.5, "roll": 0, "pitch": 0, "yaw": 0}
    box = {"width": 0.2, "height": 0.1, **angles, "topLeftX": 0.3, "topLeftY": 0.4}
    tokens = ["NOUS", "les", "7"]
    words = [{"word": token, "bounding_box": box} for token in tokens]
    ocr = [{"image_id": "0054c91397f2fe05", "ocr_tokens": tokens, "ocr_info": words}]
    arguments = []
    for split in SPLITS:
        about = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1"}
        files = {f"TextVQA_0.5.1_{split}.json": questions, f"TextVQA_Rosetta_OCR_v0.2_{split}.json": ocr}
        for name, data in files.items():
            (folder / name).write_text(json.dumps(about | {"data": data}))
        arguments += [f"--{split}", *(str(folder / name) for name in files)]
    return arguments


def of(root: Path, setting: str, name: str, split: str = "train") -> list[dict[str, Any]]:
    """Return the records of a task of an imported setting."""
    setting_names(root)
    (task,) = [task for task in find_setting(setting).tasks.values() if task.name == name]
    return load_records(root / task.annotation_path(split))


# ------------------------------------------------------------------------------ formats


def test_vqa_becomes_records_with_the_ten_answers_of_the_annotators(tmp_path: Path, run_clove: Run) -> None:
    assert run_clove("import", "kinds", tmp_path, "--by", "answer_type", *write_vqa(tmp_path))[0] == 0
    first, second = of(tmp_path, "kinds", "other")
    assert first["question"] == "What color is the dog?" and first["answer"] == "red"
    assert first["answers"] == ["red"] * 9 + ["brown"]
    assert (first["question_id"], first["image_id"], first["feature_path"]) == ("458752000", 458752, "458752.npy")
    assert (first["stage"], first["set_name"], first["image_source"]) == ("other", "train", "kinds")
    assert first["raw_question_type"] == "what color is the" and second["question_id"] == "458752002"
    assert [record["answer"] for record in of(tmp_path, "kinds", "yes_no", "val")] == ["yes"]


def test_gqa_graphs_become_items_in_the_published_form_and_the_mask_marks_named_objects(
    tmp_path: Path, run_clove: Run
) -> None:
    assert run_clove("import", "kinds", tmp_path, "--by", "types.structural", *write_gqa(tmp_path))[0] == 0
    relation, place = of(tmp_path, "kinds", "query")
    items = ["kitchen", "small yellow banana", "spots", "bowl",
             "small yellow banana to the left of spots", "bowl below small yellow banana"]  # fmt: skip
    assert relation["gt_scene_graph_seq"] == [f"{item} [SEP]" for item in items]
    assert relation["gt_scene_graph_mask"] == [0, 1, 1, 0, 1, 0]
    assert place["gt_scene_graph_mask"] == [1, 0, 0, 0, 0, 0]
    (yes,) = of(tmp_path, "kinds", "verify")
    assert yes["gt_scene_graph_mask"] == [0, 1, 0, 0, 0, 0] and yes["answers"] == ["yes"] * 10
    assert yes["question_id"] == "07333409" and yes["feature_path"] == "2405722.npy"
    assert yes["pred_scene_graph_seq"] == [] and yes["gqa_question"]["fullAnswer"] == "It is yes."
    assert yes["raw_question_type"]["structural"] == "verify" and yes["program"][0]["operation"] == "select"


def test_feature_paths_of_coco_have_twelve_digits(tmp_path: Path, run_clove: Run) -> None:
    pattern = "COCO_{split}2014_{image_id:012d}.npy"
    words = ["--by", "answer_type", "--feature-path", pattern, *write_vqa(tmp_path)]
    assert run_clove("import", "kinds", tmp_path, *words)[0] == 0
    (record,) = of(tmp_path, "kinds", "yes_no", "val")
    assert record["feature_path"] == "COCO_val2014_000000458753.npy"


def test_textvqa_has_ocr_tokens_and_an_item_for_each(tmp_path: Path, run_clove: Run) -> None:
    words = ["--by", "image_classes", "--feature-path", "{split}/{image_id}.npy", *write_textvqa(tmp_path)]
    assert run_clove("import", "signs", tmp_path, *words)[0] == 0
    (record,) = of(tmp_path, "signs", "Poster")
    assert record["answer"] == "nous les" and record["answers"][2] == "nous les gosses"
    assert record["ocr_tokens"] == ["NOUS", "les", "7"] and record["ocr_info"][0]["bounding_box"]["top_left_x"] == 0.3
    assert record["gt_scene_graph_seq"] == ["[OCR] NOUS [SEP]", "[OCR] les [SEP]", "[OCR] 7 [SEP]"]
    assert record["pred_scene_graph_seq"] == record["gt_scene_graph_seq"]
    assert record["gt_scene_graph_mask"] == [1, 1, 0]
    assert record["feature_path"] == "train/0054c91397f2fe05.npy"


def test_predicted_scene_graphs_are_read_by_image(tmp_path: Path, run_clove: Run) -> None:
    (tmp_path / "predicted.json").write_text(json.dumps({"458752": ["red dog", "dog on grass [SEP]"]}))
    words = write_vqa(tmp_path)
    words.insert(words.index("--val"), str(tmp_path / "predicted.json"))
    assert run_clove("import", "kinds", tmp_path, "--by", "answer_type", *words)[0] == 0
    first, second = of(tmp_path, "kinds", "other")
    assert first["pred_scene_graph_seq"] == ["red dog [SEP]", "dog on grass [SEP]"]
    assert second["pred_scene_graph_seq"] == []


def test_true_graphs_are_predicted_ones_on_request(tmp_path: Path, run_clove: Run) -> None:
    words = ["--by", "types.structural", "--true-graphs", *write_gqa(tmp_path)]
    assert run_clove("import", "kinds", tmp_path, *words)[0] == 0
    (record,) = of(tmp_path, "kinds", "verify")
    assert record["pred_scene_graph_seq"] == record["gt_scene_graph_seq"] != []


@pytest.mark.parametrize("content", [{}, [], {"a": 3}, {"info": {}, "captions": []}])
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, run_clove: Run, content: Any) -> None:
    words = write_vqa(tmp_path)
    (tmp_path / "other.json").write_text(json.dumps(content))
    code, _, error = run_clove("import", "x", tmp_path, "--by", "answer_type", *words, str(tmp_path / "other.json"))
    assert code == 1 and "other.json: " in error and error.count("\n") == 1


def test_a_scene_graph_of_another_form_is_refused(tmp_path: Path, run_clove: Run) -> None:
    words = write_gqa(tmp_path, {"2405722": {"objects": {"681267": {"names": ["banana"]}}}})
    code, _, error = run_clove("import", "x", tmp_path, "--by", "types.structural", *words)
    assert code == 1 and "question_id 07333408: it, or the scene graph of its image, has another form" in error


# ------------------------------------------------------------------------------ tasks


def test_tasks_join_values_in_the_order_given_and_other_questions_are_counted(tmp_path: Path, run_clove: Run) -> None:
    groups = ["--task", "is=is it", "--task", "color=what color, what color is the"]
    code, out, _ = run_clove("import", "x", tmp_path, "--by", "question_type", *groups, *write_vqa(tmp_path))
    assert code == 0
    assert [task.name for task in find_setting(tmp_path / "settings/x.yaml").tasks.values()] == ["is", "color"]
    assert len(of(tmp_path, "x", "color")) == 2 and "left out" not in out
    groups[3] = "color=what color"
    words = ["--by", "question_type", *groups, *write_vqa(tmp_path), "--strict"]
    code, out, _ = run_clove("import", "y", tmp_path, *words)
    assert code == 0 and "note: questions without a task, left out: 2\n" in out


def test_tasks_are_assigned_by_a_file(tmp_path: Path, run_clove: Run) -> None:
    (tmp_path / "tasks.json").write_text(json.dumps({"458752002": "grün", "458752001": "b #1", "9": "b #1"}))
    words = ["--assign", tmp_path / "tasks.json", *write_vqa(tmp_path)]
    code, out, _ = run_clove("import", "x", tmp_path, *words)
    assert code == 0 and "note: assignments without a question: 1 (first" in out
    assert [record["question_id"] for record in of(tmp_path, "x", "grün")] == ["458752002"]
    assert [record["question_id"] for record in of(tmp_path, "x", "b #1", "val")] == ["458752001"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "questiontype"], "no question has a field 'questiontype'; its fields are question_type, multiple"),
        (["--by", "answer_type", "--task", "a=othr"], "no question has answer_type 'othr'; did you mean other?"),
        (["--by", "question_id"], "tasks[0].name: '458752000' is not a name"),
        (["--by", "answer_type", "--task", "a=other"], "have one task, 'a', and a setting has at least two"),
        (["--by", "kinds"], "--by kinds is a table; name one of its fields: kinds.structural, kinds.semantic"),
        (["--by", "data_type"], "--by data_type: every question has the value 'real', which makes one task"),
        (["--by", "answer_type", "--task", "a=other,yes/no", "--task", "b=other"], "'other' is in 'a' and in 'b'"),
        (["--by", "answer_type", "--feature-path", "{img}.npy"], "feature path '{img}.npy': cannot be filled with"),
        (["--by", "answer_type", "--feature-path", "{split}.npy"], "feature path '{split}.npy': has no {image_id}, "),
    ],
)
def test_a_mistaken_choice_is_refused_and_nothing_is_written(
    tmp_path: Path, run_clove: Run, words: list[str], message: str
) -> None:
    code, _, error = run_clove("import", "x", tmp_path / "data", *words, *write_vqa(tmp_path))
    assert code == 1 and message in error and error.count("\n") == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("choice", ["--by", "--assign"])
@pytest.mark.parametrize(
    ("forgotten", "message"),
    [
        ([2], "train2014_questions.json: no question has an answer; name the file of their annotations beside it"),
        ([5, 2], "train2014_questions.json: no question has an answer; name the file of their annotations beside it"),
        ([5], "val2014_questions.json: no question has an answer; name the file of their annotations beside it"),
        ([4], "val2014_annotations.json: no questions; name the file of the questions beside it"),
    ],
)
def test_a_forgotten_file_is_named(
    tmp_path: Path, run_clove: Run, choice: str, forgotten: list[int], message: str
) -> None:
    words = write_vqa(tmp_path)
    for position in forgotten:
        del words[position]
    (tmp_path / "tasks.json").write_text(json.dumps({"458752000": "a", "458752001": "b"}))
    words += [choice, "answer_type" if choice == "--by" else tmp_path / "tasks.json"]
    code, _, error = run_clove("import", "x", tmp_path / "data", *words)
    assert code == 1 and message in error and error.count("\n") == 1


def test_values_that_would_be_one_task_are_refused(tmp_path: Path, run_clove: Run) -> None:
    words = write_vqa(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(path.read_text().replace('"other"', '"yes:no"'))
    code, _, error = run_clove("import", "x", tmp_path / "data", "--by", "answer_type", *words)
    assert code == 1 and "answer_type 'yes/no' and 'yes:no' would be one task, 'yes_no'; name each" in error
    assert not (tmp_path / "data").exists()


def test_a_number_of_records_is_drawn_and_the_seed_decides_which(tmp_path: Path, run_clove: Run) -> None:
    questions, annotations = zip(
        *((vqa_question(n), vqa_annotation(n, answer="yes" if n % 2 else "red")) for n in range(60)), strict=True
    )
    words = ["--by", "answer_type", "--train-size", "4", *write_vqa(tmp_path, questions, annotations)]
    drawn = {}
    for name, seed in (("a", 0), ("b", 1)):
        assert run_clove("import", "x", tmp_path / name, *words, "--seed", seed)[0] == 0
        drawn[name] = {record["question_id"] for record in load_records(tmp_path / name / "x/other_train.npy")}
    assert len(drawn["a"]) == len(drawn["b"]) == 4 and drawn["a"] != drawn["b"]
    assert len(load_records(tmp_path / "a/x/other_val.npy")) == 30


def test_options_without_effect_and_absent_features_are_noted(tmp_path: Path, run_clove: Run) -> None:
    words = ["import", "x", tmp_path, "--replace", "--by", "types.structural", *write_gqa(tmp_path)]
    notes = {
        ("--train-size", 3): "--train-size 3 has no effect: no task has more than 2 train records",
        ("--val-size", 2): None,
        ("--true-graphs",): None,
    }
    absent = f"note: there is no feature database {tmp_path}/features/x/objects.lmdb, which training reads\n"
    for options, note in notes.items():
        code, out, _ = run_clove(*words, *options)
        assert code == 0 and absent in out and (f"note: {note}\n" in out) == ("no effect" in out) == bool(note)
    (tmp_path / "features/x/objects.lmdb").mkdir(parents=True)
    assert "note:" not in run_clove(*words)[1]
    code, out, _ = run_clove("import", "y", tmp_path, "--by", "answer_type", "--true-graphs", *write_vqa(tmp_path))
    assert code == 0 and "note: --true-graphs has no effect: no record has a true graph but no predicted one\n" in out


# ------------------------------------------------------------------------------ bad input


def faulty_vqa(folder: Path) -> list[str]:
    questions = [vqa_question(number) for number in range(8)]
    annotations = [vqa_annotation(number, answer="yes" if number % 2 else "red") for number in range(10)]
    del annotations[7], questions[2]["image_id"], annotations[2]["image_id"]
    questions[3]["question"] = " "
    annotations[4]["answers"].pop()
    return write_vqa(folder, [*questions, questions[5]], annotations)


FINDINGS = {
    "annotations without a question": "4 (first question_id 458752008)",
    "questions without an image": "2 (first train record 2 (question_id 458752002))",
    "questions without a text": "2 (first question_id 458752003)",
    "questions without an annotation": "2 (first question_id 458752007)",
    "questions with neither 1 nor 10 answers": "2 (first question_id 458752004)",
    "repeated question ids": "2 (first question_id 458752005)",
}


def test_what_does_not_fit_together_is_left_out_and_counted_by_kind(tmp_path: Path, run_clove: Run) -> None:
    code, out, _ = run_clove("import", "x", tmp_path, "--by", "answer_type", *faulty_vqa(tmp_path))
    assert code == 0
    for kind, count in FINDINGS.items():
        assert f"note: {kind}: {count}\n" in out
    left = [record["question_id"][-1] for name in ("other", "yes_no") for record in of(tmp_path, "x", name)]
    assert left == ["0", "6", "1", "5"]


def test_strict_refuses_what_does_not_fit_together(tmp_path: Path, run_clove: Run) -> None:
    words = ["--by", "answer_type", *faulty_vqa(tmp_path)]
    code, _, error = run_clove("import", "x", tmp_path / "data", *words, "--strict")
    assert code == 1 and error.endswith("; nothing was written\n") and error.count("\n") == 1
    assert all(f"{kind}: {count}" in error for kind, count in FINDINGS.items())
    assert not (tmp_path / "data").exists()


def test_graphs_that_lack_an_image_or_a_named_object_are_counted(tmp_path: Path, run_clove: Run) -> None:
    more = {
        "1": gqa_question("verify", "Is it a cat?", "no", {"3": "1"}),
        "2": gqa_question("verify", "Is it a dog?", "no", {}, imageId="n12"),
    }
    code, out, _ = run_clove("import", "x", tmp_path, "--by", "types.structural", *write_gqa(tmp_path, **more))
    assert code == 0 and "note: questions about an object that their scene graph lacks: 2 (first question_id 1)" in out
    assert "note: questions without the scene graph of their image: 2 (first question_id 2)" in out
    assert len(of(tmp_path, "x", "verify")) == 3 and of(tmp_path, "x", "verify")[2]["gt_scene_graph_seq"] == []


# ------------------------------------------------------------------------------ what is written


def test_an_imported_setting_passes_the_check_once_it_has_prompts_and_features(tmp_path: Path, run_clove: Run) -> None:
    words = ["--by", "types.structural", "--features", "graphs/x.lmdb", *write_gqa(tmp_path)]
    code, out, _ = run_clove("import", "kinds", tmp_path, *words)
    assert code == 0 and re.search(r"^query +2 +2 +2$", out, re.MULTILINE)
    assert sample_prompts(["--setting", "kinds", "--data_dir", str(tmp_path), "--per_task", "3"]) == 0
    write_lmdb(tmp_path / "features/graphs/x.lmdb", {b"2405722": make_features()})
    code, out, _ = run_clove("check", tmp_path)
    assert code == 0 and "kinds/verify_train.npy" in out and "no problems" in out
    assert [split_size(tmp_path, task("kinds", "query"), split) for split in ("train", "val")] == [2, 2]
    assert find_setting("kinds").description == "Tasks differ in types.structural."


def test_a_vocabulary_has_the_words_of_the_train_answers_and_is_not_replaced(tmp_path: Path, run_clove: Run) -> None:
    words = ["--by", "image_classes", *write_textvqa(tmp_path)]
    assert str(tmp_path / VOCABULARY) in run_clove("import", "x", tmp_path, *words)[1]
    assert load_vocabulary(tmp_path / VOCABULARY) == [*SPECIALS, "nous", "les", "gosses"]
    (tmp_path / VOCABULARY).write_text("\n".join(SPECIALS))
    code, out, _ = run_clove("import", "y", tmp_path, *words)
    assert code == 0 and str(tmp_path / VOCABULARY) not in out
    assert f"{VOCABULARY} of the data root lacks 3 of the answer words, such as nous, les, gosses" in out
    assert load_vocabulary(tmp_path / VOCABULARY) == list(SPECIALS)
    (tmp_path / VOCABULARY).write_text("no special words")
    assert run_clove("import", "z", tmp_path, *words)[0] == 1 and not (tmp_path / "z").exists()


def test_answer_words_are_lower_case_without_commas_and_question_marks_and_with_s_set_off() -> None:
    assert answer_words([new_record(answers=["Bob's, <s> dog?"] * 10)]) == [*SPECIALS, "bob", "'s", "dog"]


def test_an_existing_setting_is_replaced_only_on_request(tmp_path: Path, run_clove: Run) -> None:
    words = ["import", "x", tmp_path, "--by", "answer_type", *write_vqa(tmp_path)]
    assert run_clove(*words)[0] == 0
    code, _, error = run_clove(*words)
    assert code == 1 and "settings/x.yaml: already exists; choose another name, or replace it (--replace; in " in error
    assert run_clove(*words, "--replace")[0] == 0


def test_a_replaced_setting_loses_its_prompts(tmp_path: Path, run_clove: Run) -> None:
    words = ["import", "x", tmp_path, "--by", "answer_type", *write_vqa(tmp_path)]
    prompts = tmp_path / "scene_graph_prompts" / "x.json"
    prompts.parent.mkdir()
    prompts.write_text("{}")
    assert run_clove(*words)[0] == 0 and prompts.exists()
    assert run_clove(*words, "--replace")[0] == 0 and not prompts.exists()


# ------------------------------------------------------------------------------ documentation


def documented(project: Path, kind: str) -> str:
    section = (project / "docs/your_own.md").read_text(encoding="utf-8").partition("## Your own data")[2]
    return re.search(rf"```{kind}\n(.+?)```", section, re.DOTALL)[1]


def test_the_command_of_the_documentation_runs(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_clove: Run
) -> None:
    write_gqa(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOVE_ROOT", "data")
    imported, sampled = documented(project, "bash").replace("\\\n", " ").splitlines()
    assert imported.startswith("python -m mmclvqa.clove import ")
    code, _, error = run_clove(*shlex.split(imported)[3:])
    assert code == 0, error
    assert sampled.startswith("python -m sg_generation ") and sample_prompts(shlex.split(sampled)[3:]) == 0
    assert (tmp_path / "data/scene_graph_prompts/gqa_kinds.json").exists()


def test_the_function_of_the_documentation_runs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    same = {"question": "what is it?", "answer": "cup"}
    rows = [
        {
            "split": split,
            "image": f"i{number}",
            "about": about,
            "id": number,
            "predicted_items": ["a cup [SEP]"],
            **same,
        }
        for number, (split, about) in enumerate(product(SPLITS, ("shape", "color")))
    ]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    exec(compile(documented(project, "python"), "docs/your_own.md", "exec"), {})
    (record,) = load_records(tmp_path / "data/mine/shape_train.npy")
    assert record["answers"] == ["cup"] * 10 and record["feature_path"] == "i0.npy"
    assert record["gt_scene_graph_seq"] == ["shape cup [SEP]"] and record["gt_scene_graph_mask"] == [1]
