"""The method of docs/new_method.md, taken from the page, trains by the commands of the page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from method_runs import TINY, Methods

from mmclvqa import cli
from mmclvqa.clove.errors import ConfigError
from mmclvqa.experiments.steps import Experiment, experiment_steps
from mmclvqa.methods import base
from mmclvqa.user_code import import_user_code

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "new_method.md").read_text()
CODE, REPLAY_CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SIZES = [word for word in TINY if not word.startswith("run_type")]


@pytest.fixture(autouse=True)
def _registered_methods_as_they_were() -> Iterator[None]:
    before = dict(base._registered)
    yield
    base._registered.clear()
    base._registered.update(before)


def commands(program: str) -> list[str]:
    return re.findall(rf"^    ({program} .*?[^\\])$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_worked_example_trains_with_its_hyperparameter(methods: Methods) -> None:
    file = methods.folder / "my_method.py"
    file.write_text(CODE)
    methods.learn("object", name="l2")
    (command,) = commands("mmf_run")
    command = command.replace("$ROOT/exp/clvqa/save/stand_alone/functional", str(methods.folder / "l2"))
    words = shlex.split(command.replace("\\\n", " ").replace("$ROOT", str(methods.folder)))[1:]
    words = [word.replace("my_method.py", str(file)) for word in words]
    cli.run([*words, *SIZES])
    free, held = methods.save_dir("attribute", "free"), methods.folder / "l2" / "unicl_attribute"
    methods.learn("attribute", methods.resume_file("object", "l2"), name="free")
    before, after, without = (
        torch.load(folder / "unicl_final.pth") for folder in (methods.save_dir("object", "l2"), held, free)
    )
    distances = [
        sum(float((weights[name] - before[name]).square().sum()) for name in before) for weights in (after, without)
    ]
    assert 0 < distances[0] < distances[1]


def test_a_misspelt_hyperparameter_and_an_unusable_file_are_named(methods: Methods) -> None:
    file = methods.folder / "misspelt_l2.py"
    file.write_text(CODE)
    own = (f"env.user_dir={file}", "training.CL.method=l2")
    assert "did you mean training.CL.l2.weight" in methods.error("attribute", *own, "training.CL.l2.wait=1")
    wrong = "training.CL.l2.weight=much"
    assert f"{wrong}: it must be a number" in methods.error("attribute", *own, wrong)
    broken = methods.folder / "broken.py"
    broken.write_text("import nothing_of_this_name\n")
    line = methods.error("attribute", f"env.user_dir={broken}", "training.CL.method=l2")
    assert "broken.py: importing it failed: ModuleNotFoundError" in line and "(line 1)" in line
    broken.write_text("import os\n\n1 = 2\n")
    line = methods.error("attribute", f"env.user_dir={broken}", "training.CL.method=l2")
    assert "SyntaxError: cannot assign to literal" in line and line.endswith("(broken.py, line 3)")
    empty = methods.folder / "empty.py"
    empty.write_text("")
    assert "no such method" in methods.error("attribute", f"env.user_dir={empty}", "training.CL.method=l3")
    assert "there is no file" in methods.error("attribute", "env.user_dir=nowhere.py")
    assert "it must be a .py file" in methods.error("attribute", "env.user_dir=README.md")


def test_the_replay_method_of_the_page_replays_and_is_combined(methods: Methods) -> None:
    file = methods.folder / "my_replay.py"
    file.write_text(CODE + REPLAY_CODE)
    methods.learn("object", name="first")
    own = (f"env.user_dir={file}", "training.CL.task_order=oarlks", methods.resume_file("object", "first"))
    own += ("training.CL.fixed.per_task=3",)
    for method, more in (("fixed", ()), ("fixed,l2", ("training.CL.l2.weight=100",))):
        folder = methods.learn("attribute", *own, f"training.CL.method={method}", *more, name=method)
        assert methods.stored("attribute", method)["records"] == 3
        assert "3 replays are added to " in (folder / "train.log").read_text()
    start, free, held = (
        methods.weights(*run) for run in (("object", "first"), ("attribute", "fixed"), ("attribute", method))
    )
    moved = [sum(float((weights[key] - start[key]).square().sum()) for key in start) for weights in (free, held)]
    assert 0 < moved[1] < moved[0]


SUBCLASS = """
from dataclasses import dataclass

from mmclvqa.methods.base import register_method, setting
from mmclvqa.methods.random_replay import RandomReplay


@register_method
class FirstReplays(RandomReplay):
    name, label = "first_replays", "first replays"

    @dataclass(frozen=True)
    class Settings(RandomReplay.Settings):
        most: int = setting(5, "number of replays")

    def replays(self, root):
        chosen = super().replays(root)
        del chosen.records[self.settings.most :]
        chosen.counts["object"] = len(chosen.records)
        return chosen
