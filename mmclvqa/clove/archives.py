"""Taking the wanted files out of a published ``.zip`` or ``.tar.gz``.

No member is written where the archive says: its target comes from our own table. An archive with a member
that points outside (absolute, ``..``) or with a link in a wanted place is refused whole.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mmclvqa.clove.errors import DataError

LISTED = 10
"""How many of an archive's files an error message names."""

_BROKEN = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a zip method that Python does not know
    RuntimeError,  # an encrypted zip
)


class BrokenArchiveError(DataError):
    """An archive that is cut short or no archive; fetching it again may help."""


@dataclass(frozen=True)
class Extracted:
    """What came out of an archive.

    Attributes:
        placed: the files written, relative to the root.
        left: names of the files that were not wanted.
    """

    placed: list[str]
    left: list[str]


def extract(
    archive: str | os.PathLike[str],
    root: str | os.PathLike[str],
    place: Callable[[PurePosixPath], str | None],
    wants: str,
    staging: str | os.PathLike[str],
) -> Extracted:
    """Write the wanted files of ``archive`` below ``root``: all of them, after all were read, or none.

    Args:
        archive: a ``.zip`` or ``.tar.gz`` file.
        root: what ``place`` speaks of.
        place: the target of a member, relative to ``root``; None if it is not wanted.
        wants: what is searched for, for the error message.
        staging: a folder on the same disk for the time between; removed at the end.

    Raises:
        BrokenArchiveError: the archive is cut short or none.
        DataError: it is unsafe, holds two files for one target, or nothing that is wanted.
    """
    archive, root, staging = Path(archive), Path(root), Path(staging)
    shutil.rmtree(staging, ignore_errors=True)
    sources: dict[str, str] = {}
    left: list[str] = []
    try:
        for name, opened in _members(archive):
            path = _safe_path(archive, name)
            # macOS adds a hidden twin of every file.
            hidden = path.name.startswith("._") or "__MACOSX" in path.parts
            target = None if hidden else place(path)
            if target is None:
                left.append(name)
                continue
            if target in sources:
                raise DataError(f"{archive}: {sources[target]} and {name} are both meant for {target}")
            if opened is None:
                raise DataError(f"{archive}: {name} is a link or device where a file is expected")
            sources[target] = name
            file = staging / target
            file.parent.mkdir(parents=True, exist_ok=True)
            with opened() as source, open(file, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        if not sources:
            listed = ", ".join(left[:LISTED]) + (f" and {len(left) - LISTED} more" if left[LISTED:] else "")
            raise DataError(f"{archive}: holds no {wants}; it holds {listed or 'nothing'}")
        for target in sources:
            _put(staging / target, root / target)
    except _BROKEN as error:
        raise BrokenArchiveError(f"{archive}: is no whole archive ({error}); fetch it again") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Extracted(sorted(sources), left)


def _put(file: Path, target: Path) -> None:
    blocking = next((part for part in target.parents if part.exists() and not part.is_dir()), None)
    blocking = target if target.is_dir() else blocking
    if blocking is not None:
        raise DataError(f"{blocking}: is in the way of {target}; move it away and run again")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, target)


def _safe_path(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"{archive}: its member {name!r} points outside the archive; nothing was extracted")
    return path


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """Names of the members that are not folders, each with what opens it (None for links and devices)."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    yield info.filename, lambda info=info: opened.open(info)
        return
    # Read as a stream: one pass over archives of many gigabytes.
    with gzip.open(archive) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|") as opened:
            for member in opened:
                if member.isfile():
                    yield member.name, lambda member=member: opened.extractfile(member)
                elif not member.isdir():
                    yield member.name, None
        # tarfile takes a cut between two members for the end; gzip's own end mark tells the difference.
        while unpacked.read(1 << 20):
            pass
