"""mmf_run and mmf_predict, started as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmf.common.registry import registry
from omegaconf import OmegaConf

from mmclvqa import cli
from mmclvqa.clove.records import load_records
from tests.plugin.conftest import Runner
from tests.run_fixtures import fresh_logging, one_line_error, one_thread  # noqa: F401

# One parallel worker runs all of them, because they share a training.
pytestmark = pytest.mark.xdist_group("mmf_run")

SHORT = ("training.max_updates=6", "training.evaluation_interval=3", "training.checkpoint_interval=2")
OCR_VECTORS = "dataset_config.clvqa.processors.context_processor.params"


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def trained(project: Path, clove_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The runner of a finished training, whose save folder is ``whole``; data are loaded without workers."""
    runner = Runner(project, clove_mini, tmp_path_factory.mktemp("experiments"))
    words = ("run_type=train_val", *SHORT, "checkpoint.resume=True", "training.num_workers=0")
    done = runner(*words, f"env.save_dir={runner.folder / 'whole'}")
    assert done.returncode == 0, done.stderr
    return runner


def test_a_task_trains_evaluates_and_predicts(trained: Runner, tmp_path: Path, clove_mini: Path) -> None:
    save = trained.folder / "whole"
    for name in ("unicl_final.pth", "best.ckpt", "current.ckpt", "train.log", "config.yaml", "results.json"):
        assert (save / name).exists(), name
    result = trained.results(save)[-1]
    assert result["split"] == "val" and 0 <= result["metrics"]["textvqa_accuracy"] <= 1

    again = tmp_path / "again"
    words = ("run_type=val", f"checkpoint.resume_file={save / 'unicl_final.pth'}", f"env.save_dir={again}")
    done = trained(*words)
    assert done.returncode == 0, done.stderr
    assert trained.results(again)[-1]["metrics"] == result["metrics"]

    done = trained(*words, "evaluation.predict=true")
    assert done.returncode == 0, done.stderr
    (report,) = again.rglob("reports/*.json")
    entries = json.loads(report.read_text())
    wanted = load_records(clove_mini / "functional" / "fcl_mmf_object_val.npy")
    assert [entry["question_id"] for entry in entries] == [record["question_id"] for record in wanted]
    assert {"question_id", "image_id", "answer", "pred_source"} <= entries[0].keys()


def test_a_killed_run_with_workers_resumes_to_the_weights_of_the_undisturbed_run(trained: Runner) -> None:
    words = ("run_type=train_val", *SHORT, "checkpoint.resume=True")
    whole, cut = trained.folder / "whole", trained.folder / "cut"
    for update in (2, 4):
        mark = cut / "models" / f"model_{update}.ckpt"
        trained.killed_when(mark.exists, *words, f"env.save_dir={cut}")
    assert not (cut / "unicl_final.pth").exists()
    resumed = trained(*words, f"env.save_dir={cut}")
    assert resumed.returncode == 0 and "settings differ" not in resumed.stdout
    assert same(state(whole / "unicl_final.pth"), state(cut / "unicl_final.pth"))


def test_a_finished_run_is_not_trained_again(trained: Runner) -> None:
    final = trained.folder / "whole" / "unicl_final.pth"
    before = final.stat().st_mtime_ns
    config = (final.parent / "config.yaml").read_text()
    words = ("run_type=train", *SHORT, "checkpoint.resume=True", f"env.save_dir={final.parent}")
    assert "settings differ" not in trained(*words).stdout
    changed = trained(*words, "training.max_updates=9", "optimizer.params.lr=0.5")
    assert changed.returncode == 0
    assert "training.max_updates=9 (was 6)" in changed.stdout and "optimizer.params.lr=0.5 (was " in changed.stdout
    assert "they have no effect, because training is finished" in changed.stdout
    assert final.stat().st_mtime_ns == before and (final.parent / "config.yaml").read_text() == config


Here = Callable[..., list[str]]