"""


def test_a_subclass_of_a_method_of_the_package_is_a_method_of_its_own(methods: Methods) -> None:
    file = methods.folder / "first_replays.py"
    file.write_text(SUBCLASS)
    import_user_code(str(file))
    experiment = Experiment.of("functional", "oarlks", "first_replays:most=3")
    assert experiment.name == "first_replays_most_3" and experiment.title == "first replays (most 3)"
    second = experiment_steps(experiment)[1]
    assert "/first_replays_most_3/" in second.output
    methods.learn("object", name="subclass")
    start = methods.resume_file("object", "subclass")
    words = [word for word in second.arguments if word.startswith("training.CL.") and "previous_dir" not in word]
    methods.learn("attribute", f"env.user_dir={file}", *words, start, name="subclass")
    assert methods.stored("attribute", "subclass")["records"] == 3
    published = ("training.CL.use_cl=True", "training.CL.use_replay=True", "training.CL.replay_method=random")
    own = (f"env.user_dir={file}", "training.CL.task_order=oarlks", *published)
    folder = methods.learn("attribute", *own, start, name="published")
    assert (folder / "train.log").read_text().count("replays are added") == 1


def test_a_subclass_of_gem_runs_with_its_generated_overrides(methods: Methods) -> None:
    file = methods.folder / "my_gem.py"
    file.write_text(
        "from mmclvqa.methods.base import register_method\nfrom mmclvqa.methods.gem import GEM\n\n\n"
        '@register_method\nclass MyGEM(GEM):\n    name, label = "my_gem", "my GEM"\n'
    )
    import_user_code(str(file))
    second = experiment_steps(Experiment.of("functional", "oarlks", "my_gem:replay_rate=0.5"))[1]
    methods.learn("object", name="my_gem")
    words = [word for word in second.arguments if word.startswith("training.CL.") and "previous_dir" not in word]
    own = (f"env.user_dir={file}", methods.resume_file("object", "my_gem"))
    methods.learn("attribute", *own, *words, name="my_gem")
    assert methods.stored("attribute", "my_gem")["records"] > 0
    file = methods.folder / "my_finetuning.py"
    file.write_text((methods.folder / "my_gem.py").read_text().replace("gem import GEM", "finetuning import FineTuning")
                    .replace("MyGEM(GEM)", "MyFineTuning(FineTuning)").replace("my_gem", "my_ft"))  # fmt: skip
    import_user_code(str(file))
    second = experiment_steps(Experiment.of("functional", "oarlks", "my_ft"))[1]
    assert "training.CL.method=my_ft" in second.arguments


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    @dataclass(frozen=True)\n", "", r"FixedReplay\.Settings: it must be a dataclass"),
        (
            "return self.chosen\n",
            "return self.chosen.records\n",
            r"replays\(\) returned a list; it must return Replays",
        ),
    ],
)
def test_mistakes_in_a_method_are_named(methods: Methods, old: str, new: str, message: str) -> None:
    file = methods.folder / f"mistake{len(new)}.py"
    file.write_text(REPLAY_CODE.replace(old, new))
    own = (f"env.user_dir={file}", "training.CL.method=fixed", "training.CL.task_order=oarlks")
    assert re.search(message, methods.error("attribute", *own))


@pytest.mark.parametrize(
    ("name", "message"),
    [("los", "did you mean loss?"), ("on_task_begin", "did you mean on_task_end"), ("before_step", "the hooks are ")],
)
def test_a_misspelt_hook_is_refused(tmp_path: Path, name: str, message: str) -> None:
    file = tmp_path / f"misspelt_{name}.py"
    file.write_text(CODE.replace("def loss(", f"def {name}("))
    with pytest.raises(ConfigError, match=rf"\.{name}: there is no such hook; {message}"):
        import_user_code(str(file))


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "second_ewc.py"
    file.write_text(CODE.replace('name = "l2"', 'name = "ewc"'))
    with pytest.raises(ConfigError, match="another method is named 'ewc' already"):
        import_user_code(str(file))


def test_a_users_method_gets_steps_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "steps_l2.py"
    file.write_text(CODE)
    import_user_code(str(file))
    first, second, *_, evaluation = experiment_steps(Experiment.of("functional", "oarlks", "l2:weight=0.1"))
    assert "/stand_alone/functional/unicl_object/" in first.output
    assert {"training.CL.method=l2", "training.CL.l2.weight=0.1"} <= set(second.arguments)
    assert "val_exp='l2_weight_0.1'" in evaluation.arguments[0]


@pytest.mark.long
def test_the_generated_script_of_the_worked_example_ends_with_the_matrix(methods: Methods, project: Path) -> None:
    (methods.folder / "my_method.py").write_text(CODE)
    command = next(c for c in commands("python") if "generate_run_scripts" in c)
    words = shlex.split(command.replace("generate_run_scripts.py", str(project / "generate_run_scripts.py")))
    words[0] = sys.executable
    subprocess.run(words, cwd=methods.folder, check=True, timeout=120)
    (script,) = (methods.folder / "scripts").rglob("*.sh")
    sizes = [*SIZES, f"env.user_dir={methods.folder / 'my_method.py'}", "training.evaluation_interval=2"]
    environment = os.environ | {
        "ROOT": str(methods.folder / "runs"), "CLOVE_ROOT": str(methods.data), "CONFIG": "EXP_CONFIG/mini",
        "DEVICE": "cpu", "MMF_ARGS": " ".join(sizes), "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "weighted forgetting" in done.stdout.splitlines()[-1]
