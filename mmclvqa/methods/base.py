"""The interface of a continual-learning method: hyperparameters, hooks, and the commands that run it.

A method is one class in one file::

    @register_method
    class L2(Method):
        \"\"\"Penalizes the distance to the weights that the previous task ended with.\"\"\"

        name = "l2"
        label = "L2"

        @dataclass(frozen=True)
        class Settings:
            weight: float = setting(0.1, "factor of the penalty")

        def on_task_start(self, trainer): ...
        def loss(self, trainer, report, loss): ...

``training.CL.method=l2`` selects it and ``training.CL.l2.weight=0.5`` sets its hyperparameter. A method that is not
part of this package is a file given as ``env.user_dir``. The keys of the published code (``training.trainer=CL``,
``reg_type=ewc``, ``replay_method=random``) select the same classes; see :mod:`mmclvqa.methods.selection`.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import OmegaConf

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.experiment_paths import MODEL
from mmclvqa.clove.tasks import Task
from mmclvqa.clove.text import SHELL_SPECIAL, did_you_mean, suggestion
from mmclvqa.value_kinds import fit

if TYPE_CHECKING:
    from torch import Tensor

    from mmclvqa.methods.replay import Replays
    from mmclvqa.training.trainer import Trainer

COMBINED_BY = "+"
"""Joins methods that run as one experiment, on the command line and in the names of folders and scripts."""
HOOK_SIMILARITY = 0.8
"""A function of a method whose name resembles that of a hook at least this much is an error; 1 means equal names."""

Legal = tuple[Callable[[Any], object], str]
"""A test of a hyperparameter's value, and a description of the values that pass."""
ABOVE_0: Legal = (lambda value: 0 < value < math.inf, "a number above 0")
AT_LEAST_0: Legal = (lambda value: 0 <= value < math.inf, "a number of at least 0")
SHARE: Legal = (lambda value: 0 <= value <= 1, "a number from 0 to 1")
POSITIVE_SHARE: Legal = (lambda value: 0 < value <= 1, "a number above 0 and at most 1")
COUNT: Legal = (lambda value: value >= 1 and value % 1 == 0, "a whole number above 0")

_registered: dict[str, type[Method]] = {}


def setting(default: Any, help: str, published: str | None = None, legal: Legal | None = None) -> Any:
    """Declare a hyperparameter in the ``Settings`` of a method.

    Args:
        default: value if the configuration does not set it.
        help: description, with the unit.
        published: key of ``training.CL`` that the published code uses for it, whose value is then the default.
        legal: its legal values; None means all.
    """
    return field(default=default, metadata={"help": help, "published": published, "legal": legal})


@dataclass(frozen=True)
class Stored:
    """What a method stores of earlier tasks; written to ``stored.json`` and shown in the comparison.

    Attributes:
        records: number of real records of earlier tasks.
        bytes: total size: pickled records, float32 region features of their images, importances.
        what: description.
    """

    records: int
    bytes: int
    what: str


@dataclass(frozen=True)
class StepContext:
    """One training run of an experiment, the input of :meth:`Method.overrides`.

    Attributes:
        setting: name of the setting.
        order: the task order as in file names, such as ``oarlks``.
        tasks: the tasks in learning order.
        index: position of the current task in ``tasks``.
        previous_dir: save folder of the previous task; None for the first task.
        root: the folder of experiments (``ROOT``).
        model: registered name of the answer model.
    """

    setting: str
    order: str
    tasks: Sequence[Task]
    index: int
    previous_dir: str | None
    root: str
    model: str = MODEL

    @property
    def task(self) -> Task:
        """The current task."""
        return self.tasks[self.index]


@dataclass(frozen=True)
class Step:
    """One program of an experiment.

    Attributes:
        kind: ``train``, ``srm``, ``evaluate`` or another kind; steps of a kind need the same resources.
        title: short description.
        program: start of the command.
        arguments: arguments of the command; an option with its value, such as ``--task_seq oarlks``, is one entry.
        output: path of the output file, which exists if and only if the step is finished.
        inputs: outputs of the steps that must run before.
        arguments_variable: name of an environment variable with further arguments of the command.
    """

    kind: str
    title: str
    program: tuple[str, ...]
    arguments: tuple[str, ...]
    output: str
    inputs: tuple[str, ...] = ()
    arguments_variable: str = "MMF_ARGS"

    @property
    def gpus(self) -> int:
        """Number of GPUs that the step uses."""
        return 0 if self.kind == "chance" else 1


