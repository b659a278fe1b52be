"""Plans of experiments: their steps, jobs, costs and dry runs; nothing is run."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from mmclvqa.clove.errors import CloveError, ConfigError
from mmclvqa.experiments import __main__ as command_line
from mmclvqa.experiments.planning import as_json, grid_runs, job_groups, paper_runs, plan, runs_of
from mmclvqa.experiments.profiles import JobSharing, job_sharing
from mmclvqa.experiments.steps import experiment_steps
from mmclvqa.methods.combination import method_of_experiment
from mmclvqa.methods.symbolic_replay import replays_folder


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


def test_a_combination_has_the_overrides_and_the_preparation_of_its_methods() -> None:
    runs = runs_of(["functional"], ["oarlks"], ["ewc:reg_lambda=1e+5+srm:restore_rate=0.5", "srm:restore_rate=0.5"], [])
    assert (
        runs[0].experiment
        == runs_of(["functional"], ["oarlks"], ["srm:restore_rate=0.5+ewc:reg_lambda=1e5"], [])[0].experiment
    )
    name = runs[0].experiment.name
    assert name == f"ewc_reg_lambda_100000+{runs[1].experiment.name}"
    label = method_of_experiment(name).parse_experiment(name)
    assert label == "EWC (reg_lambda 100000) + SRM (distilgpt2, 0.5 replays per real record)"
    steps = plan(runs)
    [srm] = [step for step in steps if step.kind == "srm"]
    trained = [step for step in steps if step.kind == "train" and f"/{name}/" in step.output]
    assert len(trained) == 6 and all(srm.output in step.inputs for step in trained[1:])
    for words in (step.arguments for step in trained):
        assert {"training.CL.reg_type=ewc", "training.CL.replay_method=restore_with_prob"} <= set(words)
        assert len(set(word.partition("=")[0] for word in words)) == len(words)
    assert replays_folder(name, "functional", "oarlks", "$ROOT") == str(Path(srm.output).parent)
    both = runs_of(["functional"], ["oarlks"], ["online_ewc+derpp"], [])[0].experiment
    assert "training.CL.method=online_ewc,derpp" in experiment_steps(both)[1].arguments


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ft+ewc", "ft cannot be combined"),
        ("ewc+ewc", "ewc is given more than once"),
        ("ewc+mas", "methods ewc and mas cannot be combined: both are weight regularizers"),
        ("random+srm", r"srm needs training.CL.replay_method=restore_with_prob, not training.CL.replay_method=random"),
        ("ewc+randm", r"method=randm: there is no such method; did you mean random.*; --user_dir FILE adds your own"),
        ("ewc,random", r"separate methods by spaces: ewc random; or combine them: ewc\+random"),
    ],
)
def test_what_cannot_be_combined_is_refused(method: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        plan(runs_of(["functional"], ["oarlks"], [method], []))
    assert ("--user_dir" in message) == ("--user_dir" in str(error.value))


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
def test_a_grid_leaves_no_room_for_what_it_determines(grid: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
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
