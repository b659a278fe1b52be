"""Combinations of methods in the commands of experiments, such as ``ewc:reg_lambda=1e5+random``.

``training.CL.method=ewc,random`` combines methods in one training run. Scripts, workflow and comparison run a
combination as one method: its overrides are those of its parts, and the name of its folder is that of its parts, joined
by ``+``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmclvqa.clove.errors import ConfigError
from mmclvqa.methods.base import COMBINED_BY, Method, Step, StepContext, parse_method, registered_methods
from mmclvqa.methods.selection import METHOD, check_combination

_BETWEEN_METHODS = re.compile(r"\+(?=[A-Za-z_])")  # and not the sign of an exponent


class Combination(Method):
    """Base of the combinations, which exist only in the commands of experiments.

    Attributes:
        parts: the methods, in the order of registration.
    """

    parts: tuple[type[Method], ...]

    @dataclass(frozen=True)
    class Settings:
        """The ``Settings`` of each part; without any, its defaults."""

        parts: tuple[Any, ...] = ()

    @classmethod
    def _pairs(cls, settings: Settings) -> list[tuple[type[Method], Any]]:
        return list(zip(cls.parts, settings.parts or (part.Settings() for part in cls.parts), strict=True))

    @classmethod
    def overrides(cls, settings: Settings, step: StepContext) -> list[str]:
        """Return the overrides of all parts; those that select a part by its name become one.

        Raises:
            ConfigError: two parts need different values of a key.
        """
        values: dict[str, str] = {}
        for part, own in cls._pairs(settings):
            for override in part.overrides(own, step):
                key, _, value = override.partition("=")
                if key == METHOD and key in values:
                    value = f"{values[key]},{value}"
                elif values.get(key, value) != value:
                    raise ConfigError(f"method={cls.name}: {part.name} needs {override}, not {key}={values[key]}")
                values[key] = value
        return [f"{key}={value}" for key, value in values.items()]

    @classmethod
    def preparation(cls, settings: Settings, setting_name: str, order: str, root: str) -> Step | None:
        """Return the preparation of the part that has one; only SRM has."""
        steps = (part.preparation(own, setting_name, order, root) for part, own in cls._pairs(settings))
        return next(filter(None, steps), None)

    @classmethod
    def evaluation_overrides(cls, settings: Settings, model: str) -> list[str]:
        """Return the overrides of all parts."""
        return [word for part, own in cls._pairs(settings) for word in part.evaluation_overrides(own, model)]

    @classmethod
    def experiment(cls, settings: Settings) -> str:
        """Return the folder names of the parts, joined by ``+``."""
        return COMBINED_BY.join(part.experiment(own) for part, own in cls._pairs(settings))

    @classmethod
    def script_name(cls, settings: Settings) -> str:
        """Return the names of the parts in script names, joined by ``+``."""
        return COMBINED_BY.join(part.script_name(own) for part, own in cls._pairs(settings))

    @classmethod
    def parse_experiment(cls, experiment: str) -> str | None:
        """Return the labels of the parts; None if the folder is not of this combination."""
        return cls._labels(experiment, "parse_experiment")

    @classmethod
    def short_label(cls, experiment: str) -> str:
        """Return the short labels of the parts."""
        return cls._labels(experiment, "short_label") or cls.label

    @classmethod
    def _labels(cls, experiment: str, function: str) -> str | None:
        names = experiment.split(COMBINED_BY)
        if [method_of_experiment(name) for name in names] != list(cls.parts):
            return None
        labels = (getattr(part, function)(name) for part, name in zip(cls.parts, names, strict=True))
        return f" {COMBINED_BY} ".join(labels)


@functools.cache
def combination(parts: tuple[type[Method], ...]) -> type[Combination]:
    """Return the combination of some methods in the order of registration; equal methods give the same class."""
    content = {
        "__doc__": "A combination of methods.",
        "parts": parts,
        "name": COMBINED_BY.join(part.name for part in parts),
        "label": f" {COMBINED_BY} ".join(part.label for part in parts),
        "trains_first_task": any(part.trains_first_task for part in parts),
    }
    return type("Combination", (Combination,), content)


def parse_methods(text: str) -> tuple[type[Method], Any]:
    """Parse a method or a combination, such as ``ewc:reg_lambda=1e5+random``, into its class and its ``Settings``.

    Raises:
        ConfigError: see :func:`mmclvqa.methods.base.parse_method`, or the methods cannot be combined.
    """
    words = _BETWEEN_METHODS.split(text)
    if len(words) == 1:
        return parse_method(text)
    order = list(registered_methods().values())
    pairs = sorted((parse_method(word) for word in words), key=lambda pair: order.index(pair[0]))
    parts = tuple(part for part, _ in pairs)
    _check(text, parts)
    return combination(parts), Combination.Settings(tuple(own for _, own in pairs))


def names_in(text: str) -> set[str]:
    """Return the names of the methods in the text of a method or a combination."""
    return {word.partition(":")[0] for word in _BETWEEN_METHODS.split(text)}


def _check(text: str, parts: Sequence[type[Method]]) -> None:
    for part in parts:
        if part.steps != "sequence" or part.name == "ft":
            raise ConfigError(f"method={text}: {part.name} cannot be combined")
        if parts.count(part) > 1:
            raise ConfigError(f"method={text}: {part.name} is given more than once")
    check_combination(parts)


def method_of_experiment(experiment: str) -> type[Method] | None:
    """Return the method or combination to which an experiment's folder name belongs; None if there is none."""
    names = experiment.split(COMBINED_BY)
    parts = tuple(method_of_experiment(name) for name in names) if len(names) > 1 else (None,)
    if None not in parts:
        return combination(parts)
    return next((cls for cls in registered_methods().values() if cls.parse_experiment(experiment) is not None), None)
