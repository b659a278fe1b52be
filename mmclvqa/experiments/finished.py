"""Finished steps in ``ROOT``: which there are, and which are outdated or were run with other settings."""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import chdir, suppress
from pathlib import Path
from string import Template

from mmclvqa.clove.data_root import prompts_path
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.files import read_json, read_text
from mmclvqa.clove.tasks import find_setting
from mmclvqa.clove.text import first_of
from mmclvqa.configuration import PluginConfiguration
from mmclvqa.evaluation.sweep import changed_checkpoints
from mmclvqa.experiments.planning import below_root
from mmclvqa.experiments.scripts import command
from mmclvqa.experiments.steps import Step

PROJECT = Path(__file__).resolve().parents[2]
SRM = ("python", "SRM/train.py")
NAMED_IN_PATH = ("cl_setting", "task_seq", "model_name")
"""Settings of SRM that determine its folder."""
LISTED = 3
"""Number of folders that a warning lists."""


def unfinished(steps: Sequence[Step], root: Path) -> tuple[list[Step], list[str]]:
    """Return the steps that have to run, and the folders of finished steps that are older than what they start from.

    A step is finished if its output is not empty. An evaluation is repeated if its checkpoints have changed, or if a
    step before it has to run; it evaluates changed checkpoints only.
    """
    pending: list[Step] = []
    older: dict[str, str] = {}
    changing: set[str] = set()  # outputs that will be written, and those that depend on them
    written: dict[str, float] = {}
    for step in steps:
        output = root / below_root(step.output)
        is_finished = output.is_file() and output.stat().st_size > 0
        changes = not changing.isdisjoint(step.inputs)
        written[step.output] = output.stat().st_mtime if is_finished else 0.0
        if not is_finished or (step.kind == "evaluate" and (changes or changed_checkpoints(output))):
            pending.append(step)
        elif step.kind != "evaluate" and (
            changes or any(path in older or written[path] > written[step.output] for path in step.inputs)
        ):
            older[step.output] = folder_of(step)
        if changes or step in pending[-1:]:
            changing.add(step.output)
    return pending, list(older.values())


def folder_of(step: Step) -> str:
    """Return the folder of a step's output, relative to ``ROOT``, which contains everything that the step writes."""
    return str(Path(below_root(step.output)).parent)


def warnings_of(
    steps: Sequence[Step], pending: Sequence[Step], older: Sequence[str], root: Path, variables: Mapping[str, str]
) -> list[str]:
    """Return warnings about finished steps, which a workflow uses as they are.

    Args:
        steps: all steps of the plan.
        pending: see :func:`unfinished`.
        older: see :func:`unfinished`.
        root: the folder of experiments.
        variables: environment variables of the steps.

    Raises:
        CloveError: the variables contain arguments that the steps' programs refuse.
    """
    repeated = set(pending)
    folders_by_change: dict[str, list[str]] = defaultdict(list)
    for step in steps:
        if step not in repeated and (changes := _changes(step, root, variables)):
            folders_by_change[changes].append(folder_of(step))
    lines = [
        f"finished with other settings, which stay: {first_of(folders, LISTED)}: {changes}; choose another ROOT, or "
        "delete these folders to run their steps again"
        for changes, folders in folders_by_change.items()
    ]
    if older:
        folders = first_of(older, LISTED)
        lines.append(f"older than what they start from: {folders}; delete these folders to run their steps again")
    return lines


def _changes(step: Step, root: Path, variables: Mapping[str, str]) -> str:
    """Return the settings in which a step would now differ from its finished run, as text."""
    folder = root / folder_of(step)
    if step.program == ("mmf_run",):
        from mmclvqa.training.checkpoints import CONFIG_FILE, changes_since_start  # imports torch, which takes seconds

        if not (folder / CONFIG_FILE).is_file():
            return ""
        # The step itself warns of ignored keys and missing GPUs.
        with chdir(PROJECT), warnings.catch_warnings(action="ignore"):
            arguments = argparse.Namespace(opts=shell_words(step, variables), config_override=None)
            return changes_since_start(folder, PluginConfiguration(arguments).get_config())
    settings = folder / "settings.json"
    if step.program != SRM or not settings.is_file():
        return ""
    before, now = read_json(settings), _flags(shell_words(step, variables))
    names = [name for name in now if name in before and name not in NAMED_IN_PATH]
    changed = [name for name in names if not _is_same(now[name], before[name])]
    return ", ".join(f"{name}={now[name]} (was {before[name]})" for name in changed)


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Return the last value of each flag of SRM; that of a flag without one is ``True``."""
    flags: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("@"):  # a file of flags
            flags |= _flags(shlex.split(read_text(PROJECT / word[1:]), comments=True))
        elif word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = value or str(True)
        elif name:
            flags[name] = word
    return flags


def _is_same(text: str, value: object) -> bool:
    with suppress(TypeError, ValueError):
        return float(text) == float(value)
    return text == str(value)


def check_prompts(steps: Sequence[Step], variables: Mapping[str, str]) -> None:
    """Check that the data has the scene-graph prompts that SRM generates replays from.

    Raises:
        ConfigError: there is no file of prompts for a setting.
    """
    for flags in (_flags(shell_words(step, variables)) for step in steps if step.program == SRM):
        setting = find_setting(flags["cl_setting"]).name
        prompts = Path(variables["CLOVE_ROOT"], prompts_path(setting))
        if "use_gt" not in flags and not prompts.is_file():
            reason = f"SRM needs the scene-graph prompts of the {setting} setting"
            raise ConfigError(f"{prompts}: there is no such file; {reason}; add them, or leave out srm")


def shell_words(step: Step, variables: Mapping[str, str]) -> list[str]:
    """Return the arguments of a step's program, as a shell passes them."""
    text = Template(command(step).replace("\\\n", " ")).safe_substitute(variables)
    return shlex.split(text)[1 + len(step.program) :]
