"""Fetch what is published into a data root, with resume, progress and checksums.

Archives and unfinished transfers lie in ``DIR/.downloads/``. What was placed is written down there, so that
a second run skips it. An archive is removed once its files are in place; one that could not be used although
it is whole stays, so that it need not come again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from mmclvqa.clove.archives import BrokenArchiveError, extract
from mmclvqa.clove.files import write_json
from mmclvqa.clove.sources import SOURCES, Source, select
from mmclvqa.clove.transfer import fetch


class Downloader:
    """Fetches sources into a data root.

    Args:
        root: the data root.
        experiments: the experiment root, where replays and checkpoints go.
        base_url: a mirror; replaces scheme and host of every URL.
        progress: show progress bars on stderr.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        experiments: str | os.PathLike[str],
        base_url: str | None = None,
        progress: bool = False,
    ) -> None:
        self.root = Path(root)
        self.experiments = Path(experiments)
        self.base_url = base_url
        self.progress = progress
        self._folder = self.root / ".downloads"

    def url(self, source: Source) -> str:
        """Where a source is fetched from."""
        if self.base_url is None:
            return source.url
        return self.base_url.rstrip("/") + urlsplit(source.url).path

    def target(self, source: Source) -> Path:
        """The root that a source's targets are relative to."""
        return self.experiments if source.experiments else self.root

    def is_done(self, source: Source) -> bool:
        """Whether an earlier run placed the source and its files are still there, as long as they were."""
        files, target = self._placed(source), self.target(source)
        return bool(files) and all(_size(target / name) == size for name, size in files.items())

    def _placed(self, source: Source) -> dict[str, int]:
        """The files that an earlier run placed and their sizes in bytes; none where none did."""
        try:
            receipt = json.loads(self._receipt(source).read_text(encoding="utf-8"))
            return dict(receipt["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def get(self, source: Source) -> list[str]:
        """Fetch one source and put its files in place.

        Returns:
            Lines that say what was done.

        Raises:
            DataError: it cannot be fetched, is not what was published, or holds nothing that is wanted.
        """
        if self.is_done(source):
            return [f"{source.name}: is here already"]
        url, target = self.url(source), self.target(source)
        lines = []
        if source.place is None:
            placed = [str(source.target)]
            sha256 = fetch(url, target / placed[0], source.sha256, self.progress)
        else:
            archive = self._folder / source.name / PurePosixPath(urlsplit(url).path).name
            sha256 = fetch(url, archive, source.sha256, self.progress)
            try:
                staging = target / f".extracting-{source.name}"
                extracted = extract(archive, target, source.place, source.wants, staging)
            except BrokenArchiveError:
                archive.unlink()
                raise
            shutil.rmtree(archive.parent)
            placed = extracted.placed
            if extracted.left:
                lines.append(f"{source.name}: left out {len(extracted.left)} other files of the archive")
        if source.sha256 is None:
            lines.append(f"{source.name}: no checksum is published; what came has sha256 {sha256}")
        write_json(
            self._receipt(source),
            {"url": url, "sha256": sha256, "files": {name: _size(target / name) for name in placed}},
        )
        return [*lines, f"{source.name}: {len(placed)} file{'s' * (len(placed) > 1)} below {target}"]

    def plan(self, sources: Sequence[Source], listed: Sequence[Source] | None = None) -> str:
        """What a run would fetch, as text; nothing is asked of a server.

        Args:
            sources: would be fetched.
            listed: described, ``sources`` among them; None describes no others.
        """
        lines = []
        for source in listed or sources:
            is_done = self.is_done(source)
            size = sum(self._placed(source).values()) if is_done else source.size
            lines += [
                f"{source.name}: {source.what}{'' if source in sources else ' (only when named)'}",
                "  here already" if is_done else f"  from {self.url(source)}",
                f"  size {'not published' if size is None else f'{size:,} bytes'}",
                f"  sha256 {source.sha256 or 'not published'}",
                f"  to {self.target(source) / (source.target or '')}",
            ]
        left = [source for source in sources if not self.is_done(source)]
        known = sum(source.size or 0 for source in left)
        unknown = sum(source.size is None for source in left)
        lines.append(f"to fetch: {len(left)} of {len(sources)}; {known:,} bytes, and {unknown} of unpublished size")
        return "\n".join(lines)

    def _receipt(self, source: Source) -> Path:
        return self._folder / f"{source.name}.json"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``download``."""
    names = ", ".join(source.name for source in SOURCES)
    default = ", ".join(source.name for source in select([]))
    parser.add_argument("dir", metavar="DIR", help="the data root to fill")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}, or all (default: {default})")
    parser.add_argument(
        "--root", help="experiment root for replays and checkpoints (default: $ROOT, else DIR/published)"
    )
    parser.add_argument("--base-url", metavar="URL", help="a mirror: replaces scheme and host of every URL")
    parser.add_argument("--dry-run", action="store_true", help="print what is published and would be fetched, and stop")


def run(args: argparse.Namespace) -> int:
    """Fetch what is named; the first failure ends it with an error, what was placed before stays."""
    sources = select(args.names)
    experiments = args.root or os.environ.get("ROOT") or Path(args.dir) / "published"
    downloader = Downloader(args.dir, experiments, args.base_url, progress=sys.stderr.isatty())
    if args.dry_run:
        print(downloader.plan(sources, sources if args.names else SOURCES))
        return 0
    for source in sources:
        for line in downloader.get(source):
            print(line, flush=True)
    return 0
