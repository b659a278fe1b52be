"""Experiments as a workflow: plans, and Snakemake with stand-ins for the programs."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from script_runs import Call, calls, environment, write_stubs

from mmclvqa.clove.errors import CloveError
from mmclvqa.experiments import __main__ as command_line
from mmclvqa.experiments.planning import as_json, grid_runs, paper_runs, plan, runs_of
from mmclvqa.experiments.progress import Journal

pytest_snakemake = pytest.mark.skipif(
    not command_line.importlib.util.find_spec("snakemake"), reason="Snakemake is not installed"
)


# ------------------------------------------------------------------------------ plans


def test_shared_steps_are_planned_once() -> None:
    steps = plan(runs_of(["functional"], ["oarlks"], ["ft", "srm:restore_rate=0.1", "srm:restore_rate=1.5"], []))
    outputs = [step.output for step in steps]
    assert len(outputs) == len(set(outputs)) == 1 + 3 * 5 + 1 + 3
    made: set[str] = set()
    for step in steps:
        assert set(step.inputs) <= made
        made.add(step.output)


def test_seeds_live_side_by_side_and_reach_every_training() -> None:
    steps = plan(runs_of(["functional"], ["oarlks"], ["ft", "srm"], [0, 1]))
    for seed in (0, 1):
        own = [step for step in steps if f"$ROOT/seed_{seed}/" in step.output]
        assert len(own) * 2 == len(steps)
        trainings = [step for step in own if step.kind == "train"]
        assert all(f"training.seed={seed}" in step.arguments for step in trainings)
        assert any(f"--seed {seed}" in step.arguments for step in own if step.kind == "srm")


def test_the_paper_is_planned_quickly_and_in_linear_time() -> None:
    began = time.process_time()
    steps = plan(paper_runs([0, 1, 2]))
    seconds = time.process_time() - began
    assert len(steps) > 3000 and len(as_json(steps)) == len(steps) and seconds < 20


def test_a_grid_file_names_what_it_cannot_use(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("- {method: [ft, ewc], order: oarlks, seed: [0, 1]}\n- {setting: scene, method: mas}\n")
    assert len(grid_runs(str(grid))) == 5
    for text, message in (
        ("- {methods: ft}", "block 1 is not a mapping with the keys"),
        ("- {method: fft}", "did you mean ft"),
        ("- {method: ft, order: oarlkk}", "occurs more than once"),
        ("[", "cannot be read as a grid"),
    ):
        grid.write_text(text)
        with pytest.raises(CloveError, match=message):
            grid_runs(str(grid))


def test_an_unknown_method_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["run", "--method", "ewc:reg_lambd=1", "--dry-run"]) == 1
    assert "did you mean reg_lambda?" in capsys.readouterr().err


def test_a_dry_run_prints_the_commands_in_the_form_of_the_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    assert command_line.main(["run", "--method", "ft", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("CUDA_VISIBLE_DEVICES=$DEVICE mmf_run") == 6 and "7 steps: 6 train, 1 evaluate" in printed
    assert not (tmp_path / "root").exists()


# ------------------------------------------------------------------------------ Snakemake


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins, in which ``ROOT`` is ``a root``; the report is left out."""
    write_stubs(tmp_path / "bin", sys.executable)
    for name, value in {"ROOT": tmp_path / "a root", "CLOVE_ROOT": tmp_path / "data", "LOG": tmp_path / "log"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(command_line, "PROGRAMS", tmp_path / "bin")
    monkeypatch.setattr(command_line, "_report", lambda runs, root: 0)
    return tmp_path


def overlapping(first: Call, second: Call) -> bool:
    return first.began < second.ended and second.began < first.ended


@pytest_snakemake
def test_steps_run_once_share_no_gpu_and_a_failure_is_named_while_the_rest_goes_on(
    stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--method", "ft", "random:replay_rate=0.1", "--order", "oarlks", "--gpus", "0,1"]
    monkeypatch.setenv("SLEEP", "0.3")
    monkeypatch.setenv("FAIL", "ft/unicl_relation")
    assert command_line.main(words) == 1
    said = capsys.readouterr()
    assert "failed: train relation" in said.out and "error: ft/unicl_relation" in said.out + said.err
    assert "ft/unicl_relation/unicl_final.pth.log" in said.out
    ended = [call for call in calls(stage / "log") if "val_exp='rnd_replay_0.1'" in call.words]
    assert len(ended) == 1, "the other method goes on"

    monkeypatch.delenv("FAIL")
    assert command_line.main(words) == 0
    assert "[13/13]" in capsys.readouterr().out
    assert all(Journal(stage / "a root").mean_seconds(kind) is not None for kind in ("train", "evaluate"))
    done = calls(stage / "log")
    trained = [call.words for call in done if call.program == "mmf_run"]
    assert len(trained) == 1 + 5 + 5 + 1 and len(set(trained)) == 11, "only the failed step ran twice"
    for device in ("0", "1"):
        on_device = [call for call in done if call.device == device]
        assert on_device and not any(itertools.starmap(overlapping, itertools.combinations(on_device, 2)))
    assert command_line.main(words) == 0
    assert len(calls(stage / "log")) == len(done)


@pytest_snakemake
def test_a_killed_workflow_resumes_with_the_same_command(stage: Path, project: Path) -> None:
    words = [sys.executable, "-m", "mmclvqa.experiments", "run", "--method", "ft", "--order", "oarlks", "--cores", "1"]
    code = (
        "import sys; from pathlib import Path; from mmclvqa.experiments import __main__ as line; "
        f"line.PROGRAMS = Path({str(stage / 'bin')!r}); line._report = lambda runs, root: 0; "
        "sys.exit(line.main(sys.argv[1:]))"
    )
    words[1:3] = ["-c", code]
    places = {name: os.environ[name] for name in ("ROOT", "CLOVE_ROOT", "LOG")}
    env = environment(**places, PYTHONPATH=str(project), SLEEP="1")
    process = subprocess.Popen(words, env=env, cwd=project, start_new_session=True, stdout=subprocess.DEVNULL)
    while len(calls(stage / "log")) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(words, env=env | {"SLEEP": "0"}, cwd=project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = [call.words for call in calls(stage / "log") if call.program == "mmf_run"]
    assert len(set(trained)) == 6 and len(trained) <= 7


def test_without_snakemake_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOT", str(tmp_path))
    monkeypatch.setattr(command_line.importlib.util, "find_spec", lambda name: None)
    assert command_line.main(["run", "--method", "ft"]) == 1
    assert "pip install -r workflow_requirements.txt" in capsys.readouterr().err
