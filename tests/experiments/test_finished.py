"""What a workflow and the scripts make of steps that are finished: changed models, empty files, other settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from own_settings import rearrange, write_config, write_setting
from script_runs import needs_snakemake

from mmclvqa.clove.errors import ConfigError
from mmclvqa.evaluation.report import main as report
from mmclvqa.evaluation.results import read_sweep
from mmclvqa.evaluation.runs import read_run
from mmclvqa.experiments import __main__ as command_line
from mmclvqa.experiments.finished import unfinished, warnings_of
from mmclvqa.experiments.planning import below_root, plan, runs_of
from mmclvqa.experiments.root import check_outputs
from SRM.settings import parse

pytestmark = [needs_snakemake, pytest.mark.xdist_group("two tasks")]
TINY_RUN = "training.max_updates=2 training.evaluation_interval=2 training.num_workers=0 training.batch_size=8"
RUN, FIRST = "exp/clvqa/save/two/setting_2_colour-shape", "exp/clvqa/save/stand_alone/two/unicl_colour"
CHANGING_METHOD = """from mmclvqa.methods.base import Method, register_method


@register_method
class Changing(Method):
    name, label = "changing", "Changing"
"""
Workflow = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two tasks")


@pytest.fixture
def workflow(
    project: Path, clove_mini: Path, folder: Path, workflow_in_process: Workflow, monkeypatch: pytest.MonkeyPatch
) -> Workflow:
    """Return a function that runs fine-tuning on two tasks in a folder, with further arguments and variables."""
    if not (folder / "data").exists():
        rearrange(clove_mini, folder / "data", write_setting(folder / "data", "two"))
        write_config(project, folder / "config")
    monkeypatch.setattr(command_line, "_report", lambda *arguments: 0)
    words = ["--setting", "two", "--order", "colour,shape", "--config", str(folder / "config")]
    places = {"CLOVE_ROOT": str(folder / "data"), "DEVICE": "cpu"}

    def start(root: Path, *more: str, method: str = "ft", **variables: str) -> tuple[int, str, str]:
        variables = {"ROOT": str(root), "MMF_ARGS": TINY_RUN} | places | variables
        return workflow_in_process(*words, "--method", method, *more, **variables)

    return start


@pytest.fixture
def root(workflow: Workflow, folder: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, with the same times."""
    if not (folder / "trained").exists():
        code, _, stderr = workflow(folder / "trained")
        assert code == 0 and "warning: " not in stderr, stderr
    shutil.copytree(folder / "trained", tmp_path / "root")
    return tmp_path / "root"


