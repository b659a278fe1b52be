"""``python -m mmclvqa.clove mini DIR``: makes the small world's data root, whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import lmdb

from mmclvqa.clove import layout
from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.manifest import Manifest, load_manifest
from mmclvqa.clove.mini.writer import NAME, Settings, write_root

_HELP = {
    "train": "records per task in the train split; a task of the scene setting has a quarter of them",
    "val": "records per task in the val split",
    "images": "GQA-like pictures of the train split (default: three for four train records)",
    "regions": "most object regions of a picture",
    "feature-dim": "width of a region's feature",
    "seed": "of every draw; equal settings give equal bytes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the ``mini`` command."""
    parser.add_argument("dir", type=Path, metavar="DIR", help="the data root to make (CLOVE_ROOT)")
    for option, text in _HELP.items():
        default = None if option == "images" else getattr(Settings, option.replace("-", "_"))
        text = text if default is None else f"{text} (default: %(default)s)"
        parser.add_argument(f"--{option}", type=int, default=default, metavar="N", help=text)
    parser.add_argument("--overwrite", action="store_true", help=f"replace a {NAME} made with other settings")


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings a command line asks for.

    Raises:
        DataError: a size is too small.
    """
    images = args.images if args.images is not None else max(6, args.train * 3 // 4)
    settings = Settings(args.train, args.val, images, args.regions, args.feature_dim, args.seed)
    settings.check()
    return settings


def run(args: argparse.Namespace) -> int:
    """Make the data root of ``args``; 0 when it is there, 1 after an error, told in one line."""
    try:
        print(make_root(args.dir, settings_from(args), args.overwrite))
    except (CloveError, OSError, lmdb.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def make_root(root: Path, settings: Settings, overwrite: bool = False) -> str:
    """Make ``root`` unless it is there already, in a folder beside it that is renamed when complete.

    Args:
        root: the folder to make.
        settings: sizes and seed.
        overwrite: replace a root of this generator that was made with other settings.

    Returns:
        One line that says what was done.

    Raises:
        DataError: ``root`` is something else, which is left as it is.
        OSError, lmdb.Error: it cannot be written; nothing is left behind.
    """
    root = Path(os.path.abspath(root))
    found = _found(root)
    if found == settings.manifest():
        return f"{root}: is there already, made with the same settings"
    if found and not overwrite:
        raise DataError(f"{root}: {_difference(found, settings.manifest())}; --overwrite replaces it")
    _remove_leftovers(root)
    started = time.perf_counter()
    beside = root.parent / f".{root.name}.partial-{os.getpid()}"
    beside.mkdir(parents=True)
    try:
        write_root(beside, settings)
        if found:
            aside = root.parent / f".{root.name}.old-{os.getpid()}"
            root.rename(aside)
            beside.rename(root)
            shutil.rmtree(aside)
        else:
            beside.rename(root)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    return f"{root}: written, {size / 2**20:.0f} MiB in {time.perf_counter() - started:.0f} s"


def _found(root: Path) -> Manifest | None:
    """The manifest of what stands at ``root``; None where there is nothing or an empty folder."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    manifest = load_manifest(root) if (root / layout.MANIFEST).is_file() else None
    if manifest is None or manifest.name != NAME:
        raise DataError(f"{root}: is there and was not made by this command; choose another folder")
    return manifest


def _difference(found: Manifest, wanted: Manifest) -> str:
    old, new = ({"seed": manifest.seed, **manifest.shape} for manifest in (found, wanted))
    named = [f"{key} {old.get(key)} instead of {new[key]}" for key in new if old.get(key) != new[key]]
    return f"was made with {', '.join(named) or 'other sizes'}"


def _remove_leftovers(root: Path) -> None:
    """Remove partial folders of runs that were killed."""
    for folder in root.parent.glob(f".{root.name}.partial-*"):
        process = int(folder.name.rpartition("-")[2])
        with contextlib.suppress(PermissionError):
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
