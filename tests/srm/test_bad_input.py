"""Invalid input ends with an error of one line, and no partially written file is left."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from srm_runs import DEBUG, Runs, file_bytes

from mmclvqa.clove import files
from mmclvqa.clove.records import load_records, save_records


def test_an_unknown_task_letter(srm: Runs) -> None:
    assert "x is not a task of the functional setting" in srm.error(order="oarlkx")


def test_a_repeated_task_letter(srm: Runs) -> None:
    assert "o occurs more than once" in srm.error(order="ooarlk")


def test_a_missing_annotation_file(srm: Runs) -> None:
    (srm.data / "functional" / "fcl_mmf_logical_train.npy").unlink()
    assert "fcl_mmf_logical_train.npy: there is no such file" in srm.error()
    assert not srm.root.exists()


def test_a_record_without_a_field(srm: Runs) -> None:
    path = srm.data / "functional" / "fcl_mmf_scenetext_train.npy"
    records = load_records(path)
    del records[5]["question"]
    save_records(path, records)
    error = srm.error()
    assert "fcl_mmf_scenetext_train.npy: record 5" in error and "question" in error
    assert not list(srm.root.glob("**/*.safetensors"))


def test_a_truncated_annotation_file(srm: Runs) -> None:
    path = srm.data / "functional" / "fcl_mmf_object_train.npy"
    path.write_bytes(path.read_bytes()[:500])
    assert "fcl_mmf_object_train.npy" in srm.error()


def test_an_annotation_file_of_another_kind(srm: Runs) -> None:
    np.save(srm.data / "functional" / "fcl_mmf_object_train.npy", np.zeros(3))
    assert "not a list of records" in srm.error()


def test_a_missing_prompt_file(srm: Runs) -> None:
    (srm.data / "scene_graph_prompts" / "functional.json").unlink()
    assert "functional.json: there is no such file" in srm.error()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ('{"object": ["red car"]}', "prompt 0 is not a list"),
        ("{}", "no prompt for task object"),
        ('{"object": []}', "no prompt for task object"),
        ('{"objects": [["car"]]}', "not a task"),
    ],
)
def test_a_broken_prompt_file_or_a_task_without_prompts(srm: Runs, content: str, message: str) -> None:
    (srm.data / "scene_graph_prompts" / "functional.json").write_text(content)
    assert message in srm.error()


def test_a_model_folder_of_the_wrong_kind(srm: Runs) -> None:
    folder = srm.data / "pretrained" / "distilgpt2"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    assert "contains a model of type bert, but distilgpt2 is of type gpt2" in srm.error()


def test_a_model_folder_without_weights(srm: Runs) -> None:
    (srm.data / "pretrained" / "distilgpt2" / "model.safetensors").unlink()
    assert "pretrained/distilgpt2: cannot be loaded" in srm.error()


def test_a_folder_without_a_model_is_refused_before_the_run_folder_is_made(srm: Runs) -> None:
    assert "contains no language model" in srm.error("--model_name", str(srm.data / "functional"))
    assert not srm.root.exists()


def test_an_unknown_model_is_reported_without_waiting_for_a_connection(
    srm: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "there is no such language model" in srm.error("--model_name", "distilgtp2")
    assert not waits


def test_a_model_in_neither_place_names_both(srm: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    (srm.data / "pretrained" / "t5v1_1-small").rename(srm.data / "elsewhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = srm.error("--model_name", "t5v1_1-small")
    assert "pretrained/t5v1_1-small" in error and "google/t5-v1_1-small" in error


def test_a_run_folder_made_with_other_settings_names_the_difference(srm: Runs) -> None:
    folder = srm(*DEBUG)
    error = srm.error(*DEBUG, "--learning_rate", "0.001")
    assert "learning_rate was 0.005, now 0.001" in error and "--overwrite" in error

    path = srm.data / "functional" / "fcl_mmf_relation_train.npy"
    save_records(path, load_records(path)[:-1])
    assert "size of fcl_mmf_relation_train.npy was" in srm.error(*DEBUG)

    (folder / "settings.json").write_text("[]")
    assert "is not a valid settings file" in srm.error(*DEBUG)
    (folder / "settings.json").unlink()
    assert "settings are unknown" in srm.error(*DEBUG)
    for path in folder.glob("*.npy"):
        path.unlink()
    assert "settings are unknown" in srm.error(*DEBUG)


@pytest.mark.parametrize(("name", "flags"), [("REPLAY", DEBUG), ("training.safetensors", ())])
def test_a_full_disk_leaves_no_partial_file(
    srm: Runs, monkeypatch: pytest.MonkeyPatch, name: str, flags: tuple[str, ...]
) -> None:
    real = files.atomic_write

    def full(path: str | os.PathLike[str], mode: str = "w") -> Any:
        target = Path(path)
        if name not in target.name or target.suffix == ".json":
            return real(path, mode)

        class Full:
            def __enter__(self) -> IO[Any]:
                self.context = real(path, mode)
                self.file = self.context.__enter__()
                return self

            def write(self, data: bytes) -> int:
                self.file.write(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", str(target))

            def __exit__(self, *error: Any) -> None:
                self.context.__exit__(*error)

        return Full()

    monkeypatch.setattr("SRM.training.atomic_write", full)
    monkeypatch.setattr("mmclvqa.clove.records.atomic_write", full)
    assert "No space left on device" in srm.error(*flags)
    written = [path.name for path in srm.root.rglob("*") if path.is_file()]
    assert not any(file.endswith((".tmp", ".npy")) or file == name for file in written)
    monkeypatch.undo()
    srm(*flags)


@pytest.mark.parametrize(("flags", "message"), [
    (("--model_name", "/"), "'/': has no final path component"),
    (("--lm_lamda", "1"), "--lm_lamda 1; did you mean --lm_lambda"),
    (("--train_perc", "1.5"), "--train_perc must be a number above 0 and at most 1, got '1.5'"),
    (("--learning_rate", "nan"), "--learning_rate must be a number above 0, got 'nan'"),
    (("--weight_decay", "x"), "--weight_decay must be a number of at least 0, got 'x'"),
    (("--qp_margin", "x"), "--qp_margin must be a number, got 'x'"),
    (("--min_batch_size", "x"), "--min_batch_size must be a whole number of at least 1, got 'x'"),
    (("--n_threads", "99999999"), "--n_threads must be a whole number of at least 0 and at most 1024"),
    (("--model_dir_root", ""), "--model_dir_root must be a folder, got ''"),
    (("@nowhere.args",), "error: nowhere.args: No such file"),
    (("--decay_style", "cosine"), "invalid choice: 'cosine'"),
    (("--seq_train_type", "gem"), "invalid choice: 'gem'"), (("--length_rule", "new"), "invalid choice: 'new'"),
])  # fmt: skip
def test_an_unknown_flag_or_an_invalid_value(srm: Runs, flags: tuple[str], message: str) -> None:
    assert message in srm.error(*flags)


@pytest.mark.parametrize("content", [b'--debug "x', b"\xff\xfe"])
def test_a_file_that_contains_no_flags(srm: Runs, content: bytes) -> None:
    path = srm.data / "broken.args"
    path.write_bytes(content)
    assert f"{path}: cannot be read as flags" in srm.error(f"@{path}")


def test_a_model_root_that_is_a_file(srm: Runs) -> None:
    srm.root.write_text("")
    assert "is a file, not a folder" in srm.error()


def test_no_data_root(srm: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOVE_ROOT", raising=False)
    srm.data = srm.data / "nowhere"
    assert "nowhere: there is no such folder" in srm.error()


def test_skipping_a_task_without_a_model(srm: Runs) -> None:
    assert "models/object does not exist; train task object first" in srm.error("--skip_tasks", "o")


def test_a_missing_model_of_a_skipped_task_is_noticed_before_results_are_deleted(srm: Runs) -> None:
    folder = srm(*DEBUG)
    shutil.rmtree(folder / "models" / "attribute")
    files = file_bytes(folder)
    assert "models/attribute does not exist" in srm.error(*DEBUG, "--overwrite", "--skip_tasks", "o", "a")
    assert file_bytes(folder) == files


def test_skipping_a_task_in_the_middle(srm: Runs) -> None:
    assert "not the first tasks" in srm.error("--skip_tasks", "a")


def test_fp16_on_a_cpu(srm: Runs) -> None:
    assert "needs a GPU" in srm.error("--precision", "fp16")


def test_fp32_with_another_precision(srm: Runs) -> None:
    assert "contradict" in srm.error("--precision", "bf16", "--fp32")


def test_generate_of_transformers_under_the_published_length_rule(srm: Runs) -> None:
    assert "give --length_rule generated" in srm.error("--generator", "hf")


def test_a_loss_that_is_not_finite(srm: Runs) -> None:
    assert "the loss is nan" in srm.error("--learning_rate", "1e30", "--max_grad_norm", "1e30")
