"""Settings other than CLOVE's, from the plan of their experiments to the report."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from itertools import product
from pathlib import Path

import pytest
from own_settings import NAMES, rearrange, write_config, write_setting
from script_runs import calls, environment, needs_snakemake, write_stubs

from mmclvqa.clove.experiment_paths import SAVE, replay_file, run_folder, srm_folder, srm_root
from mmclvqa.clove.tasks import order_index, order_text, parse_order
from mmclvqa.evaluation.matrix import sweep_key
from mmclvqa.evaluation.report import main as report
from mmclvqa.evaluation.results import SweepResult, read_sweep
from mmclvqa.experiments import __main__ as command_line
from mmclvqa.experiments.planning import plan, runs_of
from mmclvqa.experiments.scripts import command, main

METHODS = ["ft", "ewc", "gem", "random", "kmeans", "srm", "multitask", "chance"]
TINY_RUN = {
    "MMF_ARGS": "training.max_updates=2 training.evaluation_interval=2 training.num_workers=0 training.batch_size=8",
    "SRM_ARGS": "@SRM/mini.args --n_train_epochs 25 --tokens_weight 2 --min_batch_size 4 --n_prompts 8",
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with the settings."""
    root = tmp_path / "data"
    for name in NAMES:
        write_setting(root, name)
    monkeypatch.setenv("CLOVE_ROOT", str(root))
    return root


def reversed_order(setting: str) -> str:
    return ",".join(reversed(NAMES[setting]))


@pytest.mark.parametrize("setting", NAMES)
def test_a_plan_has_every_step_of_every_method_after_its_inputs(data: Path, setting: str) -> None:
    steps = plan(runs_of([setting], [reversed_order(setting)], METHODS, []))
    count = len(NAMES[setting])
    # The first task is trained once for the methods that start from its single-task model, and by EWC and k-means.
    assert sum(step.kind == "train" for step in steps) == 1 + 4 * (count - 1) + 2 * count
    made: set[str] = set()
    for step in steps:
        assert set(step.inputs) <= made
        made.add(step.output)
    folder = "-".join(reversed(NAMES[setting])) if setting != "odd" else "Ω-grün + b-rot #1"
    index = order_index(setting, reversed_order(setting))
    assert f"$ROOT/{SAVE}/{setting}/setting_{index}_{folder}/val_ft/sweep.json" in made


@pytest.mark.parametrize("setting", NAMES)
def test_scripts_are_valid_bash_and_every_word_reaches_its_program(
    data: Path, project: Path, tmp_path: Path, setting: str
) -> None:
    words = ["--method", *METHODS, "--setting", setting, "--order", reversed_order(setting), "--out", str(tmp_path)]
    assert main(project, words) == 0
    scripts = list(tmp_path.glob(f"{setting}/*.sh"))
    assert len(scripts) == len(METHODS)
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True, timeout=20)
    (srm,) = tmp_path.glob(f"{setting}/{setting}_run_distilgpt2_*_S{order_index(setting, reversed_order(setting))}.sh")
    learned = re.findall(r"cur_task=(.+?)\"? \\\n", srm.read_text())
    assert learned == list(reversed(NAMES[setting]))


def test_scripts_of_settings_with_one_abbreviation_are_different_files(
    data: Path, project: Path, tmp_path: Path
) -> None:
    for setting in ("two", "ten"):
        write_setting(data, setting, abbreviation="F")
        assert main(project, ["--method", "multitask", "chance", "--setting", setting, "--out", str(tmp_path)]) == 0
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.sh")) == [
        "ten/F_chance.sh", "ten/F_multitask.sh", "two/F_chance.sh", "two/F_multitask.sh",
    ]  # fmt: skip


def test_a_setting_outside_of_the_data_root_is_named_by_its_path_in_every_command(data: Path, tmp_path: Path) -> None:
    file = write_setting(tmp_path / "else {where}", "odd").rename(tmp_path / "else {where}" / "colours.yaml")
    for step in plan(runs_of([str(file)], [], METHODS, [])):
        assert str(file) in " ".join(shlex.split(command(step).replace("\\\n", " "))), step.title
        assert str(file) not in step.output


