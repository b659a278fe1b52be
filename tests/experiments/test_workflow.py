"""Experiments as a workflow: plans, and Snakemake with stand-ins for the programs."""

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

from mmclvqa.clove.errors import CloveError, ConfigError
from mmclvqa.experiments import __main__ as command_line
from mmclvqa.experiments.planning import as_json, below_root, grid_runs, job_groups, paper_runs, plan, runs_of
from mmclvqa.experiments.profiles import JobSharing, job_sharing
from mmclvqa.experiments.progress import Journal
from mmclvqa.experiments.root import main as root_check
from mmclvqa.methods.base import Step, method_of_experiment
from mmclvqa.methods.symbolic_replay import replays_folder

# ------------------------------------------------------------------------------ plans


def test_shared_steps_are_planned_once() -> None:
    steps = plan(runs_of(["functional"], ["oarlks"], ["ft", "srm:restore_rate=0.1", "srm:restore_rate=1.5"], []))
    outputs = [step.output for step in steps]
    assert len(outputs) == len(set(outputs)) == 1 + 3 * 5 + 1 + 3
    made: set[str] = set()
    for step in steps:
        assert set(step.inputs) <= made
        made.add(step.output)


@pytest.mark.parametrize(
    "methods",
    [
        ("srm", "srm:mask_img_prob=0", "srm:n_train_epochs=3", "srm:n_train_epochs=3,mask_img_prob=0"),
        ("gem", "gem:replay_rate=0.5"),
        ("ewc:reg_lambda=1234567", "ewc:reg_lambda=1234568"),
    ],
)
def test_other_hyperparameters_are_another_experiment(methods: tuple[str, ...]) -> None:
    runs = runs_of(["functional"], ["oarlks"], methods, [])
    assert len({run.result for run in runs}) == len(methods)
    labels = [method_of_experiment(run.experiment.name).parse_experiment(run.experiment.name) for run in runs]
    assert len(set(labels)) == len(methods)
    plan(runs)


def test_a_language_model_in_a_folder_is_that_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, argument in (("./mine", str(tmp_path / "mine")), ("hub/mine", "hub/mine"), ("mine", "mine")):
        steps = plan(runs_of(["functional"], ["oarlks"], [f"srm:language_model={name}"], []))
        [srm] = [step for step in steps if step.kind == "srm"]
        assert f"--model_name {argument}" in srm.arguments and "mine_replay" in srm.output


def test_other_epochs_of_srm_have_replays_of_their_own() -> None:
    runs = runs_of(["functional"], ["oarlks"], ["srm:n_train_epochs=3"], [])
    folders = {str(Path(step.output).parent) for step in plan(runs) if step.kind == "srm"}
    assert folders == {replays_folder(runs[0].experiment.name, "functional", "oarlks", "$ROOT")}
    assert "_n_train_epochs_3/" in folders.pop()


def test_two_commands_for_one_output_are_refused() -> None:
    runs = runs_of(["functional"], ["oarlks"], ["gem:gem_memory_batch=32", "gem:gem_memory_batch=64"], [])
    with pytest.raises(ConfigError, match="gem_memory_batch=32.*gem_memory_batch=64.*its own ROOT"):
        plan(runs)


@pytest.mark.parametrize(("grid", "flag"), [("paper", "--setting"), ("grid.yaml", "--seed")])
def test_a_grid_leaves_no_room_for_what_it_determines(
    grid: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["run", "--grid", grid, flag, "1", "--dry-run"]) == 1
    assert f"{flag}: --grid {grid} determines this" in capsys.readouterr().err


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
    assert len(steps) > 3000 and len(as_json(steps, JobSharing())) == len(steps) and seconds < 20


@pytest.mark.parametrize(("steps_per_job", "num_jobs"), [(1, 1285), (2, 671), (7, 227)])
def test_no_step_starts_later_in_a_shared_job(steps_per_job: int, num_jobs: int) -> None:
    steps = plan(paper_runs([]))
    ancestors: dict[str, set[str]] = {}
    for step in steps:
        ancestors[step.output] = {*step.inputs}.union(*(ancestors[path] for path in step.inputs))
    groups = job_groups(steps, JobSharing(steps_per_job))
    assert sorted(step.output for group in groups for step in group) == sorted(ancestors)
    assert len(groups) == num_jobs and max(map(len, groups)) == min(steps_per_job, 7)
    for group in groups:
        assert len({step.gpus for step in group}) == 1
        for earlier, later in itertools.pairwise(group):
            assert earlier.output in later.inputs
            assert {*later.inputs} - {earlier.output} <= ancestors[earlier.output], "the first step would wait for more"
            assert [step for step in steps if earlier.output in step.inputs] == [later], "another step would wait"


def test_an_evaluation_shares_the_job_of_the_training_before_it() -> None:
    steps = plan(runs_of(["functional"], ["oarlks"], ["chance", "ft", "srm", "multitask"], []))
    kinds = [[step.kind for step in group] for group in job_groups(steps, JobSharing(2))]
    assert sorted(kinds) == sorted(
        [["chance"], ["train"], ["srm"], ["multitask", "evaluate"], *[["train", "train"]] * 4]
        + [["train", "evaluate"]] * 2
    )


