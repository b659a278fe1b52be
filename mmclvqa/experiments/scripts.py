"""Renders experiments as shell scripts in the form of the published scripts.

Each step is a block that can be read, copied and run on its own::

    if [ ! -f "$ROOT/.../unicl_final.pth" ]; then
    CUDA_VISIBLE_DEVICES=$DEVICE mmf_run config="$CONFIG/..." \\
      ...
    fi
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from mmclvqa.answer_models import check_model
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.experiment_paths import MODEL
from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.tasks import REPORTED_ORDERS, SETTINGS, find_setting, order_index
from mmclvqa.clove.text import counted, run_command
from mmclvqa.experiments.steps import SRM_RATES, Experiment, Step, experiment_steps
from mmclvqa.methods.base import registered_methods
from mmclvqa.user_code import import_user_code

FOLDER = "run_scripts/mmclvqa"

_HEAD = """#!/usr/bin/env bash
# {title}.
# Written by generate_run_scripts.py. Finished steps are skipped, and an interrupted training resumes from its last
# checkpoint. From the environment: ROOT (experiments), CLOVE_ROOT (data), DEVICE (GPU, or cpu), CONFIG (EXP_CONFIG/mini
# for clove-mini), MMF_ARGS (more overrides of mmf_run), SRM_ARGS (more arguments of SRM/train.py).
# shellcheck disable=SC2086
set -euo pipefail
ROOT=$(realpath -m "${{ROOT:-runs/clvqa}}")
CLOVE_ROOT=$(realpath -m "${{CLOVE_ROOT:-data/clove}}")
DEVICE=${{DEVICE:-0}}
CONFIG=${{CONFIG:-EXP_CONFIG}}
MMF_ARGS=${{MMF_ARGS:-}}
SRM_ARGS=${{SRM_ARGS:-}}
export ROOT CLOVE_ROOT CONFIG MMF_ARGS SRM_ARGS
{user_code}cd {project}
PATH=$PWD/.venv/bin:$PATH
# Stops if ROOT has experiments on other data. Arguments in $CONFIG/workflow.yaml come before MMF_ARGS and SRM_ARGS.
VARIABLES=$(python -m mmclvqa.experiments.root "$ROOT" "$CLOVE_ROOT" "$CONFIG")
eval "$VARIABLES"
"""

_PLAIN = re.compile(r"[A-Za-z0-9_./=:,@%+-]+")


def script(experiment: Experiment, project: str, user_dir: str | None = None) -> str:
    """Return the text of an experiment's script.

    Args:
        experiment: the method and its task order.
        project: the project's folder as a quoted shell word.
        user_dir: Python file or package with a custom method or model.
    """
    where = f"{experiment.setting} setting"
    if experiment.method.steps in ("sequence", "single_task"):
        where += f", task order {experiment.order} ({order_index(experiment.setting, experiment.order)})"
    answer_model = "UniVQA" if experiment.model == MODEL else f"Answer model {experiment.model}"
    blocks = [_block(step) for step in experiment_steps(experiment)]
    title, code = f"{answer_model}, {experiment.title}: {where}", ""
    if user_dir:
        code = f"export MMF_USER_DIR=${{MMF_USER_DIR:-{shlex.quote(str(Path(user_dir).absolute()))}}}\n"
    return "\n".join([_HEAD.format(title=title, user_code=code, project=project), *blocks])


def command(step: Step) -> str:
    """Return the shell command of a step, one argument per line."""
    first, *rest = (_quoted(argument) for argument in step.arguments)
    lines = [" ".join(("CUDA_VISIBLE_DEVICES=$DEVICE", *step.program, first)), *rest]
    lines += [f"${step.arguments_variable}"] if step.arguments_variable else []
    return " \\\n  ".join(lines)


def script_name(experiment: Experiment) -> str:
    """Return the path of a script relative to the folder of scripts, as in the published code.

    That of another model than UniVQA has the model's name before that of the method.
    """
    setting, method = find_setting(experiment.setting), experiment.method
    start = setting.abbreviation
    model = "" if experiment.model == MODEL or method.steps == "chance" else f"{experiment.model}_"
    if method.steps in ("multitask", "chance"):
        # The abbreviations of other settings may be equal.
        return f"{'multitask' if setting.in_package else setting.name}/{start}_{model}{method.name}.sh"
    index = order_index(experiment.setting, experiment.order)
    return f"{setting.name}/{start}_run_{model}{method.script_name(experiment.settings)}_S{index}.sh"


def published_experiments() -> Iterator[Experiment]:
    """Yield the experiments whose scripts are in the repository: SRM at every rate and order, and multitask."""
    for setting in SETTINGS:
        for order in REPORTED_ORDERS[setting]:
            for rate in SRM_RATES:
                yield Experiment.of(setting, order, f"srm:restore_rate={rate}")
        yield Experiment.of(setting, REPORTED_ORDERS[setting][0], "multitask")


def write_script(experiment: Experiment, folder: Path, project: Path, user_dir: str | None = None) -> Path:
    """Write the executable script of an experiment, which runs in the project's folder, and return its path.

    The other arguments are those of :func:`script`; ``folder`` contains all scripts.

    Raises:
        OSError: the file is not writable.
    """
    path = folder / script_name(experiment)
    project_word = shlex.quote(str(project.resolve()))
    if path.parent.resolve().is_relative_to(project.resolve()):
        project_word = f'"$(dirname "${{BASH_SOURCE[0]}}")/{os.path.relpath(project, path.parent)}"'
    with atomic_write(path) as file:
        file.write(script(experiment, project_word, user_dir))
    path.chmod(path.stat().st_mode | 0o111)
    return path


def main(project: Path, argv: Sequence[str] | None = None) -> int:
    """Run the command line of ``generate_run_scripts.py``, which is in the folder ``project``; return the exit code."""
    args = _parser().parse_args(argv)
    return run_command(lambda: _run(args, project))


def _run(args: argparse.Namespace, project: Path) -> int:
    folder = Path(args.out) if args.out else project / FOLDER
    if args.user_dir:
        import_user_code(args.user_dir)
    check_model(args.model)
    if args.list:
        for cls in registered_methods().values():
            print(f"{cls.name}: {cls.label}")
            for one in fields(cls.Settings):
                print(f"    {one.name}={one.default}  {one.metadata.get('help', '')}".rstrip())
        return 0
    if args.method is None:
        for name, default in (("model", MODEL), ("setting", None), ("order", None)):
            if (value := getattr(args, name)) != default:
                raise ConfigError(f"--{name} {value}: add --method with the methods to write scripts for")
        experiments = list(published_experiments())
    elif args.order and not args.setting:
        fitting = [name for name in SETTINGS if set(find_setting(name).tasks) == set(args.order)]
        raise ConfigError(f"--order {args.order}: add its setting: --setting {fitting[0] if fitting else 'NAME'}")
    else:
        experiments = [
            Experiment.of(setting, order, method, args.model)
            for setting in ([args.setting] if args.setting else SETTINGS)
            for order in ([args.order] if args.order else find_setting(setting).orders)
            for method in args.method
        ]
    by_name: dict[str, Experiment] = {}
    for experiment in experiments:
        if by_name.setdefault(script_name(experiment), experiment).settings != experiment.settings:
            raise ConfigError(
                f"{script_name(experiment)}: two methods differ only in settings that the name of the script does not "
                "state; write their scripts to different folders (--out)"
            )
    for experiment in by_name.values():
        path = write_script(experiment, folder, project, args.user_dir)
        if args.method is not None:
            print(path)
    print(f"{counted(len(by_name), 'script')} written below {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python generate_run_scripts.py",
        description=f"Write run scripts of methods; without arguments, write the published scripts to {FOLDER}.",
        epilog="Example: python generate_run_scripts.py --method ewc:reg_lambda=1e5 --setting scene --order bedfca",
    )
    parser.add_argument(
        "--method", nargs="+", metavar="NAME[:SETTING=VALUE,...]", help="methods; NAME+NAME combines two"
    )
    parser.add_argument("--setting", help=f"setting, by name or YAML file (default: {' and '.join(SETTINGS)})")
    parser.add_argument("--order", help="task order, any permutation (default: the reported ones of the setting)")
    parser.add_argument("--out", metavar="DIR", help=f"folder to write into (default: {FOLDER})")
    parser.add_argument("--model", default=MODEL, metavar="NAME", help=f"registered answer model (default: {MODEL})")
    parser.add_argument(
        "--user_dir", default=os.environ.get("MMF_USER_DIR"), metavar="PATH",
        help="Python file or package with custom methods and models (default: $MMF_USER_DIR)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list the methods with their settings and exit")
    return parser


def _block(step: Step) -> str:
    if step.kind == "evaluate":  # reuses finished evaluations, and shows the table every time
        return f"# {step.title}\n{command(step)}\n"
    return f'# {step.title}\nif [ ! -f "{step.output}" ]; then\n{command(step)}\nfi\n'


def _quoted(argument: str) -> str:
    """Return an argument with double quotes if the shell needs them; ``--flag value`` remains two words."""
    flag, space, value = argument.partition(" ")
    if flag.startswith("--"):
        return flag + space + (_quoted(value) if value else "")
    return argument if _PLAIN.fullmatch(argument) else f'"{argument}"'
