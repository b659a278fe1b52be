"""The expected cost of steps by kind: minutes of measured steps or of a profile, and GPU-hours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.text import format_table, one_line
from mmclvqa.experiments.progress import Journal
from mmclvqa.experiments.steps import Step

HEADER = ("kind", "minutes from", "steps", "minutes each", "GPU-hours")
DEFAULT = ""
"""Key of the minutes of kinds for which a profile has none."""


def cost_lines(
    steps: Sequence[Step], journal: Journal, runtimes: Mapping[str, float], source: str, parallel: int
) -> list[str]:
    """Return a table of expected costs by kind, and the expected time, line by line.

    The minutes of a kind are the mean of its finished steps in the journal, otherwise those of ``runtimes``.

    Args:
        steps: steps to run, in a valid order of execution.
        journal: the journal of ``ROOT``.
        runtimes: minutes by kind, see :func:`profile_runtimes`.
        source: where ``runtimes`` are from.
        parallel: number of steps that run at a time.
    """
    minutes: dict[str, float | None] = {}
    rows, gpu_hours = [], 0.0
    for (kind, gpus), count in Counter((step.kind, step.gpus) for step in steps).items():
        seconds = journal.mean_seconds(kind)
        each = runtimes.get(kind, runtimes.get(DEFAULT)) if seconds is None else seconds / 60
        minutes[kind] = each
        origin = "finished steps" if seconds is not None else "not known" if each is None else source
        hours = count * gpus * (each or 0.0) / 60
        gpu_hours += hours
        rows.append((kind, origin, count, *(f"{value:.1f}" if each is not None else "" for value in (each, hours))))
    rows.append(("all", "", len(steps), "", f"{gpu_hours:.1f}"))
    lines = format_table(HEADER, rows, text_columns=2).splitlines()
    if None in minutes.values():
        return [
            *lines,
            "the total time cannot be estimated: some kinds of steps have neither finished steps nor a runtime in the "
            "profile",
        ]
    chain = longest_chain(steps, minutes)
    time = max(chain, sum(minutes[step.kind] for step in steps) / parallel)
    return [*lines, f"about {_hours(time)} with {parallel} at a time; the longest chain of steps takes {_hours(chain)}"]


def longest_chain(steps: Sequence[Step], minutes: Mapping[str, float]) -> float:
    """Return the minutes of the longest chain of steps that depend on one another."""
    ended: dict[str, float] = {}
    for step in steps:
        ended[step.output] = minutes[step.kind] + max((ended.get(path, 0.0) for path in step.inputs), default=0.0)
    return max(ended.values(), default=0.0)


def profile_runtimes(profile: Path) -> dict[str, float]:
    """Return ``runtime`` in minutes by kind of step; values that are not numbers are left out.

    Raises:
        ConfigError: the profile cannot be read.
    """
    content = read_profile(profile)
    runtimes = {DEFAULT: _pairs(content.get("default-resources")).get("runtime")}
    resources = content.get("set-resources")
    if isinstance(resources, dict):
        runtimes |= {kind: _pairs(values).get("runtime") for kind, values in resources.items()}
    else:
        values = ((key.partition(":"), value) for key, value in _pairs(resources).items())
        runtimes |= {kind: value for (kind, _, name), value in values if name == "runtime"}
    return {kind: float(value) for kind, value in runtimes.items() if str(value).isdigit()}


def profile_steps_per_job(profile: Path) -> int:
    """Return ``steps_per_job`` of ``config`` in a profile: how many steps a job of a cluster runs; 1 if not set.

    Raises:
        ConfigError: the profile cannot be read, or the value is not a positive whole number.
    """
    value = _pairs(read_profile(profile).get("config")).get("steps_per_job", 1)
    if not str(value).isdecimal() or int(value) < 1:
        raise ConfigError(f"{profile / 'config.yaml'}: config: steps_per_job={value}: must be a positive whole number")
    return int(value)


def read_profile(profile: Path) -> dict[str, Any]:
    """Return the content of a profile, empty if Snakemake would find it in another place.

    Raises:
        ConfigError: it is not a mapping in YAML.
    """
    file = profile / "config.yaml"
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as a profile ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: not a mapping of Snakemake's options")
    return content


def _pairs(resources: Any) -> dict[str, Any]:
    """Return resources that are written as a mapping or as a list of ``name=value``."""
    if isinstance(resources, dict):
        return resources
    if isinstance(resources, str):
        resources = [resources]
    split = (str(entry).partition("=") for entry in resources or ())
    return {name: value for name, _, value in split}


def _hours(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes < 48 * 60 else f"{minutes / 60 / 24:.1f} days"