@pytest.mark.parametrize(
    ("resources", "last_job"),
    [
        ("[evaluate:runtime=5, evaluate:mem_mb=1]", ["train", "evaluate"]),
        ("[evaluate:runtime=1h]", ["train", "evaluate"]),
        ("{evaluate: {slurm_partition: batch}}", ["train", "evaluate"]),
        ("[evaluate:slurm_partition=short]", ["evaluate"]),
        ("{evaluate: {gres: 'gpu:small:1'}}", ["evaluate"]),
    ],
)
def test_kinds_in_different_partitions_share_no_job(resources: str, last_job: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"config: {{steps_per_job: 2}}\ndefault-resources: [slurm_partition=batch, gres=gpu:1]\n"
        f"set-resources: {resources}\n"
    )
    steps = plan(runs_of(["functional"], ["oarlks"], ["ft"], []))
    assert [step.kind for step in job_groups(steps, job_sharing(tmp_path))[-1]] == last_job


@pytest.mark.parametrize("value", ["0", "two", "-1", "1.5", "true"])
def test_steps_per_job_is_a_positive_number(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOT", str(tmp_path / "root"))
    (tmp_path / "config.yaml").write_text(f"config:\n- steps_per_job={value}\n")
    assert command_line.main(["run", "--method", "ft", "--profile", str(tmp_path), "--dry-run"]) == 1
    assert f"config.yaml: config: steps_per_job={value}: must be a positive whole number" in capsys.readouterr().err


def test_a_dry_run_counts_the_jobs_of_unfinished_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOT", str(tmp_path))
    words = ["run", "--method", "ft", "--order", "oarlks", "--profile", "slurm", "--dry-run"]
    assert command_line.main(words) == 0
    assert capsys.readouterr().out.endswith("# 4 jobs of at most 2 steps\n")
    first = plan(runs_of(["functional"], ["oarlks"], ["ft"], []))[0]
    output = Path(first.output.replace("$ROOT", str(tmp_path)))
    output.parent.mkdir(parents=True)
    output.write_text("done")
    assert command_line.main(words) == 0
    assert capsys.readouterr().out.endswith("# 3 jobs of at most 2 steps\n")


def test_a_grid_file_names_what_it_cannot_use(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("- {method: [ft, ewc], order: oarlks, seed: [0, 1]}\n- {setting: scene, method: mas}\n")
    assert len(grid_runs(str(grid))) == 5
    for text, message in (
        ("[]", "has no block"),
        ("- {methods: ft}", "block 1 is not a mapping with the keys"),
        ("- {method: fft}", "did you mean ft"),
        ("- {method: ft, order: oarlkk}", "occurs more than once"),
        ("[", "is not valid YAML"),
        ("- {method: 3}", "block 1: method=3: must be text"),
        ("- {method: ft, seed: a}", "block 1: seed=a: must be a whole number"),
        ("- {method: ft, seed: [1, -1]}", "block 1: seed=-1: must be a whole number from 0"),
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
    assert printed.count("CUDA_VISIBLE_DEVICES=$DEVICE mmf_run") == 6
    assert not (tmp_path / "root").exists()


def test_a_configuration_folder_adds_methods_to_the_default_ones(
    stage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["run", "--config", "EXP_CONFIG/mini", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "/ewc_reg_lambda_1e9/" in printed and "/mas_reg_lambda_1e9/" in printed and "/ewc/" in printed
    assert command_line.main(["run", "--dry-run"]) == 0
    assert "reg_lambda_1e9" not in capsys.readouterr().out


def test_a_dry_run_sums_measured_minutes_and_otherwise_those_of_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    monkeypatch.setenv("ROOT", str(root))
    lines = []
    for output, seconds in (("one", 60), ("two", 120)):
        lines += [f"start\t1000\ttrain\t{output}\ttrain\t\n", f"end\t{1000 + seconds}\ttrain\t{output}\ttrain\t\n"]
    (root / ".workflow").mkdir(parents=True)
    (root / ".workflow/journal.tsv").write_text("".join(lines))
    profile = tmp_path / "mine"
    profile.mkdir()
    for text in (
        "default-resources: [runtime=30]\nset-resources: [evaluate:runtime=60]\njobs: 2\n",
        "default-resources: {runtime: 30}\nset-resources: {evaluate: {runtime: 60}}\njobs: 2\n",
    ):
        (profile / "config.yaml").write_text(text)
        assert command_line.main(["run", "--method", "ft", "chance", "--profile", str(profile), "--dry-run"]) == 0
        table = [line.removeprefix("# ").split() for line in capsys.readouterr().out.splitlines()[-5:]]
        assert ["train", "finished", "steps", "6", "1.5", "0.1"] in table
        assert ["evaluate", "profile", "mine", "1", "60.0", "1.0"] in table
        assert ["chance", "profile", "mine", "1", "30.0", "0.0"] in table and ["all", "8", "1.1"] in table
        assert " ".join(table[-1]) == "about 1.1 hours with 2 at a time; the longest chain of steps takes 1.1 hours"
    assert command_line.main(["run", "--method", "ft", "--config", "EXP_CONFIG/mini", "--dry-run"]) == 0
    assert "evaluate  not known" in capsys.readouterr().out


def test_the_documented_cost_is_that_of_a_dry_run(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOT", str(tmp_path))
    documented = (project / "docs/cluster.md").read_text()
    for gpus in ("0", "0,1,2,3,4,5,6,7"):
        assert command_line.main(["run", "--grid", "paper", "--cores", "1", "--gpus", gpus, "--dry-run"]) == 0
        assert all(line in documented for line in capsys.readouterr().out.splitlines()[-9:])


# ------------------------------------------------------------------------------ Snakemake


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
    monkeypatch.delenv("OMP_NUM_THREADS")
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
