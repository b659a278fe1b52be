"""mmf_run and mmf_predict, started as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmclvqa.clove.records import load_records
from tests.plugin.conftest import Runner

SHORT = ("training.max_updates=6", "training.evaluation_interval=3", "training.checkpoint_interval=2")


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_task_trains_evaluates_and_predicts(mmf_run: Runner, tmp_path: Path, clove_mini: Path) -> None:
    save = tmp_path / "save"
    done = mmf_run("run_type=train_val", *SHORT, f"env.save_dir={save}")
    assert done.returncode == 0, done.stderr
    for name in ("unicl_final.pth", "best.ckpt", "current.ckpt", "train.log", "config.yaml", "results.json"):
        assert (save / name).exists(), name
    trained = mmf_run.results(save)[-1]
    assert trained["split"] == "val" and 0 <= trained["metrics"]["textvqa_accuracy"] <= 1

    again = tmp_path / "again"
    final = save / "unicl_final.pth"
    done = mmf_run("run_type=val", f"checkpoint.resume_file={final}", f"env.save_dir={again}")
    assert done.returncode == 0, done.stderr
    evaluated = mmf_run.results(again)[-1]
    assert evaluated["metrics"] == trained["metrics"]

    words = ("run_type=val", f"checkpoint.resume_file={final}", f"env.save_dir={again}", "evaluation.predict=true")
    done = mmf_run(*words)
    assert done.returncode == 0, done.stderr
    (report,) = again.rglob("reports/*.json")
    entries = json.loads(report.read_text())
    wanted = load_records(clove_mini / "functional" / "fcl_mmf_object_val.npy")
    assert [entry["question_id"] for entry in entries] == [record["question_id"] for record in wanted]
    assert {"question_id", "image_id", "answer", "pred_source"} <= entries[0].keys()


def test_the_same_command_twice_gives_the_same_weights(mmf_run: Runner, tmp_path: Path) -> None:
    saves = [tmp_path / "one", tmp_path / "two"]
    for save, workers in zip(saves, (1, 0), strict=True):
        done = mmf_run("run_type=train", *SHORT, f"env.save_dir={save}", f"training.num_workers={workers}")
        assert done.returncode == 0, done.stderr
    assert same(*(state(save / "unicl_final.pth") for save in saves))


def test_killed_and_resumed_ends_with_the_weights_of_an_undisturbed_run(mmf_run: Runner, tmp_path: Path) -> None:
    words = ("run_type=train", *SHORT, "training.max_updates=8", "checkpoint.resume=True")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert mmf_run(*words, f"env.save_dir={whole}").returncode == 0
    for update in (2, 6):
        mark = cut / "models" / f"model_{update}.ckpt"
        mmf_run.killed_when(mark.exists, *words, f"env.save_dir={cut}")
    assert not (cut / "unicl_final.pth").exists()
    assert mmf_run(*words, f"env.save_dir={cut}").returncode == 0
    assert same(state(whole / "unicl_final.pth"), state(cut / "unicl_final.pth"))


def test_a_finished_run_is_not_trained_again(mmf_run: Runner, tmp_path: Path) -> None:
    words = ("run_type=train", *SHORT, "checkpoint.resume=True", f"env.save_dir={tmp_path / 'save'}")
    assert mmf_run(*words).returncode == 0
    final = tmp_path / "save" / "unicl_final.pth"
    before = final.stat().st_mtime_ns
    assert mmf_run(*words).returncode == 0
    assert final.stat().st_mtime_ns == before


def refused(mmf_run: Runner, message: str, *words: str, **kwargs: object) -> None:
    done = mmf_run(*words, **kwargs)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last, done.stderr
    assert "Traceback" not in done.stderr


def other_root(mmf_run: Runner, tmp_path: Path) -> Path:
    root = tmp_path / "data"
    shutil.copytree(mmf_run.environment["CLOVE_ROOT"], root)
    mmf_run.environment["CLOVE_ROOT"] = str(root)
    return root


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("training.max_update=3",), "did you mean training.max_updates"),
        (("checkpoint.resume_file=nowhere.pth",), "nowhere.pth"),
        (("training.trainer=nobody",), "nobody"),
        (("run_type=trian",), "trian"),
        (("training.callbacks=[{'type': 'nobody'}]",), "nobody"),
        (("env.clove_root=/nowhere",), "/nowhere"),
        (("dataset_config.clvqa.ocr_max_num=9",), "ocr_max_num=10: must be that of the data set"),
        (("dataset_config.clvqa.feature_dim=65", "model_config.unicl.obj.in_dim=65"), "65"),
    ],
)
def test_a_wrong_word_is_one_line(mmf_run: Runner, words: tuple[str, ...], message: str) -> None:
    refused(mmf_run, message, *words, *SHORT)


def test_a_wrong_config_path_is_one_line(mmf_run: Runner) -> None:
    refused(mmf_run, "nowhere.yaml does not exist", config="nowhere.yaml")


def test_code_in_an_annotation_file_is_not_run(mmf_run: Runner, tmp_path: Path) -> None:
    root = other_root(mmf_run, tmp_path)
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(mark),))

    np.save(root / "functional" / "fcl_mmf_object_train.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    refused(mmf_run, "fcl_mmf_object_train.npy", *SHORT)
    assert not mark.exists()


def test_a_feature_missing_in_a_worker_is_one_line(mmf_run: Runner, tmp_path: Path) -> None:
    root = other_root(mmf_run, tmp_path)
    path = root / "functional" / "fcl_mmf_object_train.npy"
    records = load_records(path)
    for record in records:
        record["feature_path"] = "987654321.npy"
    np.save(path, np.array(records, dtype=object), allow_pickle=True)
    refused(mmf_run, "987654321.npy", *SHORT)


def test_a_checkpoint_of_another_shape_names_what_differs(mmf_run: Runner, tmp_path: Path) -> None:
    save = tmp_path / "save"
    assert mmf_run("run_type=train", *SHORT, f"env.save_dir={save}").returncode == 0
    weights = state(save / "unicl_final.pth")
    weights["classifier.module.weight"] = weights["classifier.module.weight"][:-1]
    torch.save(weights, tmp_path / "other.pth")
    refused(mmf_run, "classifier.module.weight", "run_type=val", f"checkpoint.resume_file={tmp_path / 'other.pth'}")
    (tmp_path / "broken.pth").write_bytes((save / "unicl_final.pth").read_bytes()[:1000])
    refused(mmf_run, "broken.pth", "run_type=val", f"checkpoint.resume_file={tmp_path / 'broken.pth'}")


def test_a_save_dir_that_cannot_be_written_is_one_line(mmf_run: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(mmf_run, str(tmp_path / "file"), *SHORT, f"env.save_dir={tmp_path / 'file' / 'save'}")


def test_cuda_without_cuda_trains_on_the_cpu_with_a_warning(mmf_run: Runner) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    done = mmf_run("run_type=train", "training.device=cuda", "training.max_updates=1")
    assert done.returncode == 0, done.stderr
    assert "using cpu" in done.stdout + done.stderr


def test_a_user_dir_of_ones_own_is_imported(mmf_run: Runner, tmp_path: Path) -> None:
    package = tmp_path / "my_plugin"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from mmf.common.registry import registry\n"
        "from mmclvqa.models.unicl import UniVQA\n"
        "@registry.register_model('mine')\n"
        "class Mine(UniVQA):\n"
        "    @classmethod\n"
        "    def config_path(cls):\n"
        f"        return {str(package / 'mine.yaml')!r}\n"
    )
    sizes = (mmf_run.project / "EXP_CONFIG/mini/sizes.yaml").read_text()
    default = (mmf_run.project / "mmclvqa/configs/models/unicl/defaults.yaml").read_text()
    (package / "mine.yaml").write_text(default.replace("  unicl:", "  mine:"))
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"includes: [{mmf_run.project}/EXP_CONFIG/functional/cl_object_unicl_standalone.yaml]\n"
        + sizes.replace("  unicl:", "  mine:")
    )
    words = (f"env.user_dir={package}", "run_type=train", "training.max_updates=1")
    done = mmf_run(*words, config=config, model="mine", tiny=False)
    assert done.returncode == 0, done.stderr
    assert list(mmf_run.folder.rglob("mine_final.pth"))
