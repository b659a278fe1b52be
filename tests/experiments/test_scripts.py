"""Run scripts: which there are, what they run, what they skip."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from script_runs import Stage

import mmclvqa  # noqa: F401
from mmclvqa.clove.tasks import REPORTED_ORDERS, SETTINGS, order_index
from mmclvqa.experiments.scripts import command, main, published_experiments, script_name, write_script
from mmclvqa.experiments.steps import DEFAULT_METHODS, SRM_RATES, Experiment, experiment_steps

SRM_SCRIPT = "run_scripts/mmclvqa/functional/F_run_distilgpt2_wogt_wtt_1.5_S1.sh"
EXPERIMENT = "exp/clvqa/save/functional/setting_1_oarlks/distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5"
SINGLE = "exp/clvqa/save/stand_alone/functional"
SRM_ROOT = "exp/clvqa/QAG_seq/not_use_gt/QAG_functional_task_token"


def words_of(setting: str, order: str, method: str) -> list[list[str]]:
    """The shell words of each step of an experiment, with variables as they stand."""
    steps = experiment_steps(Experiment.of(setting, order, method))
    return [shlex.split(command(step).replace("\\\n", " ")) for step in steps]


def test_the_committed_scripts_are_exactly_what_the_generator_writes(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for experiment in published_experiments():
        write_script(experiment, copy / "run_scripts/mmclvqa", copy)
    folder = project / "run_scripts/mmclvqa"
    committed = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.sh")}
    written = {str(path.relative_to(copy / "run_scripts/mmclvqa")): path.read_text() for path in copy.rglob("*.sh")}
    assert committed == written
    expected = {f"multitask/{letter}_multitask.sh" for letter in "FS"}
    expected |= {
        f"{setting}/{setting[0].upper()}_run_distilgpt2_wogt_wtt_{rate}_S{order_index(setting, order)}.sh"
        for setting in SETTINGS for order in REPORTED_ORDERS[setting] for rate in SRM_RATES
    }  # fmt: skip
    assert committed.keys() == expected and len(expected) == 96 + 2


def test_scripts_of_any_method_and_order_are_written_on_request(
    tmp_path: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "ewc:reg_lambda=1e5", "srm:restore_rate=0.2,language_model=t5-small"]
    words += ["--setting", "functional"]
    assert main(project, [*words, "--order", "skalro", "--out", str(tmp_path)]) == 0
    index = order_index("functional", "skalro")
    names = {f"F_run_ewc_reg_lambda_100000_S{index}.sh", f"F_run_t5-small_wogt_wtt_0.2_S{index}.sh"}
    assert {path.name for path in tmp_path.rglob("*.sh")} == names
    assert all(os.access(path, os.X_OK) for path in tmp_path.rglob("*.sh"))
    assert "2 scripts written" in capsys.readouterr().out
    assert main(project, ["--method", "ft", "--setting", "scene", "--order", "abcdef", "--out", str(tmp_path)]) == 0
    assert "1 script written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "ewx"], "method=ewx: there is no such method; did you mean ewc?"),
        (["--method", "nope"], "expected one of: chance, stand_alone, multitask, ft, ewc, online_ewc, mas, gem, agem"),
        (["--method", "nope"], "; --user_dir FILE adds your own"),
        (["--method", "ewc,random"], "method=ewc,random: separate methods by spaces: ewc random; or combine them"),
        (["--method", "ewc:reg_lamda=1"], "ewc has no setting 'reg_lamda'; did you mean reg_lambda?"),
        (["--method", "ewc:reg_lambda=big"], "reg_lambda must be a number"),
        (["--method", "random:replay_rate=0"], "random:replay_rate=0: replay_rate must be a number above 0"),
        (["--method", "srm:restore_rate=-1"], "srm:restore_rate=-1: restore_rate must be a number above 0"),
        (["--method", "kmeans:replay_rate=2"], "replay_rate must be a number above 0 and at most 1"),
        (["--method", "gem:gem_memory_batch=0"], "gem_memory_batch must be a whole number above 0"),
        (["--method", "ewc:reg_lambda=1,reg_lambda=2"], "reg_lambda is given more than once; keep one value"),
        (["--method", "srm:language_model="], "language_model must be the name, hub id or folder of a language model"),
        (["--method", "srm:language_model=a$b"], "language_model: commands cannot contain '$'"),
        (["--method", "ft", "--order", "oarlks"], "--order oarlks: add its setting: --setting functional"),
        (["--setting", "scene"], "--setting scene: add --method with the methods to write scripts for"),
        (["--method", "random:replay_rate=nan"], "replay_rate must be a number above 0"),
        (["--method", "srm:n_train_epochs=1.5"], "n_train_epochs must be a whole number above 0"),
        (
            ["--method", "gem:gem_memory_batch=32", "gem:gem_memory_batch=64"],
            "F_run_gem_S1.sh: two methods differ only in settings that the name of the script does not state",
        ),
        (["--method", "ft", "--order", "oarlkz", "--setting", "functional"], "z is not a task of the functional"),
    ],
)
def test_what_cannot_be_written_is_named_in_one_line(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(project, [*words, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


OWN_METHOD = """
from dataclasses import dataclass
from mmclvqa.methods.base import Method, register_method

