"""Types of configuration values: a value has the type of the default of its key, and a few keys have limits."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from typing import Any

from mmclvqa.clove.errors import ConfigError

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
"""For each number whose default is null, a value of its type; all other keys whose default is null take text."""

NULLABLE = (
    "training.seed", "training.max_updates", "training.*_interval", "training.max_grad_l2_norm", "training.CL.*",
)  # fmt: skip
"""Numbers that may be null although their default is not."""

LIMITS: dict[str, tuple[int, float]] = {
    "training.seed": (-1, 2**32 - 1),
    "training.num_workers": (0, math.inf),
    "training.max_updates": (0, math.inf),
    "training.max_epochs": (0, math.inf),
    "training.batch_size": (1, math.inf),
    "training.batch_size_per_device": (1, math.inf),
    "training.eval_batch_size": (1, math.inf),
    "training.update_frequency": (1, math.inf),
}
"""The smallest and largest allowed values of whole numbers."""


def fit_default(key: str, value: Any, default: Any, text: str, source: str = "") -> Any:
    """Convert the value of a key of this project to the type of its default.

    Args:
        key: the dotted key.
        value: the value.
        default: the default.
        text: the value as the user wrote it.
        source: prefix of error messages that names the file of the value.

    Raises:
        ConfigError: the value cannot be converted or exceeds a limit.
    """
    kind = KINDS_OF_NULL.get(key, "") if default is None else default
    must_not_be_null = type(default) in (int, float) and not any(fnmatch.fnmatchcase(key, one) for one in NULLABLE)
    if value is None and must_not_be_null:
        raise ConfigError(f"{source}{key}={text}: it must be a number")
    value = fit(f"{source}{key}", value, kind, text)
    least, greatest = LIMITS.get(key, (-math.inf, math.inf))
    if key in LIMITS and is_number(value) and not least <= value <= greatest:
        end = "" if greatest == math.inf else f" and at most {greatest}"
        raise ConfigError(f"{source}{key}={text}: it must be a whole number of at least {least}{end}")
    return value


def fit(key: str, value: Any, kind: Any, text: str | None = None) -> Any:
    """Convert a value to the type of another value.

    A whole number may be written as ``2.0``, and a number may stand for text. Text is split at commas where a list is
    expected, and a list is joined by commas where text is expected. Null and interpolations are returned unchanged.

    Args:
        key: the key, for the message of an error.
        value: the value.
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
        fits, what = isinstance(value, Mapping), f"a group of keys ({', '.join(map(str, kind))})"
    else:
        value = _entries(value)
        fits, what = not kind or not is_number(kind[0]) or all(map(is_number, value)), "a list of numbers"
    if not fits:
        raise ConfigError(f"{key}={text}: it must be {what}")
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is a number other than NaN; true and false are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _entries(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [entry.strip() for entry in value.strip("[] ").split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]
