"""``eval_os.py``: its command line, and its functions called as the published scripts call them."""

from __future__ import annotations

import csv
import inspect
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from worlds import LIMIT, ORDER, SETTING, World

import eval_os  # its functions start with test_, so they are not imported by name
from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.errors import CloveError, DataError, TaskError
from mmclvqa.clove.records import load_records, new_record, save_records
from mmclvqa.clove.tasks import order_index, tasks
from mmclvqa.evaluation.chance import chance_level
from mmclvqa.evaluation.cli import save_folder
from mmclvqa.evaluation.results import read_sweep
from mmclvqa.evaluation.sweep import checkpoints

COMMANDS = json.loads((Path(__file__).parents[1] / "fixtures" / "published_commands.json").read_text())
CALLS = [
    f"stage_sweep({arguments})"
    for methods in COMMANDS.values()
    for parts in methods.values()
    for arguments in parts.get("stage_sweep", [])
]
"""The calls in the published scripts, inside the shell's single quotes, which are interrupted for variables."""
MULTITASK = (
    'test_multi_task(device=\'${DEVICE}\', cl_setting="functional", model_name="unicl", '
    "save_dir=\"'${ROOT}'/exp/clvqa\")"
)
BASE_ORDER = ["object", "attribute", "relation", "logical", "knowledge", "scenetext"]


