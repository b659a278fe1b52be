"""The data root (``CLOVE_ROOT``): its paths, the numbers of records of its tasks, its vocabulary and word vectors.

Generated data has a ``manifest.json`` with the numbers of records. Published CLOVE has none; its numbers are those of
its setting files. The records of other data without a manifest are counted. The numbers of replays depend on them, see
:mod:`mmclvqa.methods.replay`.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write, read_errors, read_json, read_text, write_json
from mmclvqa.clove.records import load_records
from mmclvqa.clove.tasks import SETTINGS, Task, find_setting, setting_names, tasks

VOCABULARY = "vocab/clvqa_answer_6k.txt"
MANIFEST = "manifest.json"
FEATURES = "features"
GQA_FEATURES, TEXTVQA_FEATURES, TEXTVQA_OCR_FEATURES = (
    f"{FEATURES}/{database}"
    for setting in SETTINGS for source in find_setting(setting).image_sources.values() for database in source.features
)  # fmt: skip
BERT = "pretrained/bert-base-uncased"
DISTILGPT2 = "pretrained/distilgpt2"
FASTTEXT = "pretrained/fasttext/wiki.en.bin"
FC7_WEIGHT = "pretrained/detectron/fc7_w.pkl"
FC7_BIAS = "pretrained/detectron/fc7_b.pkl"

SPLITS = ("train", "val")

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
"""The first four lines of a vocabulary (index 0 to 3): padding, begin, end and unknown."""

PUBLISHED_SIZE = 6182
"""Number of lines of CLOVE's vocabulary; it determines shapes in the published checkpoints."""

FASTTEXT_MAGIC, FASTTEXT_VERSION = 793712314, 12
"""The first two numbers of a fastText model, and the latest version of its format."""
FASTTEXT_WIDTH = 300
"""Dimension of the word vectors, which UniVQA expects."""
FASTTEXT_SUPERVISED = 3
"""Kind of a fastText model that is a classifier; models of word vectors are of kind 1 or 2."""


def prompts_path(setting: str) -> str:
    """Return the path of the scene-graph prompts of a setting, relative to the data root."""
    return f"scene_graph_prompts/{setting}.json"


def annotation_file(root: str | os.PathLike[str], task: Task, split: str) -> Path | None:
    """Return the annotation file of a task and split: the ``.npy`` file, else the ``.json`` file, else None."""
    path = Path(root) / task.annotation_path(split)
    return next((file for file in (path, path.with_suffix(".json")) if file.exists()), None)


def existing_annotation_file(root: str | os.PathLike[str], task: Task, split: str) -> Path:
    """Return the annotation file of a task and split.

    Raises:
        DataError: it does not exist.
    """
    path = annotation_file(root, task, split)
    if path is None:
        setting = find_setting(task.setting)
        named = "" if setting.in_package else f"; {setting.file} names it as annotations of task {task.name}"
        raise DataError(f"{Path(root) / task.annotation_path(split)}: there is no such file (nor .json){named}")
    return path


def existing_root(path: str | os.PathLike[str] | None) -> Path:
    """Return the data root given on a command line, or ``$CLOVE_ROOT`` if none is given; its settings become known.

    Raises:
        DataError: neither is set, or the folder does not exist.
    """
    path = path or os.environ.get("CLOVE_ROOT")
    if not path:
        raise DataError("no data root given; pass its folder or set CLOVE_ROOT")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; `python -m mmclvqa.clove mini {root}` makes one")
    setting_names(root)
    return root


def pretrained_source(root: str | os.PathLike[str], name: str) -> str:
    """Return ``<root>/pretrained/<name>`` if that folder exists, else ``name`` as a hub id."""
    folder = Path(root) / "pretrained" / name
    return str(folder) if folder.is_dir() else name


@dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``.

    Attributes:
        seed: seed of the generator, None if the data is not generated.
        tasks: ``{setting: {task name: {"train": number of records, "val": number of records}}}``.
        shape: sizes of features and texts; any keys are allowed.
    """

    name: str
    seed: int | None
    tasks: dict[str, dict[str, dict[str, int]]]
    shape: dict[str, Any] = field(default_factory=dict)


def load_manifest(root: str | os.PathLike[str]) -> Manifest | None:
    """Read the manifest of a data root, None if it has none.

    Raises:
        DataError: the file is not a valid manifest.
    """
    path = Path(root) / MANIFEST
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("tasks"), dict):
        raise DataError(f"{path}: is not a manifest: it has no 'tasks' by setting")
    names = setting_names(root)
    for setting, sizes in value["tasks"].items():
        if setting not in names:
            raise DataError(f"{path}: {setting!r} is not a setting; the settings are {', '.join(names)}")
        _check_setting(path, setting, sizes)
    return Manifest(str(value.get("name", "")), value.get("seed"), value["tasks"], value.get("shape") or {})


def _check_setting(path: Path, setting: str, sizes: Any) -> None:
    if not isinstance(sizes, dict):
        raise DataError(f"{path}: the {setting} setting is not a table of tasks")
    names = [candidate.name for candidate in tasks(setting).values()]
    for name, counts in sizes.items():
        if name not in names:
            raise DataError(f"{path}: {name!r} is not a task of the {setting} setting ({', '.join(names)})")
        for split in SPLITS:
            count = counts.get(split) if isinstance(counts, dict) else None
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise DataError(f"{path}: {setting}, {name}: {split!r} is not a number of records")


def save_manifest(root: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write ``manifest.json`` into a data root."""
    write_json(Path(root) / MANIFEST, asdict(manifest))


