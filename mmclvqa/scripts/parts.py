"""The parts a run script is made of, as shell text; ``run_scripts/lib.sh`` has the functions they call.

Everything that a script runs stands in it: the ``mmf_run`` words are those of the published scripts, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmclvqa.clove import experiments as places
from mmclvqa.clove.tasks import Task

LANGUAGE_MODEL = "distilgpt2"
SRM_EPOCHS = 15
CHECKPOINT_INTERVAL = 4000

_HEAD = """#!/usr/bin/env bash
# {title}
# Done steps are skipped and a run that was cut off goes on. DRY_RUN=1 prints the commands. Written by
# generate_run_scripts.py; these can be set in the environment:
set -euo pipefail
ROOT=${{ROOT:-runs/clvqa}}             # experiments
CLOVE_ROOT=${{CLOVE_ROOT:-data/clove}} # data
DEVICE=${{DEVICE:-0}}                  # GPU(s) to be seen; cpu: none
CONFIG=${{CONFIG:-EXP_CONFIG}}         # EXP_CONFIG/mini for clove-mini
SRM_ARGS=${{SRM_ARGS:-}}               # more arguments of SRM/train.py
MMF_ARGS=${{MMF_ARGS:-}}               # more key=value words of mmf_run
# shellcheck source=run_scripts/lib.sh
source "$(dirname "${{BASH_SOURCE[0]}}")/../../lib.sh\""""

_COMMON = ("model=unicl", "dataset=clvqa")
_END = (f"training.checkpoint_interval={CHECKPOINT_INTERVAL}", '"training.callbacks=[]"')


def script(title: str, variables: Mapping[str, str], body: Sequence[str], steps: int) -> str:
    """A whole script.

    Args:
        title: what it does, for its first lines.
        variables: shell variables that ``body`` uses, besides ``$SAVE``.
        body: its paragraphs.
        steps: how many steps it takes, for its progress lines.
    """
    named = {"SAVE": f"$ROOT/{places.SAVE}", **variables, "STEPS": steps}
    assignments = "\n".join(f"{name}={value}" for name, value in named.items())
    return "\n\n".join([_HEAD.format(title=title), assignments, *body]) + "\n"


def command(function: str, arguments: Sequence[str], words: Sequence[str], indent: str = "") -> str:
    """A call with one word on a line."""
    lines = [" ".join((function, *arguments)), *words]
    return f" \\\n{indent}  ".join(lines)


def train_stand_alone(task: Task) -> str:
    """Train one task alone; ``$STAND_ALONE`` is the setting's folder of such models."""
    folder = f'"$STAND_ALONE/{places.task_folder(task)}"'
    return command("train", [folder], _words(task.setting, task.name, folder))


def train_first(task: Task, continual: Sequence[str], data: Sequence[str]) -> str:
    """Train the first task of an order in ``$RUN``; arguments as :func:`learn_function`'s."""
    folder = f'"$RUN/{places.task_folder(task)}"'
    return command("train", [folder], _words(task.setting, task.name, folder, continual, data))


def learn_function(
    comment: str,
    setting: str,
    continual: Sequence[str],
    data: Sequence[str],
    carried: Sequence[str],
) -> str:
    """The function ``learn TASK BEFORE ...``: one step of a task order, in ``$RUN``.

    Args:
        comment: what it does.
        setting: ``functional`` or ``scene``.
        continual: words of ``training`` and of the model.
        data: words of ``dataset_config``.
        carried: words that name what the task before left; its folder is ``$2``.
    """
    folder = f'"$RUN/{places.MODEL}_$1"'
    words = _words(setting, "$1", folder, continual, data, carried)
    return f"# {comment}\nlearn() {{\n  {command('train', [folder], words, indent='  ')}\n}}"


def learn_calls(order: Sequence[Task], first_folder: str = "$STAND_ALONE", replays: bool = False) -> str:
    """The five calls of ``learn`` along an order, each from the task before it.

    Args:
        order: the tasks.
        first_folder: where the first task's folder lies.
        replays: name SRM's replay files of every task before, too.
    """
    lines = []
    for number, task in enumerate(order[1:], start=1):
        before = order[number - 1]
        folder = "$RUN" if number > 1 else first_folder
        arguments = [task.name if task.name.isalpha() else f'"{task.name}"']
        arguments.append(f'"{folder}/{places.task_folder(before)}"')
        words = []
        if replays:
            letters = "".join(known.letter for known in order)
            files = ",".join(places.replay_file(letters, past, task) for past in order[:number])
            words = [f"'{files}'"]
        lines.append(command("learn", arguments, words))
    return "\n".join(lines)


def write_replays(setting: str, order: str) -> str:
    """Run SRM along an order; ``$QAG`` is its root, ``$REPLAYS`` the folder of its replay files."""
    words = [
        f"--cl_setting {setting}",
        f"--task_seq {order}",
        f"--model_name {LANGUAGE_MODEL}",
        '--model_dir_root "$QAG"',
        "--add_task_tokens",
        f"--n_train_epochs {SRM_EPOCHS}",
    ]
    return command("write_replays", ['"$REPLAYS"', order], words)


def evaluate(kind: str, setting: str, *words: str) -> str:
    """Call ``eval_os.py``."""
    return command("evaluate", [kind], [f"--cl_setting {setting}", *words, '--save_dir "$SAVE"', "--model_name unicl"])


def train_multitask(setting: str) -> str:
    """Train all tasks of a setting at once; ``$RUN`` is the folder."""
    words = [f'config="$CONFIG/cl_{setting}_multitask_unicl.yaml"', *_COMMON, "run_type=train_val"]
    return command("train", ['"$RUN"'], [*words, 'env.save_dir="$RUN"', *_END])


def config_word(setting: str, name: str) -> str:
    """The configuration file of a task."""
    return f'config="$CONFIG/{setting}/cl_{name}_unicl_standalone.yaml"'


def _words(
    setting: str,
    name: str,
    folder: str,
    continual: Sequence[str] = (),
    data: Sequence[str] = (),
    carried: Sequence[str] = (),
) -> list[str]:
    """What ``mmf_run`` is told, in the order of the published scripts."""
    words = [config_word(setting, name), *_COMMON, *continual, *data, "run_type=train_val"]
    return [*words, *carried, f"env.save_dir={folder}", *_END]
