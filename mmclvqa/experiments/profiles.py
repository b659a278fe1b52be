"""Snakemake profiles: the resources of each kind of step, and which steps share a job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.files import read_yaml
from mmclvqa.clove.text import did_you_mean
from mmclvqa.experiments.steps import Step

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
DEFAULT = ""
"""Key of the values of kinds for which a profile has none."""
QUANTITIES = ("runtime", "mem", "disk")
"""Resources that Snakemake converts to numbers (``4h``, ``16GB``)."""


@dataclass(frozen=True)
class JobSharing:
    """Which steps may share a job of a cluster.

    Attributes:
        steps_per_job: maximum number of steps in a job.
        text_resources: resources by kind of step that are not numbers, such as the partition. Snakemake refuses a job
            whose steps differ in these.
    """

    steps_per_job: int = 1
    text_resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def allows(self, first: Step, second: Step) -> bool:
        """Tell whether two steps need the same GPUs and text resources."""
        default = self.text_resources.get(DEFAULT, {})
        texts = [self.text_resources.get(step.kind, default) for step in (first, second)]
        return first.gpus == second.gpus and texts[0] == texts[1]


def profile_folder(name: str) -> Path:
    """Return the folder of a profile of this project, or else of one that Snakemake finds.

    Args:
        name: name of a folder in :data:`PROFILES`, path of a folder, or name of a profile of the user or the machine.

    Raises:
        ConfigError: there is no such profile.
    """
    for parent in (PROFILES, Path(), Path.home() / ".config/snakemake", Path("/etc/xdg/snakemake")):
        if any((parent / name).glob("*.yaml")):
            return (parent / name).absolute()
    names = sorted(folder.name for folder in PROFILES.iterdir())
    known = f"{', '.join(names)}{did_you_mean(name, names)}"
    raise ConfigError(f"--profile {name}: is neither a folder with a config.yaml nor one of {known}")


def job_sharing(profile: Path) -> JobSharing:
    """Return ``steps_per_job`` of ``config`` in a profile (1 if not set), and its text resources by kind of step.

    Raises:
        ConfigError, DataError: see :func:`read_profile`, or ``steps_per_job`` is not a positive whole number.
    """
    content = read_profile(profile)
    number = _pairs(content.get("config")).get("steps_per_job", 1)
    if not str(number).isdecimal() or int(number) < 1:
        raise ConfigError(f"{profile / 'config.yaml'}: config: steps_per_job={number}: must be a positive whole number")
    texts: dict[str, dict[str, str]] = {}
    for kind, values in _resources(content).items():
        others = {name: str(value) for name, value in values.items() if name not in QUANTITIES}
        texts[kind] = {name: value for name, value in others.items() if not value.isdecimal()}
    return JobSharing(int(number), texts)


def profile_runtimes(profile: Path) -> dict[str, float]:
    """Return ``runtime`` in minutes by kind of step; values that are not numbers are left out.

    Raises:
        ConfigError, DataError: see :func:`read_profile`.
    """
    runtimes = {kind: values.get("runtime") for kind, values in _resources(read_profile(profile)).items()}
    return {kind: float(value) for kind, value in runtimes.items() if str(value).isdecimal()}


def read_profile(profile: Path) -> dict[str, Any]:
    """Return the content of ``config.yaml`` in a profile's folder, empty if its file has another name.

    Raises:
        DataError: it is not valid YAML or cannot be read.
        ConfigError: it is not a mapping.
    """
    file = profile / "config.yaml"
    if not file.is_file():
        return {}
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: not a mapping of Snakemake's options")
    return content


def _resources(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the resources of each kind that a profile names, and those of all other kinds under ``DEFAULT``."""
    defaults = _pairs(content.get("default-resources"))
    given = content.get("set-resources")
    own: dict[str, dict[str, Any]] = defaultdict(dict)
    if isinstance(given, dict):
        own |= {kind: _pairs(values) for kind, values in given.items()}
    else:
        for key, value in _pairs(given).items():
            kind, _, name = key.partition(":")
            own[kind][name] = value
    return {DEFAULT: defaults} | {kind: defaults | values for kind, values in own.items()}


def _pairs(values: Any) -> dict[str, Any]:
    """Return values that are written as a mapping, as a list of ``name=value``, or as one of these."""
    if isinstance(values, dict):
        return values
    split = (str(entry).partition("=") for entry in ([values] if isinstance(values, str) else values or ()))
    return {name: value for name, _, value in split}
