"""Experiments as a workflow: Snakemake with stand-ins for the programs, and what is checked before it starts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from script_runs import Call, calls, environment, needs_snakemake, stubbed_workflow

from mmclvqa.experiments import __main__ as command_line
from mmclvqa.experiments.planning import as_json, below_root, job_groups, plan, runs_of
from mmclvqa.experiments.profiles import JobSharing
from mmclvqa.experiments.progress import Journal
from mmclvqa.experiments.root import main as root_check
from mmclvqa.methods.base import Step


def overlapping(first: Call, second: Call) -> bool:
    return first.began < second.ended and second.began < first.ended


@needs_snakemake
def test_steps_run_once_share_no_gpu_and_a_failure_is_named_while_the_rest_goes_on(
    stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--method", "ft", "random:replay_rate=0.1", "--order", "oarlks", "--gpus", "0,1"]
    monkeypatch.setenv("SLEEP", "0.3")
    monkeypatch.setenv("FAIL", "ft/unicl_relation")
    assert command_line.main(words) == 1
    said = capsys.readouterr()
    assert "failed: train relation" in said.out and "error: ft/unicl_relation" in said.err
    assert "ft/unicl_relation/unicl_final.pth.log" in said.err
    assert (said.out + said.err).count("error: ft/unicl_relation") == 1, "the reason is printed once"
    ended = [call for call in calls(stage / "log") if "val_exp='rnd_replay_0.1'" in call.words]
    assert len(ended) == 1, "the other method goes on"

    monkeypatch.delenv("FAIL")
    assert command_line.main(words) == 0
    assert "[13/13]" in capsys.readouterr().out
    assert all(Journal(stage / "a #root: x").mean_seconds(kind) is not None for kind in ("train", "evaluate"))
    done = calls(stage / "log")
    trained = [call.words for call in done if call.program == "mmf_run"]
    assert len(trained) == 1 + 5 + 5 + 1 and len(set(trained)) == 11, "only the failed step ran twice"
    for device in ("0", "1"):
        on_device = [call for call in done if call.device == device]
        assert on_device and not any(itertools.starmap(overlapping, itertools.combinations(on_device, 2)))
    assert command_line.main(words) == 0
    assert len(calls(stage / "log")) == len(done)


def test_the_report_reads_the_data_of_the_experiments(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOT", str(tmp_path))
    monkeypatch.delenv("CLOVE_ROOT", raising=False)
    result = tmp_path / "exp/clvqa/save/chance/functional.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    commands = []

    def start(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append((command, options["env"]["CLOVE_ROOT"]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", start)
    assert command_line.main(["run", "--method", "chance"]) == 0
    [(command, data)] = commands
    assert str(result) in command and data == str(project / "data/clove")


def test_a_machine_without_slurm_is_named_before_anything_runs(
    stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(stage / "bin"))
    assert command_line.main(["run", "--method", "ft", "--profile", "slurm"]) == 1
    assert "this machine has no program sbatch" in capsys.readouterr().err and not list(stage.rglob("journal.tsv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MMF_ARGS: training.batch_size=16", "MMF_ARGS=training.batch_size=16: must be a list"),
        ("more_method: [ft]", "more_method: there is no such key; did you mean more_methods?"),
        ("- training.batch_size=16", "must be a mapping with the keys MMF_ARGS, SRM_ARGS"),
    ],
)
def test_a_preset_names_what_it_cannot_use(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "workflow.yaml").write_text(f"{text}\n")
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    assert command_line.main(["run", "--config", str(tmp_path), "--dry-run"]) == 1
    assert f"error: {tmp_path}/workflow.yaml: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "EXP_CONFG"], "there is no folder {project}/EXP_CONFG; did you mean EXP_CONFIG?"),
        (["--config", "tests"], "there is no file {project}/tests/functional/cl_object_unicl_standalone.yaml; choose"),
        (["--profile", "slurmm"], "is neither a folder with a config.yaml nor one of local, slurm; did you"),
        (["--gpus", "0,a"], "a is not a GPU; give numbers, such as 0,1, or names"),
        (["--cores", "0"], "must be a whole number above 0"),
        (["--seed", "-1"], "must be a whole number from 0 to 4294967295"),
        (["--seed", "4294967296"], "must be a whole number from 0 to 4294967295"),
    ],
)
def test_a_mistyped_argument_is_named_in_one_line(
    words: list[str], message: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    assert command_line.main(["run", "--dry-run", *words]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {' '.join(words)}: {message.format(project=project)}")
    assert said.err.count("\n") == 1 and not said.out


def test_gpus_may_be_named_as_nvidia_smi_does(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["run", "--method", "ft", "--gpus", "GPU-8932f937-d72c,MIG-1/2/0", "--dry-run"]) == 0
    assert "export DEVICE=GPU-8932f937-d72c\n" in capsys.readouterr().out


def test_a_configuration_folder_is_relative_to_the_current_folder(
    project: Path, stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (stage / "mine/functional").mkdir(parents=True)
    (stage / "mine/workflow.yaml").write_text("MMF_ARGS: [training.batch_size=16]\n")
    for file in (project / "EXP_CONFIG/functional").iterdir():
        (stage / "mine/functional" / file.name).touch()
    monkeypatch.chdir(stage)
    assert command_line.main(["run", "--method", "ft", "--config", "mine", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"export CONFIG={stage}/mine\n" in printed and "export MMF_ARGS=training.batch_size=16\n" in printed


def test_the_commands_of_a_dry_run_can_be_run_as_they_are_printed(
    stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMF_ARGS", "training.seed=3")
    words = ["run", "--method", "ft", "--order", "oarlks", "--config", "EXP_CONFIG/mini", "--gpus", "3", "--dry-run"]
    assert command_line.main(words) == 0
    named = {"LOG": os.environ["LOG"], "TMPDIR": os.environ["TMPDIR"]}
    script = capsys.readouterr().out + 'echo "$MMF_ARGS"'
    done = subprocess.run(["bash", "-euc", script], env=environment(**named), capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    run = calls(stage / "log")
    root = stage / "a #root: x/exp/clvqa/save"
    assert [call.program for call in run] == ["mmf_run"] * 6 + ["python"] and {call.device for call in run} == {"3"}
    assert run[0].words == f"{root}/stand_alone/functional/unicl_object"
    assert done.stdout.endswith("training.checkpoint_interval=150 training.seed=3\n")


def test_a_script_has_the_variables_of_the_workflow(
    project: Path, stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SRM_ARGS", "--seed 3")
    assert command_line.main(["run", "--method", "ft", "--config", "EXP_CONFIG/mini", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert root_check([os.environ["ROOT"], os.environ["CLOVE_ROOT"], "EXP_CONFIG/mini"]) == 0
    exports = capsys.readouterr().out
    assert exports in printed and "training.batch_size=32" in exports
    assert "export OMP_NUM_THREADS=1\n" in exports and "export SRM_ARGS='@SRM/mini.args --seed 3'\n" in exports
    script = (project / "run_scripts/mmclvqa/multitask/F_multitask.sh").read_text()
    assert '$(python -m mmclvqa.experiments.root "$ROOT" "$CLOVE_ROOT" "$CONFIG")\neval "$VARIABLES"' in script


def start(stage: Path, project: Path, seconds: str) -> subprocess.Popen[str]:
    """Start fine-tuning, one step of that many seconds after another, in a process group of its own."""
    words = [*stubbed_workflow(stage / "bin"), "run", "--method", "ft", "--order", "oarlks", "--cores", "1"]
    places = {name: os.environ[name] for name in ("ROOT", "CLOVE_ROOT", "LOG", "TMPDIR")}
    env = environment(**places, PYTHONPATH=str(project), SLEEP=seconds)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # Processes ignore Ctrl-C if the tests were started in the background of a shell, which starts them so.
    return subprocess.Popen(
        words, env=env, cwd=project, start_new_session=True, preexec_fn=_heed_ctrl_c, **pipes
    )


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def child(process: psutil.Process, part: str) -> psutil.Process | None:
    """Return the youngest descendant whose command line contains a text."""
    named = []
    for one in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # also of a process that has just ended
            named += [one] if any(part in word for word in one.cmdline()) else []
    return max(named, key=lambda one: one.create_time(), default=None)


@needs_snakemake
@pytest.mark.parametrize(
    "victim", ["everything", "a step", "Ctrl-C", pytest.param("Snakemake", marks=pytest.mark.long)]
)
def test_an_interrupted_workflow_resumes_with_the_same_command(stage: Path, project: Path, victim: str) -> None:
    process = start(stage, project, "2")
    step = None
    # A step that has just started, so that it does not end before it is killed.
    while len(calls(stage / "log")) < 1 or step is None or time.time() - step.create_time() > 1:
        assert process.poll() is None
        time.sleep(0.1)
        step = child(psutil.Process(process.pid), "bin/mmf_run")
    if victim == "everything":
        os.killpg(process.pid, signal.SIGKILL)
    elif victim == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    elif victim == "a step":
        step.kill()
    else:
        child(psutil.Process(process.pid), "snakemake").kill()
    said, _ = process.communicate(timeout=120)
    expected = {
        "everything": (-signal.SIGKILL, ""),
        "Snakemake": (1, "error: Snakemake ended with exit code -9"),
        "a step": (1, "Killed"),
        "Ctrl-C": (130, "interrupted; run the same command to resume"),
    }
    assert process.returncode == expected[victim][0] and expected[victim][1] in said

    again = start(stage, project, "0")
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and "[7/7]" in said, said
    trained = [call.words for call in calls(stage / "log") if call.program == "mmf_run"]
    assert len(trained) == len(set(trained)) == 6, "only steps that ended are in the log of the stand-ins"


@needs_snakemake
def test_a_profile_that_snakemake_does_not_know_starts_nothing(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = stage / "profile"
    for text, message in (
        (None, "profile"),
        ("no-such-option: 1\n", "no-such-option"),
        ("executor: no-such-executor\n", "no-such-executor"),
        ("jobs: [", "is not valid YAML"),
    ):
        if text is not None:
            profile.mkdir(exist_ok=True)
            (profile / "config.yaml").write_text(text)
        assert command_line.main(["run", "--method", "ft", "--order", "oarlks", "--profile", str(profile)]) == 1
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said
    assert calls(stage / "log") == []


def dry_run_of_snakemake(stage: Path, project: Path, steps: list[Step], *words: str | Path) -> set[frozenset[str]]:
    """Return the outputs of each job that Snakemake would run for a plan with two steps per job."""
    (stage / "plan.json").write_text(json.dumps({"steps": as_json(steps, JobSharing(2))}))
    snakefile = project / "mmclvqa/experiments/workflow/Snakefile"
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--directory", stage, "--dry-run"]
    command += ["--config", "plan=plan.json", *words]
    done = subprocess.run(command, cwd=stage, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    jobs = re.split(r"^(?=rule |\[.*\] Group job )", done.stdout + done.stderr, flags=re.MULTILINE)
    outputs = [re.findall(r"^ +output: (.+) \(update\)$", job, re.MULTILINE) for job in jobs]
    return {*map(frozenset, filter(None, outputs))}


@needs_snakemake
def test_snakemake_submits_the_planned_jobs(stage: Path, project: Path) -> None:
    steps = plan(runs_of(["functional"], ["oarlks"], ["chance", "ft", "random:replay_rate=0.1"], []))
    planned = {frozenset(below_root(step.output) for step in group) for group in job_groups(steps, JobSharing(2))}
    submitted = dry_run_of_snakemake(stage, project, steps, "--profile", project / "profiles/slurm")
    assert len(planned) == 8 and submitted == planned


@needs_snakemake
def test_a_job_whose_first_step_is_finished_runs_the_other(stage: Path, project: Path) -> None:
    steps = plan(runs_of(["functional"], ["oarlks"], ["ft"], []))
    group = [below_root(step.output) for step in job_groups(steps, JobSharing(2))[1]]
    for output in (below_root(steps[0].output), group[0]):
        (stage / output).parent.mkdir(parents=True)
        (stage / output).touch()
    words = ["--target-jobs", *(f"train:target={output}" for output in group), "--allowed-rules", "train"]  # in a job
    assert dry_run_of_snakemake(stage, project, steps, *words, "--force", "--cores", "1") == {frozenset(group)}


@needs_snakemake
def test_a_step_on_a_full_disk_names_the_reason_and_the_rest_goes_on(
    stage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FULL", "ft/unicl_attribute")
    assert command_line.main(["run", "--method", "ft", "random:replay_rate=0.1", "--order", "oarlks"]) == 1
    said = capsys.readouterr()
    run = "exp/clvqa/save/functional/setting_1_oarlks/ft"
    reason = "OSError: [Errno 28] No space left on device"
    assert f"failed: train attribute: {run}/unicl_attribute\n" in said.out and reason in said.err
    assert f"log: {stage / 'a #root: x' / run}/unicl_attribute/unicl_final.pth.log" in said.err
    assert any("val_exp='rnd_replay_0.1'" in call.words for call in calls(stage / "log"))


@needs_snakemake
def test_a_folder_that_cannot_be_made_is_named(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stage / "a #root: x/exp/clvqa/save/functional/setting_1_oarlks/ft"
    run.parent.mkdir(parents=True)
    run.touch()
    assert command_line.main(["run", "--method", "ft", "--order", "oarlks"]) == 1
    assert "Failed to create output directory" in (said := capsys.readouterr().err) and "Not a directory" in said


@needs_snakemake
def test_a_root_that_cannot_be_written_starts_nothing(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stage / "a #root: x").touch()
    assert command_line.main(["run", "--method", "ft"]) == 1
    assert f"error: {stage / 'a #root: x'}" in capsys.readouterr().err and calls(stage / "log") == []


def test_without_snakemake_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "snakemake", None)
    assert command_line.main(["run", "--method", "ft"]) == 1
    assert "pip install -r workflow_requirements.txt" in capsys.readouterr().err
