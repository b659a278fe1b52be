"""Selection of the methods of a run, by name or by the keys of the published code.

``training.CL.method=<name>[,<name>]`` selects by name. The keys of the published code select the same classes; each
class lists its keys in ``selected_by``. This module also checks that these keys do not contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.tasks import ALL_TASKS
from mmclvqa.clove.text import did_you_mean
from mmclvqa.methods.base import Method, find_method, registered_methods
from mmclvqa.methods.replay import order_position

REG_TYPE = "training.CL.reg_type"
REPLAY_METHOD = "training.CL.replay_method"
GEM_VARIANT = "training.CL.gem_variant"
METHOD = "training.CL.method"
PULLING_OPTIMIZERS = ("weight_reg_adamw", "weight_reg_sgd")
"""Values of ``optimizer.type`` with which the published code regularizes: AdamW and SGD."""


def select_methods(config: Any) -> list[Method]:
    """Build the methods that a configuration selects, or fine-tuning if it selects none.

    Raises:
        ConfigError: a name or value is unknown, keys contradict each other, or a setting is invalid.
    """
    _check_published_keys(config)
    named = [find_method(name, METHOD) for name in _names(config.training.CL.get("method"))]
    selected = [
        cls
        for cls in registered_methods().values()
        if cls in named or (cls.selected_by and all(_matches(config, *item) for item in cls.selected_by.items()))
    ]
    check_combination(selected, OmegaConf.select(config, "training.precision"))
    return [cls(config) for cls in selected or [find_method("ft")]]


def check_overrides(config: Any, overrides: Mapping[str, Any]) -> list[str]:
    """Check the overrides (dotted key -> value, already merged in ``config``) that select or set up methods.

    Returns:
        Warnings about published keys that name a method but do not select it, because another key is missing. Files are
        not checked: the published ones have such keys.

    Raises:
        ConfigError: a hyperparameter is set by both of its keys, to different values.
    """
    lines = []
    for name, cls in registered_methods().items():
        for one in fields(cls.Settings):
            keys = [f"training.CL.{name}.{one.name}", f"training.CL.{one.metadata.get('published')}"]
            values = [overrides[key] for key in keys if key in overrides]
            if len(values) == 2 and values[0] != values[1]:
                texts = ["null" if value is None else value for value in values]
                both = " and ".join(f"{key}={text}" for key, text in zip(keys, texts, strict=True))
                raise ConfigError(f"{both} contradict each other: both set the same hyperparameter; leave one out")
        missing = [f"{key}={legal}" for key, legal in cls.selected_by.items() if not _matches(config, key, legal)]
        if missing and name not in _names(config.training.CL.get("method")):
            for key in {REG_TYPE, REPLAY_METHOD} & cls.selected_by.keys() & overrides.keys():
                if _matches(config, key, cls.selected_by[key]):
                    lines.append(f"{key}={overrides[key]} has no effect without {' and '.join(missing)}")
    return lines


def selection_warnings(config: Any, methods: list[Method], has_start: bool, defaults: Mapping[str, Any]) -> list[str]:
    """Return warnings about settings without effect, and about a later task that starts from the initial weights.

    Args:
        config: the whole configuration.
        methods: the methods of the run.
        has_start: whether the run starts from a checkpoint.
        defaults: the default of each published key of ``training.CL``.

    Raises:
        ConfigError, TaskError: ``task_order`` is given, but it or the task is unknown.
    """
    settings, selected = config.training.CL, [method.name for method in methods]
    used = {one.metadata.get("published") for method in methods for one in fields(method.Settings)}
    unused: dict[str, tuple[Any, Any]] = {}  # key -> value and default
    for name, cls in registered_methods().items():
        for one in fields(cls.Settings) if name not in selected else ():
            published = one.metadata.get("published")
            unused[f"{name}.{one.name}"] = settings[name][one.name], settings[published] if published else one.default
            if published and published not in used:
                unused[published] = settings[published], defaults[published]
    effect = f"has no effect: the methods of this run are {', '.join(selected)}"
    lines = [f"training.CL.{key}={value} {effect}" for key, (value, default) in unused.items() if value != default]
    if settings.task_order and settings.cur_task not in (None, "", ALL_TASKS) and not has_start:
        position = order_position(settings, "training.CL.task_order")
        if position.earlier:
            lines.append(
                f"{position.current.name} is task {len(position.earlier) + 1} of the order but starts from the initial "
                "weights; checkpoint.resume_file=<final weights of the task before> continues from them"
            )
    return lines


def check_combination(methods: Sequence[type[Method]], precision: str | None = None) -> None:
    """Check that methods can be combined, and that they run in a precision.

    Raises:
        ConfigError: they cannot.
    """
    for number, method in enumerate(methods):
        for other in methods[:number]:
            if method.family and method.family == other.family:
                names = f"{other.name} and {method.name}"
                raise ConfigError(f"methods {names} cannot be combined: both are {method.family}s")
        if method.computes_gradients and precision == "fp16":
            raise ConfigError(f"training.precision=fp16 does not work with method {method.name}; use fp32 or bf16")


def method_defaults() -> dict[str, Any]:
    """Return ``{"training": {"CL": {name: settings}}}`` with the defaults of all methods that have settings."""
    nodes = {name: cls.default_config() for name, cls in registered_methods().items()}
    return {"training": {"CL": {name: node for name, node in nodes.items() if node}}}


def _names(value: str | None) -> list[str]:
    return [name.strip() for name in (value or "").split(",") if name.strip()]


def _matches(config: Any, key: str, legal: Any) -> bool:
    value = OmegaConf.select(config, key)
    return value in legal if isinstance(legal, tuple) else value == legal


def _legal_values(key: str) -> list[str]:
    """Return all values of a published key that select a method, in the order of registration."""
    legal = [cls.selected_by[key] for cls in registered_methods().values() if key in cls.selected_by]
    return list(dict.fromkeys(value for one in legal for value in (one if isinstance(one, tuple) else [one])))


def _require_legal(key: str, value: Any, legal: Iterable[str]) -> None:
    legal = list(legal)
    if value not in legal:
        raise ConfigError(f"{key}={value}: expected one of: {', '.join(legal)}{did_you_mean(str(value), legal)}")


def _check_published_keys(config: Any) -> None:
    training, settings = config.training, config.training.CL
    if training.trainer == "CL":
        _require_legal(REG_TYPE, settings.reg_type, sorted(_legal_values(REG_TYPE)))
        if config.optimizer.type not in PULLING_OPTIMIZERS:
            raise ConfigError(
                f"optimizer.type={config.optimizer.type}: training.trainer=CL needs {' or '.join(PULLING_OPTIMIZERS)}"
            )
    if settings.use_replay and not settings.use_cl:
        raise ConfigError("training.CL.use_replay=True needs training.CL.use_cl=True")
    if training.trainer == "GEM":
        _require_legal(GEM_VARIANT, settings.gem_variant, _legal_values(GEM_VARIANT))
        if settings.replay_method != "gem" or not settings.use_replay:
            raise ConfigError(
                f"training.CL.replay_method={settings.replay_method}: training.trainer=GEM needs "
                "training.CL.use_replay=True and replay_method=gem"
            )
    elif settings.use_replay:
        if settings.replay_method == "gem":
            raise ConfigError(
                f"training.CL.replay_method=gem needs training.trainer=GEM (it is {training.trainer}): "
                "otherwise the memories are not used"
            )
        _require_legal(REPLAY_METHOD, settings.replay_method, _legal_values(REPLAY_METHOD))