class Method:
    """Base of the continual-learning methods; every hook is optional.

    A run builds one object for each selected method and calls their hooks in the order of registration. The class
    methods describe commands and folders of experiments, with ``settings``, an object of :class:`Settings`.

    Args:
        config: the whole configuration; ``config.training.CL`` holds the task order and the current task.

    Attributes:
        name: short name used in configurations, folders and tables.
        label: name in tables and figures.
        selected_by: keys of the published code, and their values, that select this method.
        steps: type of its experiments: ``sequence`` (each task starts from the weights of the previous task),
            ``single_task``, ``multitask`` or ``chance``.
        trains_first_task: whether the first task is trained in the folder of the experiment, because the method stores
            something for the second task; otherwise the single-task model of the first task is used.
        clips_gradients: whether :meth:`on_gradients` clips the gradients, so that the trainer does not.
        computes_gradients: whether the method computes gradients itself. It then cannot run with fp16, whose gradients
            underflow unless the loss is scaled as the training loop does.
        family: methods of the same family, if it is not empty, cannot be combined.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    selected_by: ClassVar[Mapping[str, Any]] = {}
    steps: ClassVar[str] = "sequence"
    trains_first_task: ClassVar[bool] = False
    clips_gradients: ClassVar[bool] = False
    computes_gradients: ClassVar[bool] = False
    family: ClassVar[str] = ""

    @dataclass(frozen=True)
    class Settings:
        """The hyperparameters; methods override this class."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.settings = self.read_settings(config.training.CL.get(self.name) or {})

    # -------------------------------------------------------------------------------- hooks of training

    def replays(self, root: str) -> Replays | None:
        """Return the records to add to the training records of the task; None if there are none.

        ``root`` is the data root.
        """
        return None

    def source_files(self, root: str) -> list[Path]:
        """Return the files of earlier tasks that the method reads, in learning order; they need not exist."""
        return []

    def on_task_start(self, trainer: Trainer) -> None:
        """Prepare training on a task; data sets, model, optimizer and initial weights exist.

        Invalid settings should raise an error here, before the first update. When a run resumes, this is called again.
        """

    def loss(self, trainer: Trainer, report: Any, loss: Tensor) -> Tensor:
        """Return the loss to minimize on a batch.

        Args:
            trainer: the running trainer.
            report: the batch and the model's output in one mapping.
            loss: loss of the task, 0-dim, plus the terms of methods that were called before.
        """
        return loss

    def on_gradients(self, trainer: Trainer) -> None:
        """Change the gradients of an update in place, when they are complete and before they are clipped."""

    def after_step(self, trainer: Trainer) -> None:
        """Run after the optimizer step, while ``trainer.optimizer`` still has the learning rates of this update."""

    def on_task_end(self, trainer: Trainer) -> None:
        """Store data for the next task; the network has its final weights, which are written afterwards.

        If the run is killed during this call, it is called again when the run resumes.
        """

    def stored(self) -> Stored | None:
        """Return what is stored of earlier tasks, None for nothing; called after :meth:`on_task_end`."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""

    # ------------------------------------------------------------------------- commands of experiments

    @classmethod
    def overrides(cls, settings: Settings, step: StepContext) -> list[str]:
        """Return the configuration overrides of a training run, except config, model, data set and folders."""
        overrides = ["training.CL.use_cl=True", f"training.CL.method={cls.name}"]
        overrides += cls.setting_overrides(settings)
        overrides.append(f"training.CL.task_order={step.order}")
        if step.previous_dir is not None:
            overrides.append(f"training.CL.previous_dir={step.previous_dir}")
        return overrides

    @classmethod
    def setting_overrides(cls, settings: Settings, without: Container[str] = ()) -> list[str]:
        """Return the overrides of changed settings, except those with a published key in ``without``."""
        published = {one.name: one.metadata.get("published") for one in fields(settings)}
        changed = changed_settings(settings).items()
        return [f"training.CL.{cls.name}.{key}={value}" for key, value in changed if published[key] not in without]

    @classmethod
    def preparation(cls, settings: Settings, setting_name: str, order: str, root: str) -> Step | None:
        """Return the program that must run before the second task; None if there is none.

        Args:
            setting_name: name of the setting.
            order: the task order.
            root: the folder of experiments (``ROOT``).
        """
        return None

    @classmethod
    def evaluation_overrides(cls, settings: Settings, model: str) -> list[str]:
        """Return additional overrides for evaluation of the method's checkpoints with an answer model."""
        return []

    @classmethod
    def experiment(cls, settings: Settings) -> str:
        """Return the name of the experiment's folder, which includes settings that differ from their defaults."""
        return cls.name + folder_suffix(changed_settings(settings))

    @classmethod
    def script_name(cls, settings: Settings) -> str:
        """Return the part of a run script's name that states the method: by default, the name of the folder."""
        return cls.experiment(settings)

    @classmethod
    def parse_experiment(cls, experiment: str) -> str | None:
        """Return the label for an experiment's folder name; None if the folder is not of this method."""
        pattern = re.escape(cls.name) + suffix_pattern(one.name for one in fields(cls.Settings))
        match = re.fullmatch(pattern, experiment)
        if match is None:
            return None
        changed = ", ".join(stated_settings(match))
        return f"{cls.label} ({changed})" if changed else cls.label

    @classmethod
    def short_label(cls, experiment: str) -> str:
        """Return the short label, for the axis of a figure, for a folder name of this method."""
        return cls.parse_experiment(experiment) or cls.label

    @classmethod
    def read_settings(cls, values: Mapping[str, Any]) -> Settings:
        """Build ``Settings`` from a mapping.

        Raises:
            ConfigError: a key is not a setting of the method, or a value is illegal or not of the declared type.
        """
        declared = {one.name: one for one in fields(cls.Settings)}
        fitting = {}
        for name, value in values.items():
            key = f"training.CL.{cls.name}.{name}"
            if name not in declared:
                raise ConfigError(f"{key}: {cls.name} has no such setting{did_you_mean(name, declared)}")
            if OmegaConf.is_config(values) and OmegaConf.is_interpolation(values, name):
                key = f"training.CL.{declared[name].metadata['published']}"
            fitting[name] = fit(key, value, _kind(declared[name]))
            if needed := _needed(declared[name], fitting[name]):
                raise ConfigError(f"{key}={'null' if value is None else value}: it must be {needed}")
        return cls.Settings(**fitting)

    @classmethod
    def default_config(cls) -> dict[str, Any]:
        """Return the node ``training.CL.<name>``: the default of each setting, or a reference to its published key."""
        return {
            one.name: f"${{training.CL.{one.metadata['published']}}}" if one.metadata.get("published") else one.default
            for one in fields(cls.Settings)
        }


