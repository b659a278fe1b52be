"""Answer models other than UniVQA: the example of docs/model.md in scripts, workflow, sweep and report."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from own_settings import rearrange, write_config, write_setting
from script_runs import needs_snakemake

from mmclvqa.answer_models import check_model, registered_models
from mmclvqa.clove.errors import ConfigError
from mmclvqa.evaluation.results import read_sweep
from mmclvqa.experiments.scripts import main, script_name
from mmclvqa.experiments.steps import Experiment, experiment_steps

TINY_RUN = (
    "training.max_updates=2 training.evaluation_interval=2 training.num_workers=0 training.batch_size=8 "
    "model_config.bag.width=8"
)


def write_model(project: Path, folder: Path) -> Path:
    """Write the example of docs/model.md into a folder and return the Python file."""
    page = (project / "docs/model.md").read_text()
    for kind, name in (("python", "my_model.py"), ("yaml", "my_model.yaml")):
        (folder / name).write_text(re.search(rf"```{kind}\n(.+?)```", page, re.DOTALL)[1])
    return folder / "my_model.py"


def documented_command(project: Path, **changed: str) -> list[str]:
    """Return the command of docs/your_own.md with other values of some options."""
    page = (project / "docs/your_own.md").read_text()
    words = shlex.split(re.search(r"```bash\n(python -m .+? --model bag .+)\n", page)[1])
    for option, value in changed.items():
        words[words.index(f"--{option}") + 1] = value
    return [sys.executable, *words[1:]]


@pytest.fixture
def two_tasks(clove_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a setting of two tasks."""
    data = tmp_path / "data"
    rearrange(clove_mini, data, write_setting(data, "two"))
    monkeypatch.setenv("CLOVE_ROOT", str(data))
    return data


@pytest.fixture
def run(
    project: Path, two_tasks: Path, programs: dict[str, str], tmp_path: Path
) -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    """Return a function that runs a command with tiny trainings of the example."""
    places = {"ROOT": str(tmp_path / "a root"), "CLOVE_ROOT": str(two_tasks), "CONFIG": "EXP_CONFIG/mini"}

    def start(words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        environment = programs | places | {"DEVICE": "cpu", "MMF_ARGS": TINY_RUN} | more
        return subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, timeout=500)

    return start


@needs_snakemake
def test_the_documented_command_trains_evaluates_and_reports_the_example(run, project: Path, tmp_path: Path) -> None:
    changed = {"user_dir": str(write_model(project, tmp_path)), "setting": "two", "order": "colour,shape"}
    config = write_config(project, tmp_path / "config")
    done = run([*documented_command(project, **changed), "--config", str(config), "--cores", "1"])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    save = tmp_path / "a root/exp/clvqa/save"
    order = save / "two/setting_2_colour-shape"
    assert (save / "stand_alone/two/bag_colour/bag_final.pth").is_file()
    assert (order / "ft/bag_shape/bag_final.pth").is_file() and (order / "ewc/bag_colour/bag_final.pth").is_file()
    for method in ("ft", "ewc"):
        sweep = read_sweep(order / f"val_bag_{method}")
        assert (sweep.model, sweep.experiment, sweep.missing) == ("bag", method, [])
    assert not list(save.rglob("*unicl*")) and not list(order.glob("val_ft"))
    page = (tmp_path / "a root/report/two_colour-shape_bag/index.html").read_text()
    assert "fine-tuning with bag, colour-shape" in page and "No validation results from training" not in page


@pytest.mark.long
def test_a_generated_script_trains_the_example_with_k_means_refused_in_one_line(
    run, project: Path, two_tasks: Path, tmp_path: Path
) -> None:
    file = write_model(project, tmp_path)
    words = ["--user_dir", str(file), "--model", "bag", "--setting", "two", "--order", "shape,colour"]
    assert main(project, [*words, "--method", "random", "multitask", "kmeans", "--out", str(tmp_path / "scripts")]) == 0
    scripts = {path.name: path for path in (tmp_path / "scripts").rglob("*.sh")}
    assert set(scripts) == {
        "two_run_bag_rnd_replay_0.1_S1.sh", "two_run_bag_kmeans_replay_0.02_S1.sh", "two_bag_multitask.sh",
    }  # fmt: skip
    arguments = f"{TINY_RUN} env.user_dir={file} training.CL.replay_rate=0.2"
    for name in ("two_run_bag_rnd_replay_0.1_S1.sh", "two_bag_multitask.sh"):
        done = run(["bash", str(scripts[name])], MMF_ARGS=arguments)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert "average accuracy" in done.stdout
    done = run(["bash", str(scripts["two_run_bag_kmeans_replay_0.02_S1.sh"])], MMF_ARGS=arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode and len(errors) == 1 and "Traceback" not in done.stderr
    assert "model bag must return it (batch × width) beside scores" in errors[0]


def test_names_of_another_model_are_in_every_path_and_command_and_those_of_univqa_nowhere() -> None:
    for method in ("ft", "kmeans", "multitask", "srm"):
        experiment = Experiment.of("functional", "oarlks", method, "m4c")
        assert "m4c" in script_name(experiment)
        for step in experiment_steps(experiment):
            own = [word for word in step.arguments if "_standalone.yaml" not in word and "_multitask_" not in word]
            assert step.kind == "srm" or ("m4c" in step.output and "unicl" not in step.output)
            assert not [word for word in own if "unicl" in word], step.title
    chance = Experiment.of("functional", "oarlks", "chance", "m4c")
    assert script_name(chance) == "multitask/F_chance.sh"


def test_models_of_mmf_and_of_user_code_are_known_and_others_are_named(project: Path, tmp_path: Path) -> None:
    assert {"unicl", "m4c", "visual_bert", "concat_bow"} <= set(registered_models())
    check_model("m4c")
    with pytest.raises(ConfigError, match="no model named 'm4d' is registered; did you mean m4c"):
        check_model("m4d")


@pytest.mark.parametrize(
    "words",
    [
        ["generate_run_scripts.py", "--method", "ft", "--model", "unicll"],
        ["-m", "mmclvqa.experiments", "run", "--dry-run", "--model", "unicll"],
        ["eval_os.py", "sweep", "--cl_setting", "scene", "--task_order", "abcdef", "--exp", "ft", "--save_dir", "x",
         "--model_name", "unicll"],
        ["-m", "mmclvqa.cli", "config=EXP_CONFIG/setting.yaml", "model=unicll", "dataset=clvqa"],
    ],
    ids=["scripts", "workflow", "sweep", "mmf_run"],
)  # fmt: skip
def test_an_unknown_model_is_answered_before_anything_runs(project: Path, words: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(project), "CLOVE_ROOT": str(tmp_path), "ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], cwd=project, env=environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "no model named 'unicll' is registered; did you mean unicl?" in errors[0]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "mmf" not in imported and "torch" not in imported
    assert not list(tmp_path.iterdir())


def test_without_methods_the_scripts_of_another_model_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(project, ["--model", "m4c"]) == 1
    assert "--model m4c: add --method" in capsys.readouterr().err
