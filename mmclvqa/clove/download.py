"""Download of the published data, features, replays and checkpoints into a data root and an experiment root.

The folders inside the published archives are not documented, so files are recognized by their names. Replays and
checkpoints are placed below an experiment root, where the run scripts look for them.

``DIR/.downloads/`` contains archives, unfinished transfers and receipts of the placed files, so that a second run skips
them. An archive is removed after its files are placed; a complete archive without the required files is kept, so that
it need not be downloaded again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from mmclvqa.clove import data_root
from mmclvqa.clove.errors import DataError, TaskError
from mmclvqa.clove.experiment_paths import final_weights, run_folder, srm_experiment, srm_folder, srm_root, task_folder
from mmclvqa.clove.files import write_json
from mmclvqa.clove.tasks import SETTINGS, parse_order, tasks
from mmclvqa.clove.text import counted
from mmclvqa.clove.transfer import BrokenArchiveError, extract, fetch

MMF_URL = "https://dl.fbaipublicfiles.com/mmf/data"
FASTTEXT_URL = "https://dl.fbaipublicfiles.com/pythia/pretrained_models/fasttext/wiki.en.bin"
CLOVE_URL = "https://github.com/showlab/CLVQA/releases/download/v1.0"
CLOVE_FILES_URL = "https://raw.githubusercontent.com/showlab/CLVQA/main/files"

TargetOf = Callable[[PurePosixPath], str | None]
"""Target of a file of an archive, relative to the root of the source; None if the file is not needed."""


@dataclass(frozen=True)
class Source:
    """A published file.

    Attributes:
        sha256: published checksum, None if none is published.
        size: length in bytes, None if unknown.
        target: target path of a single file; None for an archive.
        target_of: target of each file of an archive; None for a single file.
        required_files: required contents of an archive, for error messages.
        experiments: whether targets are relative to the experiment root instead of the data root.
        default: whether the file is downloaded if no names are given.
    """

    name: str
    description: str
    url: str
    sha256: str | None = None
    size: int | None = None
    target: str | None = None
    target_of: TargetOf | None = None
    required_files: str = ""
    experiments: bool = False
    default: bool = True


def _lmdb(target: str, path: PurePosixPath) -> str | None:
    """Return the target of a file of a database: the database is this file, or a folder with the file."""
    name = PurePosixPath(target).name
    if path.name == name:
        return target
    return f"{target}/{path.name}" if path.parent.name == name else None


def _annotation(suffix: str, path: PurePosixPath) -> str | None:
    """Return the target of an annotation file ``fcl_mmf_<task>_<split>``."""
    match = re.fullmatch(rf"fcl_mmf_(.+)_(train|val)\.{suffix}", path.name)
    for task in (task for setting in SETTINGS for task in tasks(setting).values()):
        if match and task.name == match[1]:
            return str(PurePosixPath(task.annotation_path(match[2])).with_suffix(f".{suffix}"))
    return None


def _replay(setting: str, path: PurePosixPath) -> str | None:
    """Return the path where SRM itself would have written the replays ``<order>_REPLAY[<p>]_AT[<c>].npy``."""
    match = re.fullmatch(r"([a-z]{6})_REPLAY(\[.{1,2}\])?_AT\[.{1,2}\]\.npy", path.name)
    with contextlib.suppress(TaskError):  # an order of the other setting
        if match:
            return f"{srm_root(setting)}/{srm_folder('distilgpt2', setting, match[1])}/{path.name}"
    return None


def _checkpoint(setting: str, order: str) -> str:
    """Return the path where training the last task of an order with replay rate 1.5 would have written the weights."""
    folder = run_folder(setting, order, srm_experiment("distilgpt2", 1.5))
    return final_weights(f"{folder}/{task_folder(parse_order(setting, order)[-1])}")


# fmt: off
SOURCES: tuple[Source, ...] = (
    Source(
        name="vocabulary",
        description="answer vocabulary",
        url=f"{CLOVE_FILES_URL}/clvqa_answer_6k.txt",
        sha256="1a97f1167fe9ea02dd251e0ff4d6ba634699091ff0a917d7568584d18558eebf",
        size=41_128,
        target=data_root.VOCABULARY,
    ),
    Source(
        name="prompts-scene",
        description="scene-graph prompts, scene setting",
        url=f"{CLOVE_FILES_URL}/stage_sg_scene_setting_50u-50c.json",
        sha256="c328eeec4061ace3c3ca9271b9cf924695d1eb4833e2db591cfbe4ed95bc6161",
        size=3_640_477,
        target=data_root.prompts_path("scene"),
    ),
    Source(
        name="clove",
        description="CLOVE annotations (.npy)",
        url=f"{CLOVE_URL}/CLOVE-npy.zip",
        target_of=partial(_annotation, "npy"),
        required_files="fcl_mmf_<task>_<train|val>.npy",
    ),
    *(
        Source(
            name=name,
            description=f"{regions} features of {images}",
            url=f"{MMF_URL}/datasets/{folder}/features/features.tar.gz",
            sha256=sha256,
            target_of=partial(_lmdb, target),
            required_files=PurePosixPath(target).name,
        )
        for name, regions, images, folder, target, sha256 in (
            ("gqa-features", "object", "GQA", "gqa/defaults", data_root.GQA_FEATURES,
             "530e62e398faa5c9f2d4f7edc2223cce4a679b2837fa4252976f0eff4127f9ce"),
            ("textvqa-features", "object", "TextVQA", "textvqa/defaults", data_root.TEXTVQA_FEATURES,
             "960f69c651f5c6532b4e9d8310597aa8d21c65074768c9702ea822e4b2867a0d"),
            ("textvqa-ocr-features", "OCR token", "TextVQA", "textvqa/ocr_en", data_root.TEXTVQA_OCR_FEATURES,
             "3542dff9338540ff2add59bb2db290d9ea5f82a4f21ab07fe39351a82b699ee0"),
        )
    ),
    Source(
        name="fc7",
        description="weights of the detector's fc7 layer",
        url=f"{MMF_URL}/models/detectron/vmb_weights.tar.gz",
        sha256="582d85748b2df60e3c6e045b8213c0fd7084054483a3388c55aed5b25bbc3c93",
        target_of=lambda path: {"fc7_w.pkl": data_root.FC7_WEIGHT, "fc7_b.pkl": data_root.FC7_BIAS}.get(path.name),
        required_files="fc7_w.pkl and fc7_b.pkl",
    ),
    Source(name="fasttext", description="fastText vectors of English", url=FASTTEXT_URL, target=data_root.FASTTEXT),
    Source(
        name="clove-json",
        description="CLOVE annotations (.json)",
        url=f"{CLOVE_URL}/CLOVE-json.zip",
        target_of=partial(_annotation, "json"),
        required_files="fcl_mmf_<task>_<train|val>.json",
        default=False,
    ),
    *(
        Source(
            name=f"replays-{setting}",
            description=f"SRM's replays, {setting} setting",
            url=f"{CLOVE_URL}/{word}_distilgpt2_replay.zip",
            target_of=partial(_replay, setting),
            required_files="<order>_REPLAY[<task>]_AT[<task>].npy",
            experiments=True,
            default=False,
        )
        for setting, word in (("functional", "function"), ("scene", "secne"))  # published under this spelling
    ),
    *(
        Source(
            name=f"checkpoint-{setting}",
            description=f"UniVQA after {order}, {setting} setting, replay rate 1.5",
            url=f"{CLOVE_URL}/{word}_{order}_distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5_unicl_final.pth",
            target=_checkpoint(setting, order),
            experiments=True,
            default=False,
        )
        for setting, word, order in (("functional", "function", "oarlks"), ("scene", "scene", "abcdef"))
    ),
)
# fmt: on
"""All published files, in the order they are downloaded."""


def select(names: list[str]) -> list[Source]:
    """Return the sources with the given names; the default sources if no name is given, all sources for ``all``.

    Raises:
        DataError: a name is unknown; the message lists the known names.
    """
    if names == ["all"]:
        return list(SOURCES)
    by_name = {source.name: source for source in SOURCES}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise DataError(f"unknown download {', '.join(unknown)}; available: {', '.join(by_name)}, all")
    return [by_name[name] for name in dict.fromkeys(names)] or [source for source in SOURCES if source.default]


class Downloader:
    """Downloads sources into a data root.

    Args:
        experiments: the experiment root for replays and checkpoints.
        base_url: URL of a mirror, which replaces scheme and host of every URL.
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
        """Return the URL from which a source is downloaded."""
        return source.url if self.base_url is None else self.base_url.rstrip("/") + urlsplit(source.url).path

    def root_of(self, source: Source) -> Path:
        """Return the root to which the targets of a source are relative."""
        return self.experiments if source.experiments else self.root

    def placed(self, source: Source) -> dict[str, int]:
        """Return the files that an earlier run placed, with their sizes in bytes; empty if one has changed since."""
        try:
            files = dict(json.loads(self._receipt(source).read_text(encoding="utf-8"))["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return files if all(_size(self.root_of(source) / name) == size for name, size in files.items()) else {}

    def get(self, source: Source) -> list[str]:
        """Download one source and place its files.

        Returns:
            Lines that describe what was done.

        Raises:
            DataError: the source cannot be downloaded, has a wrong checksum, or contains no required file.
        """
        if self.placed(source):
            return [f"{source.name}: already downloaded"]
        url, root = self.url(source), self.root_of(source)
        lines = []
        if source.target_of is None:
            placed = [str(source.target)]
            sha256 = fetch(url, root / placed[0], source.sha256, self.progress)
        else:
            archive = self._folder / source.name / PurePosixPath(urlsplit(url).path).name
            sha256 = fetch(url, archive, source.sha256, self.progress)
            try:
                staging = root / f".extracting-{source.name}"
                placed, skipped = extract(archive, root, source.target_of, source.required_files, staging)
            except BrokenArchiveError:
                archive.unlink()
                raise
            shutil.rmtree(archive.parent)
            if skipped:
                lines.append(f"{source.name}: left out {counted(len(skipped), 'other file')} of the archive")
        if source.sha256 is None:
            lines.append(f"{source.name}: no published checksum; the downloaded file has sha256 {sha256}")
        files = {name: _size(root / name) for name in placed}
        write_json(self._receipt(source), {"url": url, "sha256": sha256, "files": files})
        return [*lines, f"{source.name}: {counted(len(placed), 'file')} below {root}"]

    def plan(self, sources: Sequence[Source], listed: Sequence[Source]) -> str:
        """Describe the sources ``listed``, of which ``sources`` would be downloaded, without a network request."""
        lines = []
        for source in listed:
            files = self.placed(source)
            size = sum(files.values()) if files else source.size
            lines += [
                f"{source.name}: {source.description}{'' if source in sources else ' (only when named)'}",
                "  already downloaded" if files else f"  from {self.url(source)}",
                f"  size {'not published' if size is None else f'{size:,} bytes'}",
                f"  sha256 {source.sha256 or 'not published'}",
                f"  to {self.root_of(source) / (source.target or '')}",
            ]
        sizes = [source.size for source in sources if not self.placed(source)]
        known = f"{sum(size or 0 for size in sizes):,} bytes"
        lines.append(f"to fetch: {len(sizes)} of {len(sources)}; {known}, and {sizes.count(None)} of unpublished size")
        return "\n".join(lines)

    def _receipt(self, source: Source) -> Path:
        return self._folder / f"{source.name}.json"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the ``download`` command."""
    names = ", ".join(source.name for source in SOURCES)
    default = ", ".join(source.name for source in select([]))
    parser.add_argument("dir", metavar="DIR", help="the data root to fill")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}, or all (default: {default})")
    parser.add_argument(
        "--root", help="experiment root for replays and checkpoints (default: $ROOT, else DIR/published)"
    )
    parser.add_argument("--base-url", metavar="URL", help="mirror that replaces scheme and host of every URL")
    parser.add_argument("--dry-run", action="store_true", help="list what would be downloaded, and exit")


def run(args: argparse.Namespace) -> int:
    """Download the named sources; the first failure ends the command, and files placed before are kept."""
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