@needs_snakemake
def test_the_workflow_runs_every_step_of_names_with_spaces_and_other_letters(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stubs(tmp_path / "bin", os.sys.executable)
    root = tmp_path / "a root"
    for name, value in environment(ROOT=str(root), LOG=str(tmp_path / "log"), TMPDIR=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLOVE_ROOT", str(data))
    monkeypatch.setattr(command_line, "PROGRAMS", tmp_path / "bin")
    monkeypatch.setattr(command_line, "_report", lambda *arguments: 0)
    order = parse_order("odd", "Ω,rot #1,grün + b")
    replays = root / srm_root("odd") / srm_folder("distilgpt2", "odd", order_text(order))
    for place, current in enumerate(order):
        for past in order[:place]:
            (replays / replay_file(order_text(order), past, current)).parent.mkdir(parents=True, exist_ok=True)
            (replays / replay_file(order_text(order), past, current)).write_text("done")
    words = ["run", "--setting", "odd", "--order", "Ω,rot #1,grün + b", "--method", "ft", "srm", "kmeans"]
    assert command_line.main(words) == 0, capsys.readouterr()
    done = calls(tmp_path / "log")
    assert sum(call.program == "mmf_run" for call in done) == 1 + 2 + 2 + 3
    assert sum("stage_sweep" in call.words for call in done) == 3


@pytest.mark.parametrize("setting", NAMES)
def test_matrix_and_report_show_every_task(data: Path, tmp_path: Path, setting: str) -> None:
    order = parse_order(setting, reversed_order(setting))
    accuracies = {sweep_key(learned, tested): 0.25 for learned, tested in product(order, order)}
    assert len(accuracies) == len(order) ** 2
    sweep = SweepResult(setting, order_text(order), "ft", accuracies, (3.0,) * len(order))
    assert sweep.matrix.shape == (len(order), len(order)) and not sweep.missing
    assert sweep.published_lines()[0].endswith("weight avg acc: 0.25")
    folder = Path(run_folder(setting, sweep.order, "val_ft", str(tmp_path)))
    sweep.write(folder / "sweep.json")
    assert read_sweep(folder).tasks == order
    assert report([str(folder), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/index.html").read_text()
    assert all(f"<th scope=\"row\">{task.name}</th>" in page and f"(about {task.name})" in page for task in order)


def test_a_report_finds_the_setting_of_a_result_by_its_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = SweepResult("two", "shape-colour", "ft", {"shape2shape": 0.5}, (1.0, 1.0))
    sweep.write(data / "sweep.json")
    assert json.loads((data / "sweep.json").read_text())["setting_file"] == str(data / "settings/two.yaml")
    monkeypatch.setenv("CLOVE_ROOT", "/nowhere")
    monkeypatch.setattr("mmclvqa.clove.tasks._files", {})
    assert [task.name for task in read_sweep(data / "sweep.json").tasks] == ["shape", "colour"]


def test_the_commands_of_the_documentation_run(
    project: Path, clove_mini: Path, programs: dict[str, str], tmp_path: Path
) -> None:
    page = (project / "docs/your_own.md").read_text()
    setting, commands = (re.search(rf"```{kind}\n(.+?)```", page, re.DOTALL)[1] for kind in ("yaml", "bash"))
    file = tmp_path / "data/settings/shapes.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(setting)
    rearrange(clove_mini, tmp_path / "data", file, source="drawings")
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=programs, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no problems" in done.stdout and "training.CL.cur_task=colour #1" in done.stdout
    assert "setting_2_col-shape" in done.stdout


@pytest.mark.long
def test_training_replays_and_sweep_of_a_setting_with_odd_names(
    project: Path, clove_mini: Path, programs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, root = tmp_path / "data", tmp_path / "a root"
    file = write_setting(data, "odd", image_sources={"bilder": {"features": "bilder/x.lmdb"}})
    monkeypatch.setenv("CLOVE_ROOT", str(data))
    rearrange(clove_mini, data, file, source="bilder")
    from sg_generation.__main__ import main as sample_prompts

    assert sample_prompts(["--setting", "odd", "--per_task", "8"]) == 0
    order = "grün + b,rot #1,Ω"
    assert main(project, ["--method", "srm", "--setting", "odd", "--order", order, "--out", str(tmp_path)]) == 0
    (script,) = tmp_path.glob("odd/*.sh")
    places = {"ROOT": str(root), "CLOVE_ROOT": str(data), "CONFIG": "EXP_CONFIG/mini", "DEVICE": "cpu"}
    # The script puts .venv/bin first in PATH if there is one; its programs are these as well.
    done = subprocess.run(
        ["bash", script], env=programs | places | TINY_RUN, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (sweep,) = root.rglob("sweep.json")
    result = read_sweep(sweep)
    assert not result.missing and [task.name for task in result.tasks] == ["grün + b", "rot #1", "Ω"]
    (statistics,) = root.rglob("*REPLAY?rot #1??AT?Ω?.json")
    assert json.loads(statistics.read_text())["task"] == "rot #1"


@needs_snakemake
@pytest.mark.long
@pytest.mark.parametrize("setting", ["two", "ten"])
def test_the_workflow_trains_and_reports_settings_of_two_and_of_ten_tasks(
    project: Path,
    clove_mini: Path,
    programs: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    data, root = tmp_path / "data", tmp_path / "root"
    monkeypatch.setenv("CLOVE_ROOT", str(data))
    rearrange(clove_mini, data, write_setting(data, setting))
    from sg_generation.__main__ import main as sample_prompts

    assert sample_prompts(["--setting", setting, "--per_task", "8"]) == 0
    words = ["run", "--setting", setting, "--order", reversed_order(setting), "--method", "ft", "srm", "chance"]
    config = write_config(project, tmp_path / "config")
    done = subprocess.run(
        [os.sys.executable, "-m", "mmclvqa.experiments", *words, "--config", str(config), "--cores", "1"],
        env=programs | TINY_RUN | {"ROOT": str(root), "CLOVE_ROOT": str(data), "DEVICE": "cpu"},
        cwd=project, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    learned = list(reversed(NAMES[setting]))
    sweeps = [read_sweep(path) for path in root.rglob("sweep.json")]
    assert len(sweeps) == 2 and not any(sweep.missing for sweep in sweeps)
    assert all([task.name for task in sweep.tasks] == learned for sweep in sweeps)
    assert len(list(root.rglob("*REPLAY[[]*.npy"))) == len(learned) * (len(learned) - 1) // 2
    page = (root / f"report/{setting}_{'-'.join(learned)}/index.html").read_text()
    assert all(f'<th scope="row">{name}</th>' in page for name in learned)
