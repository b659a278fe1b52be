"""``eval_os.py``: its functions and its command line."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from worlds import LIMIT, ORDER, World

import eval_os  # its functions start with test_, so they are not imported by name
from mmclvqa.clove.annotations import load_records, new_record, save_records
from mmclvqa.clove.errors import CloveError, TaskError
from mmclvqa.clove.tasks import tasks
from mmclvqa.evaluation.chance import chance
from mmclvqa.evaluation.outcome import Sweep


def call(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "eval_os.py", *arguments],
        cwd=project,
        env={**os.environ, "CONFIG": "EXP_CONFIG/mini", **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def swept(project: Path, world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = world.setup.words
    common = ("--cl_setting", "functional", "--task_order", ORDER, "--exp", "ft", "--save_dir", world.save)
    return call(project, "sweep", *common, "--model_name", "unicl", *arguments, *words)


def test_the_functions_are_those_of_the_published_tool() -> None:
    wanted = (
        "cl_setting, setting_idx, abbr_seq, device, model_name, save_dir, val_exp, test_stand_alone=False, "
        "test_reg=False, report_metric=True, print_acc=False"
    )
    found = [
        name if p.default is p.empty else f"{name}={p.default}"
        for name, p in inspect.signature(eval_os.stage_sweep).parameters.items()
    ]
    assert ", ".join(found) == wanted
    assert list(inspect.signature(eval_os.test_multi_task).parameters) == [
        "device", "cl_setting", "model_name", "save_dir"
    ]  # fmt: skip
    assert list(inspect.signature(eval_os.test_chance).parameters) == ["cl_setting"]


def test_help_needs_neither_torch_nor_mmf(project: Path) -> None:
    code = "import sys, eval_os\ntry: eval_os.main(['--help'])\nfinally: print({'torch', 'mmf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "set()"


def test_a_sweep_prints_table_and_summary_and_writes_json_and_csv(
    project: Path, swept_once: World, tmp_path: Path
) -> None:
    files = ("--json", str(tmp_path / "sweep.json"), "--csv", str(tmp_path / "sweep.csv"))
    done = swept(project, swept_once, "--device", "cpu", "--setting_idx", "438", *files)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "0 pairs to evaluate, 36 kept from before\n"
    value = json.loads((tmp_path / "sweep.json").read_text())
    summary = value["summary"]
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["learned", "\\", "tested", "logical", "knowledge", "object", "scenetext", "relation",
                                "attribute"]  # fmt: skip
    assert len(lines[2:8]) == 6 and lines[2].split()[1] == f"{value['matrix']['l2l']:.4f}"
    for name in ("accuracy", "backward_transfer", "forgetting", "legacy_forgetting"):
        what = f"weighted average {name.replace('_', ' ')}"
        assert f"{what}: {summary[f'weighted_average_{name}']:.4f}" in lines
    rows = list(csv.reader(io.StringIO((tmp_path / "sweep.csv").read_text())))
    assert len(rows) == 7 and {len(row) for row in rows} == {7} and rows[1][0] == "logical"


def test_json_on_standard_output_stands_alone(project: Path, swept_once: World) -> None:
    done = swept(project, swept_once, "--json", "-")
    assert json.loads(done.stdout)["task_order"] == ORDER


def test_the_summary_lines_are_the_published_numbers(published: Sweep) -> None:
    lines = published.lines()
    assert "weighted average accuracy: 0.4597" in lines
    assert "weighted average backward transfer: -0.1203" in lines
    assert "weighted average legacy forgetting: 0.2739" in lines
    assert lines[0].startswith("final accuracies: object 0.2963, attribute 0.3083")


def test_a_sweep_ends_with_the_published_closing_lines(published: Sweep) -> None:
    assert published.lines()[-3:] == [
        "==> textvqa_accuracy | Final acc: [0.2963, 0.3083, 0.3037, 0.6733, 0.6253, 0.5511], weight avg acc: 0.4597",
        "==> textvqa_accuracy | Backward transfer: [-0.3034, -0.1094, -0.0906, -0.042, -0.056], weighted bwt: -0.1203",
        "==> textvqa_accuracy | Forgetting: [0.419, 0.407, 0.4116, 0.042, 0.09], weighted forgetting: 0.2739",
    ]


def test_the_closing_lines_weigh_all_tasks_the_same(published: Sweep) -> None:
    uneven = dataclasses.replace(published, weights=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert uneven.lines()[-3:] == published.lines()[-3:]
    assert uneven.lines()[1] != published.lines()[1]


def test_an_unfinished_run_has_no_closing_lines(published: Sweep) -> None:
    accuracies = {key: value for key, value in published.accuracies.items() if key[0] != "s"}
    assert not [line for line in dataclasses.replace(published, accuracies=accuracies).lines() if "==>" in line]


def test_stage_sweep_returns_and_prints_the_accuracies(
    swept_once: World, monkeypatch: pytest.MonkeyPatch, clove_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmclvqa.evaluation.setup.Setup.of", lambda device: swept_once.setup)
    arguments = ("functional", 438, ORDER, "cpu", "unicl", swept_once.save, "ft")
    found = eval_os.stage_sweep(*arguments, report_metric=False, print_acc=True)
    assert len(found) == 36
    assert capsys.readouterr().out.splitlines() == [f"{key}: {value:.4f}" for key, value in found.items()]


def test_the_multitask_model_is_evaluated_on_each_task(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmclvqa.evaluation.setup.Setup.of", lambda device: world.setup)
    found = eval_os.test_multi_task("cpu", "functional", "unicl", world.save)
    assert list(found) == ["object", "attribute", "relation", "logical", "knowledge", "scenetext"]
    out = capsys.readouterr().out
    assert all(name in out for name in found) and "weighted average accuracy: " in out
    folder = Path(world.save, "multitask", "val_unicl_functional_incremental")
    assert len(list(folder.glob("multitask2*/results.json"))) == 6


def test_chance_is_the_most_frequent_train_answer(
    clove_mini: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOVE_ROOT", str(clove_mini))
    found = eval_os.test_chance("functional")
    train, val = (
        load_records(clove_mini / "functional" / f"fcl_mmf_logical_{split}.npy") for split in ("train", "val")
    )
    (answer, _), *_ = Counter(answer for record in train for answer in record["answers"]).most_common(1)
    # All ten answers of a clove-mini val record are the same, so that VQA accuracy is right or wrong.
    assert found["logical"] == pytest.approx(sum(record["answer"] == answer for record in val) / len(val))
    assert answer in capsys.readouterr().out


def test_chance_counts_all_ten_answers_of_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [new_record(answer="cup", answers=["cup"] * 4 + ["mug"] * 6) for _ in range(3)]
    for task in tasks("scene").values():
        save_records(tmp_path / task.annotation_path("train"), train)
        save_records(tmp_path / task.annotation_path("val"), [new_record(answer="mug", answers=["mug"] * 10)])
    monkeypatch.setenv("CLOVE_ROOT", str(tmp_path))
    assert eval_os.test_chance(cl_setting="scene") == {task.name: 1 for task in tasks("scene").values()}
    assert chance(tmp_path, "scene").by_task[0].train_share == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"setting_idx": 2}, "the index of task order lkosra in the functional setting is 438"),
        ({"abbr_seq": "lkosrz"}, "z is no task of the functional setting"),
        ({"cl_setting": "other"}, "unknown setting 'other'"),
        ({"model_name": "m4c"}, "the model here is unicl"),
        ({"val_exp": "nothing"}, "missing steps 2 knowledge"),
        ({"device": "tpu"}, "device tpu"),
    ],
)
def test_wrong_arguments_are_one_clear_error(swept_once: World, changed: dict[str, Any], message: str) -> None:
    arguments = {
        "cl_setting": "functional",
        "setting_idx": 438,
        "abbr_seq": ORDER,
        "device": "cpu",
        "model_name": "unicl",
        "save_dir": swept_once.save,
        "val_exp": "ft",
    }
    kind = TaskError if "abbr_seq" in changed or "cl_setting" in changed else CloveError
    with pytest.raises(kind) as error:
        eval_os.stage_sweep(**(arguments | changed))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--setting_idx", "7"), "setting_idx 7"),
        (("training.lr_step=3",), "unknown key training.lr_step"),
        (("config=a.yaml",), "config is settled"),
    ],
)
def test_the_command_line_prints_one_line(
    project: Path, world: World, arguments: tuple[str, ...], message: str
) -> None:
    done = swept(project, world, *arguments)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("error: ") and message in last
    assert "Traceback" not in done.stderr and not done.stdout


def test_a_missing_configuration_is_one_line(project: Path, swept_once: World) -> None:
    common = ("--cl_setting", "functional", "--task_order", ORDER, "--exp", "ft", "--save_dir", swept_once.save)
    done = call(project, "sweep", *common, CONFIG="nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: config file nowhere/functional/cl_logical_unicl_standalone.yaml does not")


def test_unknown_flags_are_refused(project: Path, swept_once: World) -> None:
    done = swept(project, swept_once, "--nothing")
    assert done.returncode == 2 and "--nothing" in done.stderr
