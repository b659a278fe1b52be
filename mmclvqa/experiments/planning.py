"""The plan of a set of experiments: all their steps without duplicates, for one machine or a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmclvqa.answer_models import check_model
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.experiment_paths import MODEL
from mmclvqa.clove.files import read_yaml
from mmclvqa.clove.tasks import REPORTED_ORDERS, SETTINGS, find_setting
from mmclvqa.experiments.profiles import JobSharing
from mmclvqa.experiments.scripts import command
from mmclvqa.experiments.steps import DEFAULT_METHODS, SRM_RATES, Experiment, Step, experiment_steps, result_file

MAX_SEED = 2**32 - 1
"""The largest seed that UniVQA and SRM accept."""
GRID_KEYS = ("setting", "order", "method", "seed", "model")


@dataclass(frozen=True)
class Run:
    """An experiment with a seed.

    Attributes:
        experiment: the method and its task order.
        seed: seed of all training runs and of SRM; None uses the seeds of the configurations.
    """

    experiment: Experiment
    seed: int | None = None

    @property
    def root(self) -> str:
        """The folder of experiments: ``$ROOT``, or ``$ROOT/seed_<n>``."""
        return "$ROOT" if self.seed is None else f"$ROOT/seed_{self.seed}"

    @property
    def result(self) -> str:
        """The result file, relative to ``ROOT``."""
        return below_root(result_file(self.experiment, self.root))

    def steps(self) -> list[Step]:
        """Return the steps, with the seed in their arguments."""
        steps = experiment_steps(self.experiment, self.root)
        if self.seed is None:
            return steps
        seeds = {"MMF_ARGS": (f"training.seed={self.seed}",), "SRM_ARGS": (f"--seed {self.seed}",)}
        return [replace(step, arguments=step.arguments + seeds.get(step.arguments_variable, ())) for step in steps]


def runs_of(
    settings: Sequence[str],
    orders: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    models: Sequence[str] = (MODEL,),
) -> list[Run]:
    """Return every combination of settings (names or files), task orders, models, methods and seeds.

    Without orders, each setting has its first reported one; without methods, those are
    :data:`~mmclvqa.experiments.steps.DEFAULT_METHODS`; without seeds, those of the configurations count.

    Raises:
        CloveError: a setting, order, model or method is unknown or illegal.
    """
    for model in models:
        check_model(model)
    return [
        Run(Experiment.of(setting, order, method, model), seed)
        for setting in settings
        for order in orders or find_setting(setting).orders[:1]
        for model in models
        for method in methods or DEFAULT_METHODS
        for seed in list(seeds) or [None]
    ]


def paper_runs(seeds: Sequence[int], models: Sequence[str] = (MODEL,)) -> list[Run]:
    """Return the published comparison: all settings, orders and methods, with SRM at all rates."""
    others = [method for method in DEFAULT_METHODS if method != "srm"]
    methods = [*others, *(f"srm:restore_rate={rate}" for rate in SRM_RATES)]
    return [run for setting in SETTINGS for run in runs_of([setting], REPORTED_ORDERS[setting], methods, seeds, models)]


def grid_runs(path: str, models: Sequence[str] = (MODEL,)) -> list[Run]:
    """Return the runs of a YAML file, a list of blocks with the keys :data:`GRID_KEYS`; ``models`` are the default.

    Raises:
        ConfigError: the file has an invalid form.
        CloveError: a setting, order or method is unknown or illegal.
    """
    blocks = read_yaml(path)
    if not blocks:
        raise ConfigError(f"{path}: has no block; a block is a mapping with the keys {', '.join(GRID_KEYS)}")
    runs: list[Run] = []
    for number, block in enumerate(blocks if isinstance(blocks, list) else [blocks], start=1):
        if not isinstance(block, dict) or set(block) - set(GRID_KEYS):
            raise ConfigError(f"{path}: block {number} is not a mapping with the keys {', '.join(GRID_KEYS)}")
        given = {key: value for key, value in block.items() if value is not None}
        values = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
        for key, entries in values.items():
            if key == "seed":
                wrong = [entry for entry in entries if type(entry) is not int or not 0 <= entry <= MAX_SEED]
                what = f"a whole number from 0 to {MAX_SEED}"
            else:
                wrong, what = [entry for entry in entries if type(entry) is not str], "text; put quotes around it"
            if wrong:
                raise ConfigError(f"{path}: block {number}: {key}={wrong[0]}: must be {what}")
        orders, methods, seeds = (values.get(key, []) for key in ("order", "method", "seed"))
        runs += runs_of(values.get("setting") or SETTINGS[:1], orders, methods, seeds, values.get("model") or models)
    return runs


def plan(runs: Iterable[Run]) -> list[Step]:
    """Return the steps of all runs in a valid order of execution; steps shared by several runs appear once.

    Raises:
        ConfigError: two runs would write the same file with different commands.
    """
    steps: dict[str, Step] = {}
    for run in runs:
        for step in run.steps():
            same = steps.setdefault(step.output, step)
            if same.arguments != step.arguments:
                different = ", ".join(sorted({*same.arguments} ^ {*step.arguments}))
                raise ConfigError(
                    f"{below_root(step.output)}: two experiments write this file with different arguments "
                    f"({different}); give each its own ROOT"
                )
    return list(steps.values())


def job_groups(steps: Sequence[Step], sharing: JobSharing) -> list[list[Step]]:
    """Divide steps into the jobs of a cluster. The steps of a job run one after another.

    A step shares the job of an input's step if no other step uses that input, and the input's step waits for all the
    other inputs as well. Therefore no step starts later than in a job of its own, and a failed step holds back only
    steps that need its output: the last training and the evaluation of an experiment share a job, but never the
    evaluations of two experiments. Chains of more than ``steps_per_job`` steps are divided from the end.

    Args:
        steps: all steps of a plan, in a valid order of execution.
        sharing: how many steps share a job, and which.
    """
    step_of = {step.output: step for step in steps}
    num_users = Counter(path for step in steps for path in step.inputs)
    waits_for: dict[str, set[str]] = {}
    chain_of: dict[str, list[Step]] = {}
    chains: list[list[Step]] = []
    for step in steps:
        waits_for[step.output] = {*step.inputs}.union(*(waits_for[path] for path in step.inputs))
        for path in step.inputs:
            others_are_ready = waits_for[path].issuperset({*step.inputs} - {path})
            if num_users[path] == 1 and others_are_ready and sharing.allows(step_of[path], step):
                chain_of[step.output] = chain_of[path]
                break
        else:
            chain_of[step.output] = []
            chains.append(chain_of[step.output])
        chain_of[step.output].append(step)
    size = sharing.steps_per_job
    ends = ((chain, end) for chain in chains for end in reversed(range(len(chain), 0, -size)))
    return [chain[max(end - size, 0) : end] for chain, end in ends]


def as_json(steps: Sequence[Step], sharing: JobSharing) -> list[dict[str, Any]]:
    """Return steps in the form that the workflow reads: paths relative to ``ROOT``, commands as shell code.

    ``group`` names the job of a step that shares one, after the output of the job's last step; otherwise it is None.
    """
    groups = (group for group in job_groups(steps, sharing) if len(group) > 1)
    group_of = {step.output: below_root(group[-1].output).replace("/", "_") for group in groups for step in group}
    return [
        {
            "kind": step.kind,
            "gpus": step.gpus,
            "title": f"{step.title}: {Path(below_root(step.output)).parent}",
            "output": below_root(step.output),
            "inputs": [below_root(path) for path in step.inputs],
            "group": group_of.get(step.output),
            "command": command(step),
        }
        for step in steps
    ]


def below_root(path: str) -> str:
    """Return a path of a step without its leading ``$ROOT/``."""
    return path.removeprefix("$ROOT/")