@register_method
class Plain(Method):
    name, label = "plain", "Plain"

    @dataclass(frozen=True)
    class Settings:
        mode: str = "a"
        weight: float = 0.1
"""


def test_settings_of_a_users_method_may_be_plain_and_contain_underscores(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own_method.py"
    own.write_text(OWN_METHOD)
    assert main(project, ["--user_dir", str(own), "--list"]) == 0
    assert "\n    weight=0.1\n" in capsys.readouterr().out
    experiment = Experiment.of("functional", "oarlks", "plain:mode=x_y,weight=0.25")
    assert experiment.title == "Plain (mode x_y, weight 0.25)"


def test_the_script_of_a_users_method_imports_it(project: Path, tmp_path: Path) -> None:
    own, other = tmp_path / "it's mine" / "imported_by_a_script.py", tmp_path / "other.py"
    own.parent.mkdir()
    own.write_text(OWN_METHOD.replace('"plain"', '"plainer"'))
    words = ["--user_dir", str(own), "--method", "plainer", "--setting", "functional", "--order", "oarlks"]
    assert main(project, [*words, "--out", str(tmp_path)]) == 0
    (script,) = tmp_path.rglob("*.sh")
    [line] = re.findall("^export MMF_USER_DIR=.*$", script.read_text(), re.MULTILINE)
    for environment, expected in (({}, own), ({"MMF_USER_DIR": str(other)}, other)):
        shown = subprocess.run(
            ["bash", "-c", f'{line}; printf %s "$MMF_USER_DIR"'], env=environment, capture_output=True, text=True
        )
        assert shown.stdout == str(expected)


def test_a_name_with_a_space_is_quoted_once() -> None:
    experiment = Experiment.of("functional", "oarlks", "srm:language_model=/data/my models/gpt2")
    (srm,) = (step for step in experiment_steps(experiment) if step.kind == "srm")
    assert '--model_name "/data/my models/gpt2" ' in command(srm).replace(" \\\n ", "")


def test_list_names_every_method_with_its_settings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(project, ["--list"]) == 0
    listed = capsys.readouterr().out
    for method in ("ft", "online_ewc", "derpp", "multitask"):
        assert f"\n{method}: " in f"\n{listed}"
    assert "gamma=0.95" in listed


# ------------------------------------------------------------------------------ what they run


def commands_of_the_seed(project: Path) -> list[str]:
    """The mmf_run commands that stand whole in the seed document (its third one is cut off)."""
    text = (project / "tests/fixtures/seed.txt").read_text()
    return re.findall(r"^CUDA_VISIBLE_DEVICES=\$DEVICE mmf_run .+?(?=\nfi$)", text, re.MULTILINE | re.DOTALL)


def test_the_seeds_commands_are_those_of_the_script_but_for_resuming(project: Path) -> None:
    ours = [words for words in words_of("functional", "oarlks", "srm") if "mmf_run" in words]
    for number, text in enumerate(commands_of_the_seed(project), start=1):
        wanted = shlex.split(text.replace("config=", "config=$CONFIG/").replace("EXP_CONFIG/", "").replace("\\\n", " "))
        assert ours[number] == [*wanted, "checkpoint.resume=True", "$MMF_ARGS"]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", [*DEFAULT_METHODS, "online_ewc", "derpp", "stand_alone"])
def test_every_override_of_a_method_is_known_and_each_step_starts_from_the_one_before(
    project: Path, monkeypatch: pytest.MonkeyPatch, setting: str, method: str
) -> None:
    from mmf.utils.configuration import Configuration

    monkeypatch.chdir(project)
    monkeypatch.setenv("CLOVE_ROOT", "/data")
    experiment = Experiment.of(setting, REPORTED_ORDERS[setting][1], method)
    made: set[str] = set()
    for step in experiment_steps(experiment, "/experiments", "EXP_CONFIG"):
        assert set(step.inputs) <= made, step.title
        made.add(step.output)
        if step.program == ("mmf_run",):
            config = Configuration(argparse.Namespace(opts=list(step.arguments), config_override=None)).get_config()
            assert f"{config.env.save_dir}/unicl_final.pth" == step.output
            start = config.checkpoint.resume_file
            assert start is None or start in step.inputs
    assert len(made) > 1 or method == "chance"


# ------------------------------------------------------------------------------ what they skip


def test_from_nothing_a_script_runs_every_step_once_and_a_second_time_only_the_sweep(run: Stage) -> None:
    code, said, output = run(SRM_SCRIPT)
    assert code == 0, output
    assert said[0] == f"{SINGLE}/unicl_object" and said[1].startswith("SRM/train.py --cl_setting functional")
    tasks = ("attribute", "relation", "logical", "knowledge", "scenetext")
    assert said[2:7] == [f"{EXPERIMENT}/unicl_{task}" for task in tasks]
    assert len(said) == 8 and "stage_sweep" in said[7]
    code, again, _ = run(SRM_SCRIPT)
    assert code == 0 and again == said[7:]


def test_a_failed_step_ends_the_script_and_the_next_start_resumes_there(run: Stage) -> None:
    code, said, output = run(SRM_SCRIPT, FAIL="cl_logical_unicl")
    assert code != 0 and "error: cl_logical_unicl" in output
    code, rest, _ = run(SRM_SCRIPT)
    assert code == 0 and rest[0] == f"{EXPERIMENT}/unicl_logical" and len(said) + len(rest) == 9


def test_another_rate_of_the_same_order_shares_first_task_and_replays(run: Stage) -> None:
    run(SRM_SCRIPT)
    code, said, _ = run(SRM_SCRIPT.replace("1.5", "0.3"))
    assert code == 0 and not any(words.startswith(("SRM", SINGLE)) for words in said) and len(said) == 6


def test_arguments_from_the_environment_reach_every_command(run: Stage) -> None:
    _, said, _ = run(SRM_SCRIPT, SRM_ARGS="--n_prompts 3 --debug", FAIL="attribute")
    assert said[1].endswith("--n_train_epochs 15 --n_prompts 3 --debug")


# ------------------------------------------------------------------------------ the shell


def test_shellcheck_has_nothing_to_say(project: Path, tmp_path: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(os.sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    experiments = [Experiment.of("scene", "bedfca", method) for method in (*DEFAULT_METHODS, "stand_alone")]
    scripts = [write_script(experiment, tmp_path, tmp_path) for experiment in experiments]
    assert len({script_name(experiment) for experiment in experiments}) == len(experiments)
    scripts += [project / "run_scripts/demo.sh", project / "mmclvqa/experiments/workflow/run_step.sh"]
    scripts += [project / "tests/experiments/slurm_cluster.sh"]
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
