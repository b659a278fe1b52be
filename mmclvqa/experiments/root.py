"""What is checked and read before experiments run: ``ROOT``, the data, and the folder of configuration files.

``python -m mmclvqa.experiments.root ROOT CLOVE_ROOT CONFIG`` is the start of a run script: it checks the three folders,
and prints shell code that sets the variables which a workflow's steps have with the same configuration files.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmclvqa.clove.data_root import MANIFEST
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.files import atomic_write, read_yaml
from mmclvqa.clove.text import did_you_mean, run_command

MADE_WITH = "exp/clvqa/data_manifest.json"
"""Copy of the manifest of the data that the experiments in ``ROOT`` use."""
PRESET = "workflow.yaml"
"""File in a folder of configuration files with arguments of all steps, and methods that run by default."""
PRESET_KEYS = {"MMF_ARGS": list, "SRM_ARGS": list, "more_methods": list, "environment": dict}
GPU = re.compile(r"\d+|(?:GPU|MIG)-[\w/-]+")
"""A GPU as in ``CUDA_VISIBLE_DEVICES``."""


def check_root(root: Path, data: Path, mark: bool = True) -> None:
    """Check that experiments in ``root`` used the same generated data, because their steps count as finished.

    Args:
        mark: whether a manifest is copied to a folder that lacks one, if it has no experiments or only those whose
            configurations name ``data``.

    Raises:
        ConfigError: the manifest of the data differs from that of the experiments.
    """
    manifest, made_with = data / MANIFEST, root / MADE_WITH
    if manifest.is_file() and not made_with.is_file() and _used_only(data, root / "exp/clvqa/save"):
        if mark:
            with atomic_write(made_with, "wb") as file:
                file.write(manifest.read_bytes())
        return
    contents = [path.read_bytes() if path.is_file() else None for path in (manifest, made_with)]
    if contents[0] != contents[1]:
        if not data.is_dir():
            raise ConfigError(f"CLOVE_ROOT={data}: there is no such folder")
        if made_with.is_file():
            remedy = "correct CLOVE_ROOT, or choose another ROOT"
            raise ConfigError(f"{root}: its experiments used different data than CLOVE_ROOT={data}; {remedy}")
        raise ConfigError(
            f"{root}: has experiments but no {MADE_WITH}, so their data is unknown; "
            f"if its experiments used CLOVE_ROOT={data}, copy {manifest} to {made_with}; "
            "otherwise choose another ROOT"
        )


def _used_only(data: Path, save: Path) -> bool:
    """Tell whether a folder has no experiments, or only those that state ``data``, unchanged since they began.

    A training by hand leaves its configuration beside its weights, but does not mark ``ROOT``.
    """
    patterns = ("config.yaml", "*_final.pth", "current.ckpt", "results.json", "sweep.json", "chance/*.json")
    for folder in {file.parent for pattern in patterns for file in save.rglob(pattern)}:
        config = folder / "config.yaml"
        if not config.is_file() or config.stat().st_mtime < (data / MANIFEST).stat().st_mtime:
            return False
        content = read_yaml(config)
        stated = Path(str((content.get("env") or {}).get("clove_root")) if isinstance(content, dict) else "")
        if not stated.is_absolute() or stated.resolve() != data.resolve():
            return False
    return True


def check_device() -> None:
    """Check ``DEVICE``, because CUDA ignores an unknown name and the step would run on the CPU.

    Raises:
        ConfigError: it is neither ``cpu`` nor a list of GPUs.
    """
    device = os.environ.get("DEVICE", "")
    if device not in ("", "-1", "cpu") and not all(map(GPU.fullmatch, device.split(","))):
        raise ConfigError(f"DEVICE={device}: give cpu, or GPUs by number, such as 0, or by name (GPU-...)")


def check_outputs(root: Path) -> None:
    """Check that no output of a step is empty, as after a full disk, because a script regards its step as finished.

    Raises:
        ConfigError: an output is empty.
    """
    for pattern in ("save/**/*_final.pth", "save/chance/*.json", "QAG_seq/**/*.npy"):
        for path in root.glob(f"exp/clvqa/{pattern}"):
            if not path.stat().st_size:
                raise ConfigError(f"{path}: is empty; delete it, so that its step runs again")


def make_mini(data: Path) -> None:
    """Generate clove-mini if the data root does not exist or is empty; other data is used as it is.

    Raises:
        ConfigError: it cannot be generated there.
    """
    if data.is_dir() and any(data.iterdir()):
        return
    if subprocess.run([sys.executable, "-m", "mmclvqa.clove", "mini", str(data)], check=False).returncode:
        raise ConfigError(f"{data}: clove-mini cannot be generated there")


def config_folder(path: str, name: str) -> Path:
    """Return a folder of configuration files as an absolute path.

    Args:
        path: the folder, absolute or relative to the current folder.
        name: the option or variable that names it, for the error message.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        folders = [sibling.name for sibling in folder.parent.glob("*") if sibling.is_dir()]
        raise ConfigError(f"{name}{path}: there is no folder {folder}{did_you_mean(folder.name, folders)}")
    return folder


def read_preset(config: Path) -> dict[str, Any]:
    """Return the content of :data:`PRESET` in a folder of configuration files; empty if there is none.

    Raises:
        ConfigError: a key is unknown, or its value has the wrong type.
        DataError: the file is not valid YAML.
    """
    file = config / PRESET
    content = (read_yaml(file) or {}) if file.is_file() else {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be a mapping with the keys {', '.join(PRESET_KEYS)}")
    for key, value in content.items():
        if key not in PRESET_KEYS:
            hint = did_you_mean(key, PRESET_KEYS)
            raise ConfigError(f"{file}: {key}: there is no such key{hint}; the keys are {', '.join(PRESET_KEYS)}")
        if not isinstance(value, PRESET_KEYS[key]):
            kind = "a list" if PRESET_KEYS[key] is list else "a mapping"
            raise ConfigError(f"{file}: {key}={value}: must be {kind}")
    return content


def step_variables(config: Path) -> dict[str, str]:
    """Return the environment variables that a folder of configuration files sets for all steps.

    The user's ``MMF_ARGS`` and ``SRM_ARGS`` follow those of the preset and therefore override them; other variables of
    the preset have no effect if the user sets them.
    """
    preset = read_preset(config)
    variables = {name: os.environ.get(name, str(value)) for name, value in preset.get("environment", {}).items()}
    for name in ("MMF_ARGS", "SRM_ARGS"):
        variables[name] = " ".join([*map(str, preset.get(name, [])), os.environ.get(name, "")]).strip()
    return variables


def shell_exports(variables: dict[str, str]) -> str:
    """Return shell code that sets and exports variables, one per line."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def main(argv: list[str]) -> int:
    """Run the command line and return the exit code. Without ``CONFIG``, as in older scripts, nothing is printed."""
    if len(argv) not in (2, 3):
        print("usage: python -m mmclvqa.experiments.root ROOT CLOVE_ROOT CONFIG", file=sys.stderr)
        return 2

    def check_and_print() -> None:
        variables = step_variables(config_folder(argv[2], "CONFIG=")) if argv[2:] else {}
        check_device()
        root, data = (Path(folder).absolute() for folder in argv[:2])
        check_root(root, data)
        check_outputs(root)
        print(shell_exports(variables))

    return run_command(check_and_print)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