@pytest.fixture
def here(mmf_run: Runner, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Return a function that gives the overrides of a run, in whose folder and environment this process is then."""

    def overrides(*words: str, **kwargs: Any) -> list[str]:
        monkeypatch.chdir(mmf_run.project)
        for name, value in mmf_run.environment.items():
            monkeypatch.setenv(name, value)
        return mmf_run.overrides(*words, **kwargs)

    return overrides


def test_a_second_run_in_one_process_has_its_own_vocabulary(here: Here, clove_mini: Path, tmp_path: Path) -> None:
    words = ("run_type=train", "training.max_updates=1", "training.evaluation_interval=null", "training.num_workers=0")
    answers = (clove_mini / "vocab/clvqa_answer_6k.txt").read_text().splitlines()
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("\n".join(answers[:50]) + "\n")
    vocabulary = "dataset_config.clvqa.processors.answer_processor.params.vocab_file"
    rows, logs = [], []
    for name, more in (("all", ()), ("fewer", (f"{vocabulary}={fewer}",))):
        save = tmp_path / name
        cli.run(here(*words, *more, f"env.save_dir={save}"))
        rows.append(len(state(save / "unicl_final.pth")["classifier.module.weight"]))
        logs.append((tmp_path / "all/train.log").read_text())
    assert rows == [len(answers), 50]
    assert logs[0] == logs[1]


def test_processors_of_an_earlier_data_set_are_removed_after_a_run_on_another_one() -> None:
    registry.register("clvqa_text_processor", object())
    registry.register("config", OmegaConf.create({"datasets": "vqa2"}))
    cli.forget_earlier_run()
    assert registry.get("clvqa_text_processor", no_warning=True) is None


Refused = Callable[..., None]


@pytest.fixture
def refused(here: Here) -> Refused:
    """Return a function that runs ``mmf_run`` in this process and expects it to end with one line of error."""

    def check(message: str, *words: str, **kwargs: Any) -> None:
        assert message in one_line_error(here(*words, **kwargs))

    return check


def other_root(mmf_run: Runner, tmp_path: Path) -> Path:
    root = tmp_path / "data"
    shutil.copytree(mmf_run.environment["CLOVE_ROOT"], root)
    mmf_run.environment["CLOVE_ROOT"] = str(root)
    return root


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("training.trainer=nobody",), "nobody"),
        (("env.clove_root=/nowhere",), "/nowhere"),
        (("dataset_config.clvqa.ocr_max_num=9",), "ocr_max_num=10: must be that of the data set"),
        ((f"{OCR_VECTORS}.max_length=9",), "max_length=9: must be that of answer_processor (10)"),
        (("dataset_config.clvqa.feature_dim=65", "model_config.unicl.obj.in_dim=65"), "65"),
    ],
)
def test_a_wrong_word_is_one_line(refused: Refused, words: tuple[str, ...], message: str) -> None:
    refused(message, *words, *SHORT)


@pytest.mark.parametrize("words", [(), ("training.CL.cl_setting=functional",), ("training.CL.cur_task=object",)])
def test_a_task_that_is_not_given_is_named_by_its_keys(refused: Refused, words: tuple[str, ...]) -> None:
    message = "annotations.train is empty: set training.CL.cl_setting and training.CL.cur_task, which name its files"
    refused(message, *SHORT, *words, config="EXP_CONFIG/mini/setting.yaml")


def test_a_wrong_run_type_leaves_no_folder(refused: Refused, tmp_path: Path) -> None:
    refused("trian is not one of train, val", *SHORT, "run_type=trian", f"env.save_dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_a_damaged_bert_vocabulary_is_named(mmf_run: Runner, refused: Refused, tmp_path: Path) -> None:
    root = other_root(mmf_run, tmp_path)
    for file in root.rglob("vocab.txt"):
        file.write_text("")
    refused("vocab.txt: it has no line [UNK]", *SHORT)


def test_code_in_an_annotation_file_is_not_run(mmf_run: Runner, refused: Refused, tmp_path: Path) -> None:
    root = other_root(mmf_run, tmp_path)
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(mark),))

    np.save(root / "functional" / "fcl_mmf_object_train.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    refused("fcl_mmf_object_train.npy", *SHORT)
    assert not mark.exists()


def test_a_feature_missing_in_a_worker_is_one_line(mmf_run: Runner, tmp_path: Path) -> None:
    root = other_root(mmf_run, tmp_path)
    path = root / "functional" / "fcl_mmf_object_train.npy"
    records = load_records(path)
    for record in records:
        record["feature_path"] = "987654321.npy"
    np.save(path, np.array(records, dtype=object), allow_pickle=True)
    done = mmf_run(*SHORT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "987654321.npy" in last, done.stderr


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
