"""Resumable downloads over HTTP, and extraction of archives.

Downloads use ``requests``; pooch, the usual choice for data sets, restarts an interrupted transfer from the beginning,
which is not acceptable for archives of many gigabytes.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import requests
import urllib3
from tqdm import tqdm

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.text import first_of, one_line

CHUNK = 1 << 20
"""Number of bytes read at once."""

TIMEOUT = (10.0, 60.0)
"""Timeouts in seconds for the connection and for the next bytes."""

ATTEMPTS = 6
"""Number of consecutive attempts without progress after which a transfer fails."""

LONGEST_PAUSE = 30.0
"""Maximum pause between attempts in seconds; pauses are 1, 2, 4, ..."""

LISTED = 10
"""Number of files of an archive that an error message lists."""

_BROKEN = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a zip method that Python does not know
    RuntimeError,  # an encrypted zip
)


class _Broken(Exception):
    """A failed attempt that may be repeated."""


def fetch(
    url: str,
    path: str | os.PathLike[str],
    sha256: str | None = None,
    progress: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Download ``url`` to ``path``; an interrupted transfer resumes at the next call.

    Received bytes are stored in ``<path>.part``, and the version of the file on the server in ``<path>.part.version``.
    An existing ``path`` is kept unless its checksum is wrong.

    Args:
        pause: waits the given number of seconds between attempts.

    Returns:
        The sha256 of the file.

    Raises:
        DataError: the server rejects the request, the connection fails repeatedly, the disk is too small, or the
            checksum is wrong (the received bytes are then removed).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f"{path.name}.part")
    if path.is_file() and (digest := _sha256(path, progress)) and sha256 in (None, digest):
        return digest
    failures = 0
    while True:
        before = _size(partial_file)
        try:
            _attempt(url, partial_file, progress)
            break
        except (_Broken, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, ValueError):
                raise DataError(f"{url}: is not a valid address ({error})") from None
            failures = 1 if _size(partial_file) > before else failures + 1
            if failures >= ATTEMPTS:
                raise DataError(
                    f"{url}: gave up after {ATTEMPTS} attempts ({one_line(error)}); {_size(partial_file)} bytes are "
                    f"kept in {partial_file}, the same command resumes from there"
                ) from None
            pause(min(2.0 ** (failures - 1), LONGEST_PAUSE))
    digest = _sha256(partial_file, progress)
    if sha256 is not None and digest != sha256:
        _discard(partial_file)
        raise DataError(f"{url}: its sha256 is {digest}, not the published {sha256}; the file was removed")
    os.replace(partial_file, path)
    _discard(partial_file)
    return digest


def _attempt(url: str, partial_file: Path, progress: bool) -> None:
    """Make one request and append its bytes to the partial file; return when the file is complete."""
    received_bytes, version_file, version = _size(partial_file), _version_file(partial_file), ""
    with contextlib.suppress(OSError):
        version = version_file.read_text(encoding="utf-8").strip()
    # A partial file of unknown version is not resumed, because the rest could belong to another version.
    headers = {"Accept-Encoding": "identity"}
    if received_bytes and version:
        headers |= {"Range": f"bytes={received_bytes}-", "If-Range": version}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416:
            if response.headers.get("Content-Range") == f"bytes */{received_bytes}":
                return  # the partial file is already complete
            _discard(partial_file)
            raise _Broken("the server has no bytes beyond the partial file")
        if status >= 500 or status in (408, 425, 429):
            raise _Broken(f"the server returned {status} {response.reason}")
        if status not in (200, 206):
            raise DataError(f"{url}: the server returned {status} {response.reason}")
        sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        start = 0 if status == 200 else int(sent[1]) if sent else -1
        if start not in (0, received_bytes):
            _discard(partial_file)
            raise _Broken(f"the server sends from byte {start} instead of {received_bytes}")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        required, free = (total or 0) - start, shutil.disk_usage(partial_file.parent).free
        if required > free:
            folder = partial_file.parent
            raise DataError(f"{url}: {required / 1e9:.1f} GB are required, {folder} has {free / 1e9:.1f} GB free")
        if start == 0:
            _discard(partial_file)
            tag = response.headers.get("ETag", "")
            # Weak tags (W/...) may be shared by different contents and are not allowed in If-Range.
            strong = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
            with atomic_write(version_file) as file:
                file.write(strong)
        name, units = partial_file.name.removesuffix(".part"), {"unit": "B", "unit_scale": True}
        bar = tqdm(desc=name, initial=start, total=total, **units, disable=not progress, file=sys.stderr)
        with open(partial_file, "ab") as file, bar:
            # read1 returns the bytes received so far; iter_content would lose an incomplete last block.
            while block := response.raw.read1(CHUNK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(partial_file) != total:
        raise _Broken(f"{_size(partial_file)} of {total} bytes received")


def _version_file(partial_file: Path) -> Path:
    """Return the file with the version of the partial file, in the form of an If-Range header."""
    return partial_file.with_name(f"{partial_file.name}.version")


def _discard(partial_file: Path) -> None:
    partial_file.unlink(missing_ok=True)
    _version_file(partial_file).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    bar = tqdm(desc="checksum", total=_size(path), unit="B", unit_scale=True, disable=not progress, leave=False)
    with open(path, "rb") as file, bar:
        while block := file.read(CHUNK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


class BrokenArchiveError(DataError):
    """A truncated or invalid archive; downloading it again may help."""


def extract(
    archive: str | os.PathLike[str],
    root: str | os.PathLike[str],
    target_of: Callable[[PurePosixPath], str | None],
    required_files: str,
    staging: str | os.PathLike[str],
) -> tuple[list[str], list[str]]:
    """Extract the required files of an archive; they are moved below ``root`` after all of them were read.

    Members are never written to the path in the archive, only to the target returned by ``target_of``. An archive with
    a member that points outside (absolute or with ``..``), or with a link instead of a required file, is rejected.

    Args:
        staging: temporary folder on the same disk; removed at the end.

    Returns:
        The extracted files, relative to the root, and the names of the files that were not extracted.

    Raises:
        BrokenArchiveError: the archive is truncated or invalid.
        DataError: the archive is unsafe, contains two files for one target, or no required file.
    """
    archive, root, staging = Path(archive), Path(root), Path(staging)
    shutil.rmtree(staging, ignore_errors=True)
    sources: dict[str, str] = {}
    skipped: list[str] = []
    try:
        for name, opened in _members(archive):
            path = _safe_path(archive, name)
            # macOS adds a hidden companion of every file.
            hidden = path.name.startswith("._") or "__MACOSX" in path.parts
            target = None if hidden else target_of(path)
            if target is None:
                skipped.append(name)
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
            contents = first_of(skipped, LISTED) or "nothing"
            raise DataError(f"{archive}: has no {required_files}; it contains {contents}")
        for target in sources:
            _put(staging / target, root / target)
    except _BROKEN as error:
        raise BrokenArchiveError(f"{archive}: is not a complete archive ({error}); download it again") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return sorted(sources), skipped


def _put(file: Path, target: Path) -> None:
    blocking = next((part for part in target.parents if part.exists() and not part.is_dir()), None)
    blocking = target if target.is_dir() else blocking
    if blocking is not None:
        raise DataError(f"{blocking}: blocks the target {target}; move or delete it, then run the command again")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, target)


def _safe_path(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise DataError(f"{archive}: its member {name!r} points outside the archive; nothing was extracted")
    return path


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """Yield the names of members except folders, each with a function that opens it (None for links and devices)."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    yield info.filename, lambda info=info: opened.open(info)
        return
    # Archives of many gigabytes are read in one pass, as a stream.
    with gzip.open(archive) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|") as opened:
            for member in opened:
                if member.isfile():
                    yield member.name, lambda member=member: opened.extractfile(member)
                elif not member.isdir():
                    yield member.name, None
        # tarfile accepts an archive truncated between two members; the end marker of gzip reveals it.
        while unpacked.read(1 << 20):
            pass
