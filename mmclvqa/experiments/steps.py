"""The steps of an experiment with their commands, inputs and outputs.

Shell scripts and the workflow are both rendered from this description. A step is finished if and only if its output
file exists and is not empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmclvqa.clove import experiment_paths as places
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.settings import Task, order_text
from mmclvqa.clove.tasks import find_setting, order_index, parse_order, setting_argument
from mmclvqa.methods.base import COMBINED_BY, Method, Step, StepContext, registered_methods
from mmclvqa.methods.combination import names_in, parse_methods

CHECKPOINT_INTERVAL = 4000
"""Checkpoint interval, in updates, of the published commands."""
DEFAULT_METHODS = (
    "chance", "ft", "ewc", "mas", "gem:gem_memory_batch=32", "agem", "random:replay_rate=0.1",
    "random:replay_rate=0.02", "random:replay_rate=0.02,mask_images=true", "kmeans", "srm", "multitask",
)  # fmt: skip
"""The methods of the comparison. GEM on all records of its memories, as in its paper, takes days on CLOVE."""
SRM_RATES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.2, 1.5)
"""Replays per real record in the published experiments."""


@dataclass(frozen=True)
class Experiment:
    """A method with its hyperparameters on a task order of a setting; the order is written as in file names."""

    setting: str
    order: str
    method: type[Method]
    settings: Any
    model: str = places.MODEL

    @classmethod
    def of(cls, setting: str, order: str, method: str, model: str = places.MODEL) -> Experiment:
        """Return the experiment of a method in command-line form (``ewc:reg_lambda=1e5``, ``ewc+random``).

        Raises:
            ConfigError: the method or one of its settings is unknown, or a value is illegal.
            TaskError: the setting is unknown, or the task order is illegal.
        """
        found, name = find_setting(setting), method.partition(":")[0]
        if "," in name:
            combined = f"or combine them: {name.replace(',', COMBINED_BY)}"
            raise ConfigError(f"method={name}: separate methods by spaces: {name.replace(',', ' ')}; {combined}")
        try:
            parsed = parse_methods(method)
        except ConfigError as error:
            known = registered_methods().keys() >= names_in(method)
            own = "" if known else "; --user_dir FILE adds your own"
            raise ConfigError(f"{error}{own}") from None
        return cls(found.name, order_text(found.parse_order(order)), *parsed, model)

    @property
    def name(self) -> str:
        """Name of the experiment's folder."""
        return self.method.experiment(self.settings)

    @property
    def title(self) -> str:
        """Readable name of the method with its settings."""
        return self.method.parse_experiment(self.name) or self.method.label

    @property
    def tasks(self) -> list[Task]:
        """The tasks in learning order."""
        return parse_order(self.setting, self.order)


def experiment_steps(experiment: Experiment, root: str = "$ROOT", config: str = "$CONFIG") -> list[Step]:
    """Return the steps of an experiment in a valid order of execution.

    ``root`` and ``config`` are the folders of experiments and of configuration files, or variables that hold them.
    """
    return list(_STEPS[experiment.method.steps](experiment, root, config))


def result_file(experiment: Experiment, root: str = "$ROOT") -> str:
    """Return the result file of an experiment, which is the output of its last step."""
    save = f"{root}/{places.SAVE}"
    kind = experiment.method.steps
    if kind == "chance":
        return f"{save}/chance/{experiment.setting}.json"
    if kind == "multitask":
        folder = places.multitask_evaluation_folder(experiment.setting, save, experiment.model)
    else:
        folder = places.evaluation_folder(experiment.setting, experiment.order, experiment.name, save, experiment.model)
    return f"{folder}/sweep.json"


def _sequence(experiment: Experiment, root: str, config: str) -> Iterator[Step]:
    method, settings, tasks, model = experiment.method, experiment.settings, experiment.tasks, experiment.model
    save = f"{root}/{places.SAVE}"
    single = places.stand_alone_folder(experiment.setting, save)
    run = places.run_folder(experiment.setting, experiment.order, experiment.name, save)
    preparation = method.preparation(settings, experiment.setting, experiment.order, root)
    previous: str | None = None
    for index, task in enumerate(tasks):
        own = index > 0 or method.trains_first_task
        folder = f"{run if own else single}/{places.task_folder(task, model)}"
        overrides: list[str] = []
        if own:
            step = StepContext(experiment.setting, experiment.order, tasks, index, previous, root, model)
            overrides = method.overrides(settings, step)
        inputs = [] if previous is None else [places.final_weights(previous, model)]
        if index == 1 and preparation is not None:
            yield preparation
        if index > 0 and preparation is not None:
            inputs.append(preparation.output)
        yield _training(model, config, task, folder, overrides, previous, tuple(inputs))
        previous = folder
    yield _evaluation(experiment, root, places.final_weights(previous, model), test_reg=method.trains_first_task)


