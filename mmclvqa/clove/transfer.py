"""Fetching one file over HTTP: it goes on where a broken connection left off.

Uses ``requests``; pooch, the usual choice for data sets, starts a broken transfer from the beginning, which
does not do for archives of many gigabytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write

CHUNK = 1 << 20
"""Bytes read at once."""

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection and for the next bytes."""

ATTEMPTS = 6
"""How many times in a row a transfer may fail without any progress."""

LONGEST_PAUSE = 30.0
"""Seconds between attempts: 1, 2, 4, ... up to this."""


class _Broken(Exception):
    """An attempt that may go better next time."""


def fetch(
    url: str,
    path: str | os.PathLike[str],
    sha256: str | None = None,
    progress: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Fetch ``url`` into ``path``; an interrupted transfer goes on at the next call.

    What has come so far stands in ``<path>.part``, and beside it which version of the file it is part of. A
    ``path`` that is there already is kept unless its checksum is wrong.

    Args:
        url: http or https.
        path: the file to write; it appears only when it is whole and right.
        sha256: its checksum, None where none is known.
        progress: show a progress bar on stderr.
        pause: waits that many seconds between attempts.

    Returns:
        The file's sha256.

    Raises:
        DataError: the server refuses, the connection keeps breaking, the disk is too small, or the checksum
            is wrong (then nothing is left behind).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    if path.is_file() and (found := _sha256(path, progress)) and sha256 in (None, found):
        return found
    failures = 0
    while True:
        before = _size(part)
        try:
            _attempt(url, part, progress)
            break
        except (_Broken, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, ValueError):
                raise DataError(f"{url}: is no address to fetch from ({error})") from None
            failures = 1 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"{url}: gave up after {ATTEMPTS} attempts ({reason}); {_size(part)} bytes are kept in "
                    f"{part}, the same command goes on from there"
                ) from None
            pause(min(2.0 ** (failures - 1), LONGEST_PAUSE))
    found = _sha256(part, progress)
    if sha256 is not None and found != sha256:
        _discard(part)
        raise DataError(f"{url}: its sha256 is {found}, not the published {sha256}; what came was removed")
    os.replace(part, path)
    _discard(part)
    return found


def _attempt(url: str, part: Path, progress: bool) -> None:
    """One request, appended to what is there. Returns when the file is whole."""
    have, version = _size(part), _version(part)
    # A part of unknown version cannot be continued: what comes could be another file's end.
    headers = {"Accept-Encoding": "identity"}
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 416:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it had come, only the end of the last run is missing
            _discard(part)
            raise _Broken("the server has nothing beyond what is here")
        if status >= 500 or status in (408, 425, 429):
            raise _Broken(f"the server answers {status} {response.reason}")
        if status not in (200, 206):
            raise DataError(f"{url}: the server answers {status} {response.reason}")
        start = _content_start(response) if status == 206 else 0
        if start not in (0, have):
            _discard(part)
            raise _Broken(f"the server sends from byte {start} instead of {have}")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        _require_space(url, part, (total or 0) - start)
        if start == 0:
            _discard(part)
            _remember(part, response)
        bar = tqdm(
            desc=part.name.removesuffix(".part"),
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            disable=not progress,
            file=sys.stderr,
        )
        with open(part, "ab") as file, bar:
            # read1 hands over what has come; iter_content would lose a block that a break left unfilled.
            while block := response.raw.read1(CHUNK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(part) != total:
        raise _Broken(f"{_size(part)} of {total} bytes came")


def _content_start(response: requests.Response) -> int:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else -1


def _require_space(url: str, part: Path, wanted: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if wanted > free:
        raise DataError(f"{url}: {wanted / 1e9:.1f} GB are to come, {part.parent} has {free / 1e9:.1f} GB free")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _version(part: Path) -> str | None:
    """The validator under which the part began, as an If-Range header takes it."""
    with contextlib.suppress(OSError):
        return _version_file(part).read_text(encoding="utf-8").strip() or None
    return None


def _remember(part: Path, response: requests.Response) -> None:
    tag = response.headers.get("ETag", "")
    # Weak tags (W/...) may be shared by different bytes and are not allowed in If-Range.
    version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    with atomic_write(_version_file(part)) as file:
        file.write(version)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


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