def register_method(cls: type[Method]) -> type[Method]:
    """Register a method under its ``name`` (class decorator).

    Raises:
        ConfigError: the class has no name or label, its ``Settings`` are not a dataclass, the name belongs to another
            class, or a function of the class has almost the name of a hook, which would never be called.
    """
    for attribute in ("name", "label"):
        if not isinstance(getattr(cls, attribute, None), str):
            raise ConfigError(f"{cls.__module__}.{cls.__name__}: a method needs a class attribute {attribute!r}")
    if not is_dataclass(cls.Settings):
        where = f"{cls.__module__}.{cls.__name__}.Settings"
        raise ConfigError(f"{where}: it must be a dataclass; add @dataclass(frozen=True)")
    _check_hook_names(cls)
    other = _registered.get(cls.name)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(
            f"{cls.__module__}.{cls.__name__}: another method is named {cls.name!r} already "
            f"({other.__module__}.{other.__name__})"
        )
    _make_distinct(cls)
    _registered[cls.name] = cls
    return cls


def _make_distinct(cls: type[Method]) -> None:
    """Give a subclass of a registered method commands and folders of its own.

    What it inherits would select that method, in its folder: keys of the published code, folder and script names, and
    labels. Inherited overrides are kept, but select this class by its name and state all its settings.
    """
    mro = cls.__mro__
    parent = next((one for one in mro[1:] if one in _registered.values()), None)
    if parent is None:
        return
    own = {name for one in mro[: mro.index(parent)] for name in vars(one)}
    for name in {"selected_by", "experiment", "parse_experiment", "script_name", "short_label"} - own:
        setattr(cls, name, vars(Method)[name])
    if "overrides" in own or parent.overrides.__func__ is Method.overrides.__func__:
        return
    selecting = {key for one in _registered.values() for key in one.selected_by}

    def overrides(cls: type[Method], settings: Any, step: StepContext) -> list[str]:
        words = [w for w in parent.overrides.__func__(cls, settings, step) if w.partition("=")[0] not in selecting]
        words += Method.overrides.__func__(cls, settings, step)
        for one in fields(settings):
            value = getattr(settings, one.name)
            words.append(f"training.CL.{cls.name}.{one.name}={'null' if value is None else value}")
        return list(dict.fromkeys(words))

    cls.overrides = classmethod(overrides)