@pytest.fixture
def environment(tiny_config: Path, clove_mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that name configuration and data."""
    monkeypatch.setenv("CONFIG", str(tiny_config))
    monkeypatch.setenv("CLOVE_ROOT", str(clove_mini))


def sweep_command(world: World, *arguments: str) -> int:
    common = ("--cl_setting", SETTING, "--task_order", ORDER, "--exp", "ft", "--save_dir", world.save)
    return eval_os.main(["sweep", *common, "--model_name", "unicl", "--device", "cpu", *arguments])


def expanded(calls: list[str], root: Path | str) -> list[str]:
    """What ``python -c`` receives when bash runs these calls of the published scripts."""
    lines = [f"ROOT={root}", "DEVICE=0", *(f"printf '%s\\n' '{call}'" for call in calls)]
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=LIMIT, check=True)
    return done.stdout.splitlines()


def test_a_device_for_the_trainings_of_a_script_is_not_an_error_of_its_evaluation(
    world: World, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMF_ARGS", "training.device=cpu " + " ".join(world.config.overrides))
    accuracies = eval_os.stage_sweep(
        cl_setting=SETTING, setting_idx=order_index(SETTING, ORDER), abbr_seq=ORDER, device="cpu", model_name="unicl",
        save_dir=world.save, val_exp="ft", report_metric=False,
    )  # fmt: skip
    assert len(accuracies) == 36


def test_the_functions_have_the_published_signatures() -> None:
    expected = (
        "cl_setting, setting_idx, abbr_seq, device, model_name, save_dir, val_exp, test_stand_alone=False, "
        "test_reg=False, report_metric=True, print_acc=False"
    )
    parameters = [
        name if p.default is p.empty else f"{name}={p.default}"
        for name, p in inspect.signature(eval_os.stage_sweep).parameters.items()
    ]
    assert ", ".join(parameters) == expected
    assert list(inspect.signature(eval_os.test_multi_task).parameters) == [
        "device", "cl_setting", "model_name", "save_dir"
    ]  # fmt: skip
    assert list(inspect.signature(eval_os.test_chance).parameters) == ["cl_setting"]


def test_help_needs_neither_torch_nor_mmf(project: Path) -> None:
    code = "import sys, eval_os\ntry: eval_os.main(['--help'])\nfinally: print({'torch', 'mmf'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "set()"


def test_a_sweep_prints_table_and_metrics_and_writes_json_and_csv(
    swept_once: World, environment: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--json", str(tmp_path / "sweep.json"), "--csv", str(tmp_path / "sweep.csv"))
    assert sweep_command(swept_once, "--setting_idx", "1", *files) == 0
    out, err = capsys.readouterr()
    assert err == "0 pairs to evaluate, 36 reused from an earlier run\n"
    content = json.loads((tmp_path / "sweep.json").read_text())
    lines = out.splitlines()
    assert lines[0].split() == ["learned", "\\", "tested", *BASE_ORDER]
    assert len(lines[2:8]) == 6 and lines[2].split()[1] == f"{content['matrix']['o2o']:.4f}"
    for name in ("accuracy", "backward_transfer", "forgetting", "legacy_forgetting"):
        average = content["summary"][f"weighted_average_{name}"]
        assert f"weighted average {name.replace('_', ' ')}: {average:.4f}" in lines
    rows = list(csv.reader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert len(rows) == 7 and {len(row) for row in rows} == {7} and rows[1][0] == "object"


def test_json_on_standard_output_stands_alone(
    swept_once: World, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep_command(swept_once, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["task_order"] == ORDER


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--setting_idx", "7"), "setting_idx 7"),
        (("training.lr_step=3",), "unknown key training.lr_step"),
        (("config=a.yaml",), "config"),
        (("--csv", "/dev/null/sweep.csv"), "--csv /dev/null/sweep.csv: there is no folder /dev/null; create it"),
        (("--json", "/dev"), "--json /dev: is a folder; name a file in it"),
        (("--exp", "fft"), "setting_1_oarlks/fft; did you mean ft?"),
        (("--exp", "ewc_1e5"), "setting_1_oarlks has ft"),
        (("--save_dir", "/tmpp/clvqa"), "; there is no folder /tmpp; did you mean tmp?"),
    ],
)
def test_the_command_line_prints_one_line(
    world: World, environment: None, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert sweep_command(world, *arguments) == 1
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in err and not out


def test_a_missing_configuration_is_one_line(
    swept_once: World, environment: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONFIG", "nowhere")
    assert sweep_command(swept_once) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: config file nowhere/functional/cl_object_unicl_standalone.yaml does not")


@pytest.mark.parametrize(("json_file", "csv_file"), [("x", "./x"), ("-", "-")])
def test_one_file_for_two_formats_is_refused(
    world: World, capsys: pytest.CaptureFixture[str], json_file: str, csv_file: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        sweep_command(world, "--json", json_file, "--csv", csv_file)
    assert stopped.value.code == 2 and f"--json and --csv both name {csv_file}" in capsys.readouterr().err


def test_unknown_flags_are_refused(swept_once: World, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        sweep_command(swept_once, "--nothing")
    assert stopped.value.code == 2 and "--nothing" in capsys.readouterr().err


def test_stage_sweep_returns_and_prints_the_accuracies(
    swept_once: World, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("functional", 1, ORDER, "cpu", "unicl", swept_once.save, "ft")
    accuracies = eval_os.stage_sweep(*arguments, report_metric=False, print_acc=True)
    assert len(accuracies) == 36
    assert capsys.readouterr().out.splitlines() == [f"{key}: {value:.4f}" for key, value in accuracies.items()]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"setting_idx": 2}, "setting_idx 2: the index of task order oarlks in the functional setting is 1; correct"),
        ({"abbr_seq": "lkosrz"}, "z is not a task of the functional setting"),
        ({"cl_setting": "other"}, "unknown setting 'other'"),
        ({"model_name": "unicle"}, "no model named 'unicle' is registered; did you mean unicl"),
        ({"val_exp": "nothing"}, "missing steps 2 attribute"),
        ({"device": "tpu"}, "device tpu"),
    ],
)
def test_wrong_arguments_are_one_clear_error(swept_once: World, changed: dict[str, Any], message: str) -> None:
    arguments = {
        "cl_setting": SETTING,
        "setting_idx": 1,
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


def test_a_published_script_ends_with_the_closing_lines(project: Path, swept_once: World, environment: None) -> None:
    """The one test in which a shell and a process of their own run a published call."""
    call = f"stage_sweep({COMMANDS[f'{SETTING} {ORDER} 1']['ft']['stage_sweep'][0]})"
    script = f"ROOT={swept_once.root}\nDEVICE=0\npython -c 'from eval_os import *; {call}'\n"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=project,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines, kept = done.stdout.splitlines(), read_sweep(swept_once.results)
    assert lines[0].split() == ["learned", "\\", "tested", *(task.name for task in kept.tasks)]
    assert lines[-3:] == kept.published_lines()
    assert [line.split(":")[0] for line in lines[-3:]] == [
        f"==> textvqa_accuracy | {what}" for what in ("Final acc", "Backward transfer", "Forgetting")
    ]


def test_an_error_of_a_published_call_is_one_line(project: Path) -> None:
    call = f"stage_sweep({COMMANDS[f'{SETTING} {ORDER} 1']['ft']['stage_sweep'][0]})".replace("=1,", "=2,", 1)
    code = f"from eval_os import *; {expanded([call], '/root')[0]}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: setting_idx 2: the index of task order oarlks")
    assert done.stderr.count("\n") == 1


def test_published_calls_evaluate_the_checkpoints_of_the_published_places() -> None:
    for call, text in zip(expanded(CALLS, "/root"), CALLS, strict=True):
        given = eval(call, {"stage_sweep": lambda **arguments: arguments})
        arguments = inspect.signature(eval_os.stage_sweep).bind(**given).arguments
        setting, order = arguments["cl_setting"], arguments["abbr_seq"]
        assert arguments["setting_idx"] == order_index(setting, order) and arguments["model_name"] == "unicl", text
        assert arguments["device"] in (0, "0") and not arguments["test_stand_alone"], text
        save, own_first = save_folder(arguments["save_dir"]), arguments["test_reg"]
        first, *others = checkpoints(setting, order, arguments["val_exp"], save, regularised=own_first).values()
        run = Path(f"/root/exp/clvqa/save/{setting}/setting_{arguments['setting_idx']}_{order}/{arguments['val_exp']}")
        single_task = Path(f"/root/exp/clvqa/save/stand_alone/{setting}")
        assert {path.parents[1] for path in others} == {run}, text
        assert first.parents[1] == (run if own_first else single_task), text


def test_the_published_call_evaluates_the_multitask_model_on_each_task(
    world: World, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (call,) = expanded([MULTITASK], world.root)
    accuracies = eval(call, {"test_multi_task": eval_os.test_multi_task})
    assert list(accuracies) == BASE_ORDER
    lines = capsys.readouterr().out.splitlines()
    table = next(position for position, line in enumerate(lines) if line.split() == ["task", "accuracy"])
    assert [line.split()[0] for line in lines[table + 2 : table + 8]] == BASE_ORDER
    assert lines[-1].startswith("weighted average accuracy: ")
    folder = Path(experiments.multitask_folder(SETTING, world.save)).with_name("val_unicl_functional_incremental")
    assert len(list(folder.glob("multitask2*/results.json"))) == 6


@pytest.mark.parametrize("save_dir", ["/exp/clvqa", "/exp/clvqa/", "/exp/clvqa/save", "/exp/clvqa/save/"])
def test_save_dir_is_the_folder_of_experiments_or_its_save(save_dir: str) -> None:
    assert save_folder(save_dir) == "/exp/clvqa/save"


def test_a_save_dir_that_is_root_gets_a_hint(swept_once: World) -> None:
    with pytest.raises(DataError, match=f"^save_dir={swept_once.root}: .* did you mean {swept_once.root}/exp/clvqa\\?"):
        save_folder(str(swept_once.root))


def test_chance_is_the_accuracy_of_the_most_frequent_train_answer(
    clove_mini: Path, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracies = eval_os.test_chance("functional")
    train, val = (
        load_records(clove_mini / "functional" / f"fcl_mmf_logical_{split}.npy") for split in ("train", "val")
    )
    (answer, _), *_ = Counter(answer for record in train for answer in record["answers"]).most_common(1)
    # All ten answers of a clove-mini val record are equal, so that its VQA accuracy is 0 or 1.
    assert accuracies["logical"] == pytest.approx(sum(record["answer"] == answer for record in val) / len(val))
    assert answer in capsys.readouterr().out


def test_chance_counts_all_ten_answers_of_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [new_record(answer="cup", answers=["cup"] * 4 + ["mug"] * 6) for _ in range(3)]
    for task in tasks("scene").values():
        save_records(tmp_path / task.annotation_path("train"), train)
        save_records(tmp_path / task.annotation_path("val"), [new_record(answer="mug", answers=["mug"] * 10)])
    monkeypatch.setenv("CLOVE_ROOT", str(tmp_path))
    assert eval_os.test_chance(cl_setting="scene") == {task.name: 1 for task in tasks("scene").values()}
    assert chance_level(tmp_path, "scene").by_task[0].train_share == pytest.approx(0.6)