def split_size(root: str | os.PathLike[str], selected: Task, split: str) -> int:
    """Return the number of records of a task and split: from the manifest, as published, or counted.

    Args:
        split: ``train``, whose size n(t) determines the number of replays, or ``val``.

    Raises:
        DataError: the manifest is invalid or lacks the task, there is no annotation file whose records can be counted,
            or the setting file has another number.
    """
    manifest, source = load_manifest(root), Path(root) / MANIFEST
    in_manifest = manifest.tasks.get(selected.setting, {}).get(selected.name) if manifest else None
    setting = find_setting(selected.setting)
    expected = selected.train_size if split == "train" else selected.val_size
    if setting.in_package:
        if manifest is None:
            return expected
        if in_manifest is None:
            raise DataError(f"{source}: does not have task {selected.name} of the {selected.setting} setting")
        return in_manifest[split]
    if in_manifest:
        size = in_manifest[split]
    else:
        source = existing_annotation_file(root, selected, split)
        size = _count_records(source, source.stat().st_mtime_ns)
    if expected not in (None, size):
        problem = f"{split} is {expected}, but {source} has {size} records; correct the number, or leave it out"
        raise DataError(f"{setting.file}: task {selected.name}: {problem}")
    return size


@cache
def _count_records(path: Path, modified: int) -> int:
    return len(load_records(path))


def load_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """Read the answer vocabulary: one answer word per line, :data:`SPECIALS` first.

    Raises:
        DataError: the file is missing or not UTF-8, the first lines are not the special words, or a line is blank or
            repeated; the message gives the line number, counted from 1.
    """
    return _checked_words([line.strip() for line in read_text(path).removesuffix("\n").split("\n")], path)


def save_vocabulary(path: str | os.PathLike[str], words: Iterable[str]) -> None:
    """Write answer words, one per line.

    Raises:
        DataError: the words are not a vocabulary that :func:`load_vocabulary` accepts.
    """
    words = _checked_words(list(words), path)
    with atomic_write(path) as file:
        file.write("\n".join(words) + "\n")


def _checked_words(words: list[str], path: str | os.PathLike[str]) -> list[str]:
    if tuple(words[: len(SPECIALS)]) != SPECIALS:
        raise DataError(f"{path}: the first lines must be {' '.join(SPECIALS)}, one per line")
    lines: dict[str, int] = {}
    for number, word in enumerate(words, start=1):
        if not word:
            raise DataError(f"{path}: line {number} is blank")
        if word in lines:
            raise DataError(f"{path}: line {number}: {word!r} already occurs on line {lines[word]}")
        lines[word] = number
    return words


def check_fasttext(path: str | os.PathLike[str]) -> None:
    """Check the header and the size of a fastText model; the fastText library hangs on a truncated file.

    The header and the words are followed by two float32 matrices, each after its shape: the vectors of the words and
    of the buckets of subwords, and the output weights of the words. The size of a classifier is not checked.

    Raises:
        DataError: the file cannot be read, is not a fastText model of 300 dimensions, or is truncated.
    """
    header = struct.Struct("<2i12id3i")  # magic number, version, 12 numbers and 1 of the training, numbers of words
    shape = struct.Struct("<2q")
    advice = "download or generate it again"
    with read_errors(path), open(path, "rb") as file:
        fields = file.read(header.size)
        size = os.fstat(file.fileno()).st_size
        if len(fields) < header.size:
            raise DataError(f"{path}: is truncated: {size} bytes, less than a fastText header; {advice}")
        magic, version, width, *_, kind, buckets, _, _, _, _, _, words, _ = header.unpack(fields)
        if magic != FASTTEXT_MAGIC or not 0 < version <= FASTTEXT_VERSION:
            problem = f"its version is {version}, and the latest is {FASTTEXT_VERSION}"
            if magic != FASTTEXT_MAGIC:
                problem = f"its magic number is {magic} instead of {FASTTEXT_MAGIC}"
            raise DataError(f"{path}: is not a fastText model: {problem}; {advice}")
        if width != FASTTEXT_WIDTH or words < 1 or buckets < 0:
            problem = f"has {words} words and {buckets} buckets of {width} dimensions"
            raise DataError(f"{path}: {problem}; a model with words, of {FASTTEXT_WIDTH} dimensions, is required")
        if kind == FASTTEXT_SUPERVISED:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            vectors = 4 * width * (words + buckets)
            # The length of a word varies, so the position of the first matrix is found by its shape.
            start = content.find(shape.pack(words + buckets, width), header.size, max(size - vectors, header.size))
    # A word has at least one letter, an end, a count (8 bytes) and a kind; one byte says whether a matrix is quantized.
    start = header.size + 11 * words + 1 if start < 0 else start
    required = start + shape.size + vectors + 1 + shape.size + 4 * width * words
    if size < required:
        counts = f"{words} words and {buckets} buckets"
        raise DataError(f"{path}: is truncated: {size} bytes instead of at least {required} for {counts}; {advice}")