def _check_hook_names(cls: type[Method]) -> None:
    """Refuse public functions with almost the name of a hook, or its prefix: they would never be called."""
    hooks = [name for name, value in vars(Method).items() if inspect.isfunction(value) and name[0] != "_"]
    for name, value in vars(cls).items():
        if not inspect.isfunction(value) or hasattr(Method, name) or name.startswith("_"):
            continue
        similar = difflib.get_close_matches(name, hooks, cutoff=HOOK_SIMILARITY)
        if similar or name.startswith(("on_", "after_", "before_")):
            hint = suggestion(similar) or f"; the hooks are {', '.join(hooks)};"
            raise ConfigError(
                f"{cls.__module__}.{cls.__name__}.{name}: there is no such hook{hint} A function that is not "
                "a hook needs another name, or an underscore before it"
            )


def registered_methods() -> dict[str, type[Method]]:
    """Return all registered methods by name, in the order of registration."""
    return dict(_registered)


def find_method(name: str, key: str = "method") -> type[Method]:
    """Return the method with a name; ``key`` is the option that has this value, for the error message.

    Raises:
        ConfigError: no method has this name.
    """
    if name not in _registered:
        legal = f"{did_you_mean(name, _registered)}; expected one of: {', '.join(_registered)}"
        raise ConfigError(f"{key}={name}: there is no such method{legal}")
    return _registered[name]


def parse_method(text: str) -> tuple[type[Method], Any]:
    """Parse a method with settings, such as ``ewc:reg_lambda=1e5``, into its class and its ``Settings``.

    Raises:
        ConfigError: the method or a setting is unknown, a setting is given twice, or a value is illegal.
    """
    name, _, assignments = text.partition(":")
    cls = find_method(name)
    declared = {one.name: one for one in fields(cls.Settings)}
    values = {}
    for assignment in filter(None, assignments.split(",")):
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"{text}: {assignment!r} is not of the form setting=value")
        if key not in declared:
            raise ConfigError(f"{text}: {name} has no setting {key!r}{did_you_mean(key, declared)}")
        if key in values:
            raise ConfigError(f"{text}: {key} is given more than once; keep one value")
        values[key] = _parse_value(text, value, declared[key])
        if needed := _needed(declared[key], values[key]):
            raise ConfigError(f"{text}: {key} must be {needed}")
        if special := SHELL_SPECIAL & set(value):
            raise ConfigError(f"{text}: {key}: commands cannot contain {min(special)!r}; choose another value")
    return cls, cls.read_settings(values)


def changed_settings(settings: Any) -> dict[str, Any]:
    """Return the settings whose values differ from their defaults."""
    return {one.name: getattr(settings, one.name) for one in fields(settings)
            if getattr(settings, one.name) != one.default}  # fmt: skip


def folder_suffix(values: Mapping[str, Any]) -> str:
    """Return the end of a folder name that states settings, such as ``_reg_lambda_1e5``."""
    return "".join(f"_{key}_{_folder_value(value)}" for key, value in values.items())


def suffix_pattern(keys: Iterable[str]) -> str:
    """Return a regular expression for :func:`folder_suffix`, with a named group for the value of each key."""
    return "".join(f"(?:_{key}_(?P<{key}>.+?))?" for key in keys)


def stated_settings(match: re.Match[str], keys: Iterable[str] | None = None) -> list[str]:
    """Return the settings that a folder name states, such as ``reg_lambda 1e5``.

    ``match`` is of an expression that contains :func:`suffix_pattern`; ``keys`` are its groups, None for all groups.
    """
    return [f"{key} {match[key]}" for key in keys or match.groupdict() if match[key] is not None]


def _needed(declared: Field, value: Any) -> str | None:
    """Return what the value of a setting must be, None if it is legal. Null is legal where it is the default."""
    is_legal, what = declared.metadata.get("legal") or (lambda _: True, "a value other than null")
    if declared.default is None if value is None else is_legal(value):
        return None
    return f"{what}, or null" if declared.default is None else what


def _kind(declared: Field) -> Any:
    """Return a value of the type of a setting; None if that is not a number and the default is null."""
    default, annotation = declared.default, str(declared.type)
    if default is None or type(default) is int:
        return 0.0 if "float" in annotation else 0 if "int" in annotation else default
    return default


def _parse_value(text: str, value: str, declared: Field) -> Any:
    kind, default = _kind(declared), declared.default
    if isinstance(kind, bool):
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{text}: {declared.name} must be true or false")
        return value.lower() == "true"
    if default is None and value == "null":
        return None
    if isinstance(kind, str | None):
        return value
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"{text}: {declared.name} must be a number") from None
    return int(number) if isinstance(default, int | None) and number.is_integer() else number


def _folder_value(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    text = f"{value:g}" if float(f"{value:g}") == value else str(value)
    return text.replace("e+0", "e").replace("e+", "e")
