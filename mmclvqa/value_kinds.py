"""Checks of configuration values: the type of the default, limits of numbers, and registered names."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.text import did_you_mean, first_of

KINDS_OF_NULL: dict[str, Any] = {
    "learning_rate": 0.0,
    "training.max_epochs": 0,
    "training.batch_size_per_device": 0,
    "training.eval_batch_size": 0,
    "training.CL.gem_memory_batch": 0,
    "model_config.unicl.ocr.mmt_in_dim": 0,
    "model_config.unicl.classifier.initial_bias": 0.0,
    "model_config.unicl.classifier.ocr_ptr_net.hidden_size": 0,
    "model_config.unicl.classifier.ocr_ptr_net.query_key_size": 0,
}
"""A value of the type of each number whose default is null; all other keys whose default is null take text."""

NULLABLE = (
    "training.seed", "training.max_updates", "training.*_interval", "training.max_grad_l2_norm", "training.CL.*",
)  # fmt: skip
"""Numbers and texts that may be null although their default is not."""

NULLABLE_TEXTS = ("scheduler.type", "model_config.*", "dataset_config.*.processors.*")
"""Further texts that may be null."""

LISTED_NAMES = 10
"""Number of registered names that an error message lists."""

MAX_DECODING_STEPS = 100
"""Number of position embeddings of UniVQA's decoder (M4C)."""

LIMITS: dict[str, tuple[int, float]] = {
    "training.seed": (-1, 2**32 - 1),
    "training.num_workers": (0, math.inf),
    "training.max_updates": (0, math.inf),
    "training.max_epochs": (0, math.inf),
    "training.batch_size": (1, math.inf),
    "training.batch_size_per_device": (1, math.inf),
    "training.eval_batch_size": (1, math.inf),
    "training.update_frequency": (1, math.inf),
    "training.*_interval": (0, math.inf),
    "training.max_grad_l2_norm": (0, math.inf),
    "model_config.unicl.text_bert.num_hidden_layers": (0, math.inf),
    "model_config.unicl.mmt.num_hidden_layers": (1, math.inf),
    "model_config.unicl.*.num_attention_heads": (1, math.inf),
    "model_config.unicl.*_size": (1, math.inf),
    "model_config.unicl.*_dim": (1, math.inf),
    "model_config.unicl.*.max_position_embeddings": (1, math.inf),
    "model_config.unicl.*dropout_prob": (0, 1),
    "*.initializer_range": (0, math.inf),
    "*.ocr_max_num": (0, math.inf),
    "dataset_config.*.mask_img_prob": (0, 1),
    "dataset_config.*.max_length": (0, math.inf),
    "dataset_config.*.max_copy_steps": (1, MAX_DECODING_STEPS),
    "*.max_seq_length": (2, math.inf),
}
"""The smallest and largest allowed values of numbers, by patterns of keys; the first pattern that matches counts."""


def fit_default(key: str, value: Any, default: Any, text: str, source: str = "") -> Any:
    """Convert the value of a key of this project to the type of its default.

    Args:
        text: the value as the user wrote it.
        source: prefix of error messages that names the file of the value.

    Raises:
        ConfigError: the value cannot be converted or exceeds a limit.
    """
    kind = KINDS_OF_NULL.get(key, "") if default is None else default
    if value is None and (what := _needed(key, default)):
        raise ConfigError(f"{source}{key}={text}: it must be {what}")
    value = fit(f"{source}{key}", value, kind, text)
    limits = next((LIMITS[pattern] for pattern in LIMITS if fnmatch.fnmatchcase(key, pattern)), None)
    if limits and is_number(value) and not limits[0] <= value <= limits[1]:
        what = "a whole number" if isinstance(kind, int) else "a number"
        end = "" if limits[1] == math.inf else f" and at most {limits[1]}"
        raise ConfigError(f"{source}{key}={text}: it must be {what} of at least {limits[0]}{end}")
    return value


def fit(key: str, value: Any, kind: Any, text: str | None = None) -> Any:
    """Convert a value to the type of another value.

    A whole number may be written as ``2.0``, and a number may stand for text. Text is split at commas where a list is
    expected, and a list is joined by commas where text is expected. Null and interpolations are returned unchanged.

    Args:
        kind: a value of the expected type; None accepts any.
        text: the value as the user wrote it; None means ``str(value)``.

    Raises:
        ConfigError: the value cannot be converted.
    """
    text = str(value) if text is None else text
    if value is None or kind is None or (isinstance(value, str) and value.startswith("${")):
        return value
    if isinstance(kind, bool):
        fits, what = value in (True, False), "true or false"
        value = bool(value)
    elif isinstance(kind, int):
        fits, what = is_number(value) and value % 1 == 0, "a whole number"
        value = int(value) if fits else value
    elif isinstance(kind, float):
        fits, what = is_number(value), "a number"
    elif isinstance(kind, str):
        fits, what = not isinstance(value, Mapping), "a text"
        value = ",".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else text
    elif isinstance(kind, Mapping):
        fits, what = isinstance(value, Mapping), _group(kind)
    else:
        value = _entries(value)
        fits, what = not kind or not is_number(kind[0]) or all(map(is_number, value)), "a list of numbers"
    if not fits:
        raise ConfigError(f"{key}={text}: it must be {what}")
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is a number other than NaN; true and false are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def matches_any(key: str, patterns: Iterable[str]) -> bool:
    """Return whether a dotted key matches one of the patterns, in which ``*`` stands for any text."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def require_registered(source: str, kind: str, name: Any, registered: Collection[str]) -> None:
    """Check that a name is registered.

    Args:
        source: the configuration key with the name.
        kind: what the name denotes, such as ``metric``.
        name: the name; a value of another type is rejected.

    Raises:
        ConfigError: the name is not registered.
    """
    if not isinstance(name, str) or name not in registered:
        hint = did_you_mean(name, registered) or f"; there are {first_of(sorted(registered), LISTED_NAMES)}"
        raise ConfigError(f"{source}: no {kind} named {name!r}{hint}")


def _needed(key: str, default: Any) -> str | None:
    """Return what the value of a key must be, or None if it may be null."""
    if isinstance(default, Mapping):
        return _group(default)
    if matches_any(key, NULLABLE):
        return None
    if isinstance(default, str) and default:
        return None if matches_any(key, NULLABLE_TEXTS) else "a text"
    return "a number" if type(default) in (int, float) else None


def _group(keys: Mapping[str, Any]) -> str:
    return f"a group of keys ({', '.join(map(str, keys))})" if keys else "a group of keys"


def _entries(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [entry.strip() for entry in value.strip("[] ").split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]
