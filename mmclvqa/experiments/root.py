"""Checks that ``ROOT`` and the data belong together, and generates clove-mini, before experiments run.

python -m mmclvqa.experiments.root ROOT CLOVE_ROOT
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mmclvqa.clove.data_root import MANIFEST
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.text import run_command

MADE_WITH = "exp/clvqa/data_manifest.json"
"""Copy of the manifest of the data that the experiments in ``ROOT`` use."""


def check_root(root: Path, data: Path) -> None:
    """Check that experiments in ``root`` used the same generated data; otherwise their steps would count as finished.

    Raises:
        ConfigError: the manifest of the data differs from that of the experiments.
    """
    manifest, made_with = data / MANIFEST, root / MADE_WITH
    if manifest.is_file() and not made_with.is_file() and not (root / "exp/clvqa/save").is_dir():
        with atomic_write(made_with, "wb") as file:
            file.write(manifest.read_bytes())
    contents = [path.read_bytes() if path.is_file() else None for path in (manifest, made_with)]
    if contents[0] != contents[1]:
        if not data.is_dir():
            raise ConfigError(f"CLOVE_ROOT={data}: there is no such folder")
        if made_with.is_file():
            remedy = "correct CLOVE_ROOT, or choose another ROOT"
            raise ConfigError(f"{root}: its experiments used different data than CLOVE_ROOT={data}; {remedy}")
        raise ConfigError(
            f"{root}: if its experiments used CLOVE_ROOT={data}, copy {manifest} to {made_with}; "
            "otherwise choose another ROOT"
        )


def make_mini(data: Path) -> None:
    """Generate clove-mini unless it exists.

    Raises:
        ConfigError: it cannot be generated there.
    """
    if (data / MANIFEST).is_file():
        return
    if subprocess.run([sys.executable, "-m", "mmclvqa.clove", "mini", str(data)], check=False).returncode:
        raise ConfigError(f"{data}: clove-mini cannot be generated there")


def main(argv: list[str]) -> int:
    """Check the two folders given on the command line and return the exit code."""
    if len(argv) != 2:
        print("usage: python -m mmclvqa.experiments.root ROOT CLOVE_ROOT", file=sys.stderr)
        return 2
    return run_command(lambda: check_root(*(Path(argument).absolute() for argument in argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
