"""``check`` finds everything that is wrong with a data root, and nothing with a sound one."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from clove_builders import make_features, make_record, write_lmdb

from mmclvqa.clove.check import EXAMPLES, Checker
from mmclvqa.clove.data_root import (
    FASTTEXT,
    GQA_FEATURES,
    MANIFEST,
    TEXTVQA_FEATURES,
    TEXTVQA_OCR_FEATURES,
    VOCABULARY,
    prompts_path,
)
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.features import FeatureDatabase, value_problem
from mmclvqa.clove.prompts import save_prompts
from mmclvqa.clove.records import load_records, save_records
from mmclvqa.clove.tasks import tasks

OBJECT_TRAIN = "functional/fcl_mmf_object_train.npy"
Run = Callable[..., tuple[int, str, str]]


def findings(root: Path, *settings: str) -> list[str]:
    """Every finding as ``what: detail``."""
    report = Checker(root, settings).run()
    return [
        f"{what}: {detail}"
        for what, kinds in report.findings.items()
        for details in kinds.values()
        for detail in details
    ]


def only(root: Path, *parts: str) -> str:
    """The one finding there is; it holds every part."""
    found = findings(root)
    assert len(found) == 1, found
    assert all(part in found[0] for part in parts), found[0]
    return found[0]


def test_a_sound_root_has_no_findings(data_root: Path, run_clove: Run) -> None:
    code, out, _ = run_clove("check", data_root)
    assert code == 0
    assert out.rstrip().endswith("no problems")
    assert "scene" in out and "absent" in out
    assert "18 features" not in out and "3 features of width 4, 3 referenced, 3 read" in out


def test_findings_are_listed_below_the_table_and_the_exit_code_is_1(data_root: Path, run_clove: Run) -> None:
    (data_root / VOCABULARY).unlink()
    (data_root / OBJECT_TRAIN).unlink()
    code, out, _ = run_clove("check", data_root)
    assert code == 1
    assert f"{VOCABULARY}: there is no such file" in out
    assert f"{OBJECT_TRAIN}: there is no such file" in out
    assert out.rstrip().endswith("2 problems")


def test_many_findings_of_a_kind_are_counted_and_all_lists_them(data_root: Path, run_clove: Run) -> None:
    broken = [make_record(number=number % 3, answers=[]) for number in range(EXAMPLES + 5)]
    save_records(data_root / OBJECT_TRAIN, broken)
    _, out, _ = run_clove("check", data_root)
    assert out.count("field answers contains 0 answers") == EXAMPLES
    assert "and 5 more of this kind" in out
    _, out, _ = run_clove("check", data_root, "--all")
    assert out.count("field answers contains 0 answers") == EXAMPLES + 5


def test_a_root_with_neither_setting_is_a_finding(data_root: Path) -> None:
    shutil.rmtree(data_root / "functional")
    (data_root / MANIFEST).unlink()
    assert any("no annotation files of any known setting" in found for found in findings(data_root))


def test_a_setting_that_is_asked_for_must_be_there(data_root: Path) -> None:
    assert not findings(data_root, "functional")
    missing = [found for found in findings(data_root, "scene") if "there is no such file" in found]
    assert len(missing) == 12 + 1


def test_an_unknown_setting_is_refused_with_the_known_ones(data_root: Path, run_clove: Run) -> None:
    code, _, err = run_clove("check", data_root, "--setting", "other")
    assert code == 1 and "unknown setting 'other'; the settings are functional, scene;" in err


def test_released_json_files_stand_in_for_npy(data_root: Path) -> None:
    path = data_root / OBJECT_TRAIN
    path.with_suffix(".json").write_text(json.dumps(load_records(path)), encoding="utf-8")
    path.unlink()
    assert not findings(data_root)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_annotation_file_is_found(data_root: Path, share: float) -> None:
    path = data_root / OBJECT_TRAIN
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert any(found.startswith(OBJECT_TRAIN) for found in findings(data_root))


def test_a_record_of_another_task_is_found(data_root: Path) -> None:
    records = [make_record(), make_record(number=1), make_record("relation", number=2)]
    save_records(data_root / OBJECT_TRAIN, records)
    only(data_root, OBJECT_TRAIN, "record 2 (question_id relation2)", "stage", "'relation'", "'object'")


def test_numbers_other_than_the_manifests_are_found(data_root: Path) -> None:
    save_records(data_root / OBJECT_TRAIN, [make_record()])
    only(data_root, OBJECT_TRAIN, "1 record instead of 3")


def test_without_manifest_the_published_numbers_count(data_root: Path) -> None:
    (data_root / MANIFEST).unlink()
    found = findings(data_root)
    assert any("3 records instead of 16868" in line for line in found)
    assert any("CLOVE's vocabulary has 6182" in line for line in found)


def test_a_broken_manifest_is_the_only_finding_it_causes(data_root: Path) -> None:
    (data_root / MANIFEST).write_text("{}", encoding="utf-8")
    only(data_root, "manifest.json", "no 'tasks'")


@pytest.mark.parametrize("share", [0.0, 0.00002, 0.001, 0.5, 0.9999999])
def test_truncated_word_vectors_are_found(data_root: Path, clove_mini: Path, share: float) -> None:
    content = (clove_mini / FASTTEXT).read_bytes()
    (data_root / FASTTEXT).parent.mkdir(parents=True)
    (data_root / FASTTEXT).write_bytes(content)
    assert not findings(data_root)
    (data_root / FASTTEXT).write_bytes(content[: int(share * len(content))])
    only(data_root, f"{FASTTEXT}: is truncated: {int(share * len(content))} bytes", "download or generate it again")


@pytest.mark.parametrize(
    ("position", "number", "message"),
    [
        (0, 2, "is not a fastText model: its magic number is 2 instead of 793712314"),
        (4, 13, "is not a fastText model: its version is 13, and the latest is 12"),
        (8, 100, "buckets of 100 dimensions; a model with words, of 300 dimensions, is required"),
        (68, 0, "has 0 words and 2000 buckets"),
        (68, 2000000, "is truncated: "),
    ],
)
def test_a_wrong_header_of_word_vectors_is_found(
    data_root: Path, clove_mini: Path, position: int, number: int, message: str
) -> None:
    content = bytearray((clove_mini / FASTTEXT).read_bytes())
    content[position : position + 4] = number.to_bytes(4, "little")
    (data_root / FASTTEXT).parent.mkdir(parents=True)
    (data_root / FASTTEXT).write_bytes(content)
    only(data_root, FASTTEXT, message)


def test_a_record_without_feature_path_is_found(data_root: Path) -> None:
    records = [make_record(number=number) for number in range(2)] + [make_record(feature_path=None)]
    save_records(data_root / OBJECT_TRAIN, records)
    only(data_root, OBJECT_TRAIN, "record 2", "feature_path")


def test_a_feature_missing_for_a_record_is_found(data_root: Path) -> None:
    shutil.rmtree(data_root / GQA_FEATURES)
    write_lmdb(data_root / GQA_FEATURES, {b"0": make_features(), b"1": make_features()})
    only(data_root, GQA_FEATURES, "2.npy", "record 2")


def test_textvqa_features_are_looked_for_in_both_databases_below_train(data_root: Path) -> None:
    for database in (TEXTVQA_FEATURES, TEXTVQA_OCR_FEATURES):
        shutil.rmtree(data_root / database)
        write_lmdb(data_root / database, {f"{number}".encode(): make_features() for number in range(3)})
    found = findings(data_root)
    assert len(found) == 6
    assert all("no feature train/" in line for line in found)


def test_a_missing_database_is_one_finding(data_root: Path) -> None:
    shutil.rmtree(data_root / GQA_FEATURES)
    only(data_root, GQA_FEATURES, "no such feature database")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_database_is_found(data_root: Path, share: float) -> None:
    file = data_root / GQA_FEATURES / "data.mdb"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    only(data_root, GQA_FEATURES, "truncated")


def test_a_key_without_value_is_found(data_root: Path) -> None:
    path = data_root / GQA_FEATURES
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"2")
    only(data_root, GQA_FEATURES, "key 2", "no value")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (pickle.dumps(print), "builtins.print is not allowed"),
        (b"rubbish", "broken"),
        (pickle.dumps([1]), "instead of a dict"),
        (pickle.dumps({"bbox": np.ones((3, 4))}), "has no features"),
        (pickle.dumps({"features": np.ones((3, 4)), "bbox": np.ones((3, 4))}), "bbox and no image_width, image_height"),
        (pickle.dumps(make_features() | {"bbox": np.zeros((2, 4))}), "bbox has shape 2 x 4 instead of 3 x 4"),
        (pickle.dumps(make_features() | {"bbox": np.zeros((3, 3))}), "bbox has shape 3 x 3 instead of 3 x 4"),
        (pickle.dumps(make_features() | {"bbox": [[0, 0, 1, 1], [0]]}), "bbox is not a table of numbers"),
        (pickle.dumps(make_features() | {"features": np.full((3, 4), np.nan)}), "not finite"),
        (pickle.dumps(make_features(width=5)), "different widths"),
    ],
)
def test_feature_values_are_checked(data_root: Path, value: bytes, said: str) -> None:
    path = data_root / GQA_FEATURES
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"1", value)
    only(data_root, GQA_FEATURES, "1", said)


def test_an_error_of_lmdb_names_database_and_key(data_root: Path) -> None:
    database = FeatureDatabase(data_root / GQA_FEATURES)
    database.close()
    with pytest.raises(DataError, match=rf"{GQA_FEATURES}, key 1: cannot be read \(.*\); download or generate the"):
        database.read(b"1")


def test_features_without_boxes_are_noted(data_root: Path) -> None:
    path = data_root / GQA_FEATURES
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"1", pickle.dumps({"features": np.ones((3, 4), np.float32)}))
    report = Checker(data_root).run()
    assert not report.count()
    assert report.notes == [f"{GQA_FEATURES}: bbox is absent, boxes are zero, in 1 of the 3 values read (first key 1)"]


def test_a_vocabulary_without_the_specials_is_found(data_root: Path) -> None:
    (data_root / VOCABULARY).write_text("yes\nno\n", encoding="utf-8")
    only(data_root, VOCABULARY, "<pad> <s> </s> <unk>")


def test_prompts_of_a_missing_task_are_found(data_root: Path) -> None:
    path = data_root / prompts_path("functional")
    prompts = json.loads(path.read_text(encoding="utf-8"))
    del prompts["logical"]
    path.write_text(json.dumps(prompts), encoding="utf-8")
    only(data_root, "scene_graph_prompts/functional.json", "no prompt for task logical")


def test_missing_prompts_are_found_with_the_command_that_samples_them(data_root: Path) -> None:
    (data_root / prompts_path("functional")).unlink()
    only(data_root, "functional.json: there is no such file; `python -m sg_generation` samples the prompts, which SRM")


@pytest.mark.parametrize("graphless", [["object"], [task.name for task in tasks("functional").values()]])
def test_tasks_without_related_items_need_no_prompts(data_root: Path, graphless: list[str]) -> None:
    for name in graphless:
        records = [make_record(name, number, gt_scene_graph_mask=[0, 0]) for number in range(3)]
        save_records(data_root / f"functional/fcl_mmf_{name}_train.npy", records)
    path = data_root / prompts_path("functional")
    save_prompts(path, {task.name: [["dog"]] for task in tasks("functional").values() if task.name not in graphless})
    note = f"SRM cannot be used: no train record of {graphless[0]}"
    for _ in range(2):
        report = Checker(data_root).run()
        assert not report.count() and len(report.notes) == 1 and note in report.notes[0]
        path.unlink(missing_ok=True)


def test_no_root_is_an_error_of_one_line(tmp_path: Path, run_clove: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run_clove("check", tmp_path / "nowhere")
    assert code == 1 and not out and err.startswith("error: ") and err.count("\n") == 1
    monkeypatch.delenv("CLOVE_ROOT", raising=False)
    assert run_clove("check")[0] == 1
    monkeypatch.setenv("CLOVE_ROOT", str(tmp_path / "elsewhere"))
    assert "elsewhere" in run_clove("check")[2]


def test_a_report_says_one_finding_in_the_singular(data_root: Path) -> None:
    (data_root / VOCABULARY).unlink()
    assert Checker(data_root).run().report().endswith("\n1 problem")


def test_clove_mini_is_sound(clove_mini: Path) -> None:
    assert findings(clove_mini, "functional", "scene") == []


def test_an_empty_file_an_empty_text_and_boxes_that_are_not_finite_are_found(data_root: Path) -> None:
    save_records(data_root / OBJECT_TRAIN, [])
    assert any(f"{OBJECT_TRAIN}: contains no records" in line for line in findings(data_root))
    records = [make_record(number=number) for number in range(2)]
    save_records(data_root / OBJECT_TRAIN, [*records, make_record(number=2, question="")])
    only(data_root, OBJECT_TRAIN, "record 2", "field question is empty")


def test_repeated_question_ids_are_noted(data_root: Path) -> None:
    save_records(data_root / OBJECT_TRAIN, [make_record(number=number % 2) for number in range(3)])
    report = Checker(data_root).run()
    assert any("1 question ids are repeated (first record 2" in note for note in report.notes) and not report.count()


def test_boxes_that_are_not_finite_are_a_problem() -> None:
    value = make_features() | {"bbox": np.full((len(make_features()["features"]), 4), np.nan)}
    assert value_problem(value, has_boxes=True) == "its bbox contains values that are not finite"