def test_a_changed_model_is_evaluated_again_and_later_tasks_are_named(
    workflow: Workflow, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in root.rglob("results.json")}
    weights = root / FIRST / "unicl_final.pth"
    torch.save({key: value + 0.1 for key, value in torch.load(weights, weights_only=True).items()}, weights)
    assert report([str(root / RUN / "val_ft"), "--out", str(root / "page")]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and f"changed since their evaluation: {root / FIRST}; run" in line
    assert "have changed since their evaluation" in (root / "page/index.html").read_text()
    _, out, _ = workflow(root, "--dry-run")
    assert "stage_sweep" in out and "mmf_run" not in out
    code, out, err = workflow(root)
    assert code == 0 and out.startswith("evaluate every model on every task\n") and "train " not in out
    assert err.startswith(f"warning: older than what they start from: {RUN}/ft/unicl_shape; delete")
    changed = {path.parent.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"colour2colour", "colour2shape"} and not read_sweep(root / RUN / "val_ft").missing
    assert workflow(root)[1] == "", "nothing runs a third time"


def test_an_empty_output_is_written_again(workflow: Workflow, root: Path) -> None:
    weights = root / RUN / "ft/unicl_shape/unicl_final.pth"
    content = weights.read_bytes()
    weights.write_bytes(b"")
    assert workflow(root, "--dry-run")[1].count("mmf_run") == 1 and not weights.stat().st_size
    code, out, _ = workflow(root)
    assert code == 0 and out.startswith("train shape\n") and weights.read_bytes() == content


def test_a_deleted_model_is_trained_and_evaluated_again(workflow: Workflow, root: Path) -> None:
    shutil.rmtree(root / RUN / "ft/unicl_shape")
    _, out, err = workflow(root, "--dry-run")
    assert out.count("mmf_run") == 1 and "stage_sweep" in out and not err


def test_other_settings_of_finished_steps_are_named(workflow: Workflow, root: Path) -> None:
    """All of them, also those that no step starts from any more."""
    for arguments, change in (
        (TINY_RUN.replace("max_updates=2", "max_updates=3"), "training.max_updates=3 (was 2)"),
        (TINY_RUN.replace("training.batch_size=8", ""), "training.batch_size=32 (was 8)"),
    ):
        [line] = workflow(root, "--dry-run", MMF_ARGS=arguments)[2].splitlines()
        start = f"warning: finished with other settings, which stay: {FIRST}, {RUN}/ft/unicl_shape: {change}"
        assert line.startswith(start) and line.endswith("delete these folders to run their steps again")
    assert not workflow(root, "--dry-run", MMF_ARGS=f"{TINY_RUN} training.num_workers=1")[2]
    shutil.rmtree(root / RUN / "ft/unicl_shape")
    assert workflow(root, MMF_ARGS=arguments)[0] == 0
    [line] = workflow(root, MMF_ARGS=arguments)[2].splitlines()
    assert f"which stay: {FIRST}: {change}" in line


def test_changed_code_of_a_method_of_ones_own_is_named(workflow: Workflow, tmp_path: Path) -> None:
    """Of its trainings only: the first task is trained by fine-tuning."""
    code = tmp_path / "changing_method.py"
    code.write_text(CHANGING_METHOD)
    own = {"method": "changing", "MMF_USER_DIR": str(code)}
    assert workflow(tmp_path / "root", **own)[0] == 0
    assert not workflow(tmp_path / "root", "--dry-run", **own)[2]
    code.write_text(f"{CHANGING_METHOD}\n# changed\n")
    [line] = workflow(tmp_path / "root", "--dry-run", **own)[2].splitlines()
    assert f"which stay: {RUN}/changing/unicl_shape: the code of {code} has changed; choose" in line


def test_a_combination_is_trained_and_has_its_storage_in_the_report(workflow: Workflow, tmp_path: Path) -> None:
    code, _, err = workflow(tmp_path / "root", method="mas+random:replay_rate=0.1")
    assert code == 0 and "warning" not in err
    folder = tmp_path / "root" / RUN / "val_mas+rnd_replay_0.1"
    run = read_run(folder)
    assert run.label == "MAS + random replay (0.1), colour-shape" and not run.sweep.missing
    stored = json.loads((folder.with_name("mas+rnd_replay_0.1") / "unicl_shape/stored.json").read_text())
    assert (run.cost.records, run.cost.bytes) == (stored["records"], stored["bytes"]) and stored["records"] > 0
    assert "importances" in stored["what"] and "random records" in stored["what"]


def test_other_settings_of_a_finished_srm_are_named(clove_mini: Path, tmp_path: Path) -> None:
    variables = {"CLOVE_ROOT": str(clove_mini), "ROOT": str(tmp_path), "CONFIG": "EXP_CONFIG/mini", "MMF_ARGS": ""}
    variables |= {"SRM_ARGS": "@SRM/mini.args --n_prompts 4 --n_threads 2"}
    steps = plan(runs_of(["functional"], ["oarlks"], ["srm"], []))
    [srm] = [step for step in steps if step.kind == "srm"]
    output = tmp_path / below_root(srm.output)
    output.parent.mkdir(parents=True)
    output.write_text("replays")
    words = ["--cl_setting", "functional", "--task_seq", "oarlks", "--model_dir_root", str(tmp_path)]
    words += ["--add_task_tokens", *variables["SRM_ARGS"].split(), "--data_dir", str(clove_mini)]
    (output.parent / "settings.json").write_text(json.dumps(parse(words).result_settings()))
    pending, older = unfinished(steps, tmp_path)
    assert srm not in pending and not older
    assert warnings_of(steps, pending, older, tmp_path, variables | {"SRM_ARGS": "@SRM/mini.args --n_prompts 4"}) == []
    [line] = warnings_of(steps, pending, older, tmp_path, variables | {"SRM_ARGS": "@SRM/mini.args --n_prompts 5"})
    assert "distilgpt2_functional_oarlks: n_prompts=5 (was 4); choose another ROOT" in line


@pytest.mark.parametrize("words", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("more", "method", "variables", "message"),
    [
        (["--", "--no-such"], "ft", {}, "Snakemake refuses its arguments or the profile: unrecognized arguments: --no"),
        ([], "ft", {"DEVICE": "banana"}, "DEVICE=banana: give cpu, or GPUs by number, such as 0, or by name"),
        ([], "srm", {}, "data/scene_graph_prompts/two.json: there is no such file; SRM needs the scene-graph prompts"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(
    workflow: Workflow, tmp_path: Path, words: list[str], more: list[str], method: str, variables: dict[str, str],
    message: str,
) -> None:  # fmt: skip
    code, _, err = workflow(tmp_path / "root", *words, *more, method=method, **variables)
    [line] = err.splitlines()
    assert code == 1 and line.startswith("error: ") and message in line
    assert not list(tmp_path.rglob("unicl*"))


def test_a_dry_run_refuses_a_root_of_other_data(
    clove_mini: Path, tmp_path: Path, workflow_in_process: Workflow
) -> None:
    (tmp_path / "exp/clvqa/save").mkdir(parents=True)
    (tmp_path / "exp/clvqa/data_manifest.json").write_text("{}")
    code, _, err = workflow_in_process("--method", "ft", "--dry-run", ROOT=str(tmp_path), CLOVE_ROOT=str(clove_mini))
    assert code == 1 and "its experiments used different data" in err


def test_a_script_refuses_an_empty_output_and_an_unknown_device(
    project: Path, programs: dict[str, str], tmp_path: Path
) -> None:
    weights = tmp_path / "exp/clvqa/save/multitask/unicl_functional_incremental/unicl_final.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    with pytest.raises(ConfigError, match="unicl_final.pth: is empty; delete it"):
        check_outputs(tmp_path)
    script = project / "run_scripts/mmclvqa/multitask/F_multitask.sh"
    places = {"ROOT": str(tmp_path), "CLOVE_ROOT": str(tmp_path / "data")}
    for device, message in (("cpu", f"{weights}: is empty"), ("cuda:0", "DEVICE=cuda:0: give cpu, or GPUs by number")):
        done = subprocess.run(
            ["bash", script], env=programs | places | {"DEVICE": device}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and done.stderr.startswith(f"error: {message}")
    assert os.listdir(weights.parent) == ["unicl_final.pth"]