def _single_task(experiment: Experiment, root: str, config: str) -> Iterator[Step]:
    single, model = places.stand_alone_folder(experiment.setting, f"{root}/{places.SAVE}"), experiment.model
    folders = [f"{single}/{places.task_folder(task, model)}" for task in experiment.tasks]
    for task, folder in zip(experiment.tasks, folders, strict=True):
        yield _training(model, config, task, folder, [], None, ())
    weights = (places.final_weights(folder, model) for folder in folders)
    yield _evaluation(experiment, root, *weights, test_stand_alone=True)


def _multitask(experiment: Experiment, root: str, config: str) -> Iterator[Step]:
    save, model = f"{root}/{places.SAVE}", experiment.model
    folder = places.multitask_folder(experiment.setting, save, model)
    arguments = _mmf_words(model, experiment.setting, config, None, [], None, folder)
    weights = places.final_weights(folder, model)
    yield Step("multitask", "train on all tasks at once", ("mmf_run",), arguments, weights)
    call = (
        f"test_multi_task(device='$DEVICE', cl_setting='{setting_argument(experiment.setting)}', model_name='{model}', "
        f"save_dir='{root}/exp/clvqa')"
    )
    yield _evaluation_step("evaluate the multitask model", call, result_file(experiment, root), (weights,))


def _chance(experiment: Experiment, root: str, config: str) -> Iterator[Step]:
    output = result_file(experiment, root)
    arguments = ("chance", f"--cl_setting {setting_argument(experiment.setting)}", f"--json {output}")
    yield Step("chance", "compute the chance level", ("python", "eval_os.py"), arguments, output, arguments_variable="")


_STEPS = {"sequence": _sequence, "single_task": _single_task, "multitask": _multitask, "chance": _chance}


def _training(
    model: str, config: str, task: Task, folder: str, overrides: list[str], previous: str | None,
    inputs: tuple[str, ...],
) -> Step:  # fmt: skip
    arguments = _mmf_words(model, task.setting, config, task, overrides, previous, folder)
    return Step("train", f"train {task.name}", ("mmf_run",), arguments, places.final_weights(folder, model), inputs)


def _mmf_words(
    model: str, setting: str, config: str, task: Task | None, overrides: list[str], previous: str | None, folder: str
) -> tuple[str, ...]:
    """Return the overrides of a training run in the order of the published commands."""
    file, *selected = places.task_configuration(setting, config, task)
    start = [] if previous is None else [f"checkpoint.resume_file={places.final_weights(previous, model)}"]
    return (
        file, f"model={model}", "dataset=clvqa", *selected, *overrides, "run_type=train_val", *start,
        f"env.save_dir={folder}", f"training.checkpoint_interval={CHECKPOINT_INTERVAL}", "training.callbacks=[]",
        "checkpoint.resume=True",
    )  # fmt: skip


def _evaluation(
    experiment: Experiment, root: str, *inputs: str, test_stand_alone: bool = False, test_reg: bool = False
) -> Step:
    """Return the evaluation of a task order, called as in the published scripts."""
    call = (
        f"stage_sweep(cl_setting='{setting_argument(experiment.setting)}', "
        f"setting_idx={order_index(experiment.setting, experiment.order)}, abbr_seq='{experiment.order}', "
        f"device='$DEVICE', model_name='{experiment.model}', save_dir='{root}/exp/clvqa', val_exp='{experiment.name}', "
        f"test_stand_alone={test_stand_alone}, test_reg={test_reg})"
    )
    return _evaluation_step("evaluate every model on every task", call, result_file(experiment, root), inputs)


def _evaluation_step(title: str, call: str, output: str, inputs: tuple[str, ...]) -> Step:
    code = f"from eval_os import *; {call}"
    return Step("evaluate", title, ("python", "-c"), (code,), output, inputs, arguments_variable="")
