"""The generator of clove-mini: writes a data root in every format of CLOVE, completely or not at all.

``python -m mmclvqa.clove mini DIR`` runs it.
"""

from __future__ import annotations

import argparse
import glob
import os
import random
import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmclvqa.clove import data_root
from mmclvqa.clove.data_root import MANIFEST, SPLITS, Manifest, load_manifest, save_manifest, save_vocabulary
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.prompts import sample_prompts, save_prompts
from mmclvqa.clove.records import save_records
from mmclvqa.clove.tasks import SETTINGS, Task, tasks
from mmclvqa.mini.features import Codebook, render_objects, render_words, write_database
from mmclvqa.mini.pretrained import BERT_LAYERS, BERT_WIDTH, write_pretrained
from mmclvqa.mini.questions import is_about_an_anchor
from mmclvqa.mini.records import RELATION_TASK, TEXT_TASK, draw_records
from mmclvqa.mini.scenes import Scene, named_random, sample_scenes, sample_text_scenes
from mmclvqa.mini.vocabulary import SCENE_TYPES, answer_vocabulary

NAME = "clove-mini"
VERSION = 5
"""Increased whenever the same settings give different files."""
SCENE_SHARE = 4
"""Ratio of the train records of a functional task to those of a scene task, which has a sixth of the classes.

A scene task has only some hundred different replays. With fewer train records, the ratio of replays to records of a
new task is similar to that of CLOVE at rate 1.5.
"""
_OPTIONS: dict[str, tuple[int, str]] = {
    "train": (1, "train records per task; a task of the scene setting has a quarter of them"),
    "val": (1, "val records per task"),
    "images": (len(SCENE_TYPES), "GQA-like images of the train split (default: three per four train records)"),
    "regions": (12, "maximum number of object regions of an image"),
    "feature-dim": (16, "width of the features of a region"),
    "seed": (0, "seed of all draws; equal settings give equal bytes"),
}
"""Smallest value and help of each option of the command line, which is a field of :class:`Settings`."""


@dataclass(frozen=True)
class Settings:
    """Sizes and seed, which determine every byte of a data root; :data:`_OPTIONS` describes them.

    There are half as many TextVQA-like images as GQA-like ``images``.
    """

    train: int = 4000
    val: int = 500
    images: int = 3000
    regions: int = 16
    feature_dim: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise :class:`DataError` if a size is too small."""
        for option, (least, _) in _OPTIONS.items():
            size = getattr(self, option.replace("-", "_"))
            if size < least:
                raise DataError(f"--{option} {size}: must be at least {least}")

    def records(self, setting: str, split: str) -> int:
        """Return the number of records per task of a setting in a split."""
        if split == "train":
            return max(1, self.train // SCENE_SHARE) if setting == "scene" else self.train
        return self.val

    def scenes(self, split: str) -> int:
        """Return the number of GQA-like images of a split; those of val are proportional to its records."""
        if split == "train":
            return self.images
        return max(len(SCENE_TYPES), -(-self.images * self.val // self.train))

    def manifest(self) -> Manifest:
        """Return the manifest of a data root with these settings."""
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for setting in SETTINGS:
            sizes = {split: self.records(setting, split) for split in SPLITS}
            counts[setting] = {task.name: sizes for task in tasks(setting).values()}
        shape: dict[str, Any] = {"version": VERSION, **asdict(self)}
        shape |= {"answers": len(answer_vocabulary()), "text_width": BERT_WIDTH, "text_layers": BERT_LAYERS}
        del shape["seed"]
        return Manifest(NAME, self.seed, counts, shape)


def write_root(root: Path, settings: Settings) -> None:
    """Write a complete data root into the empty folder ``root``, the manifest last.

    Equal settings give equal bytes. The scenes and the records of one task are kept in memory, the features are not.

    Raises:
        DataError: a feature database cannot be written.
        OSError: the folder cannot be written or the disk is full.
    """
    seed = settings.seed
    scenes = {split: sample_scenes(seed, split, settings.scenes(split)) for split in SPLITS}
    texts = {split: sample_text_scenes(seed, split, max(1, settings.scenes(split) // 2)) for split in SPLITS}
    save_vocabulary(root / data_root.VOCABULARY, answer_vocabulary())
    _write_annotations(root, settings, scenes, texts)
    _write_features(root, settings, [*scenes["train"], *scenes["val"]], [*texts["train"], *texts["val"]])
    write_pretrained(root, seed, settings.feature_dim)
    save_manifest(root, settings.manifest())


def _write_annotations(
    root: Path, settings: Settings, scenes: dict[str, list[Scene]], texts: dict[str, list[Scene]]
) -> None:
    """Write the records of every task, and its prompts sampled from the train records."""
    every = [task for setting in SETTINGS for task in tasks(setting).values()]
    prompts: dict[str, dict[str, list[list[str]]]] = {setting: {} for setting in SETTINGS}
    for task in tqdm(every, desc="records", disable=None, leave=False):
        for split in SPLITS:
            of_task = texts[split] if task.name == TEXT_TASK else scenes[split]
            if task.setting == "scene":
                of_task = [scene for scene in scenes[split] if scene.letter == task.letter]
            records = draw_records(task, split, settings.records(task.setting, split), of_task, settings.seed)
            save_records(root / task.annotation_path(split), records)
            if split == "train":
                rng = named_random(settings.seed, "prompts", task.setting, task.name)
                prompts[task.setting][task.name] = _sample_prompts(records, task, settings.train, rng)
    for setting, sampled in prompts.items():
        save_prompts(root / data_root.prompts_path(setting), sampled)


def _sample_prompts(records: list[dict[str, Any]], task: Task, count: int, rng: random.Random) -> list[list[str]]:
    """Sample prompts; those of the relation task are limited to what clove-mini's questions ask about.

    The published sampling pairs all triples that share an object. Here a question is about an anchor with a horizontal
    and a vertical neighbor, so an answer does not follow from other pairs.
    """
    prompts = sample_prompts(records, task, count, rng)
    if task.name != RELATION_TASK:
        return prompts
    askable = [prompt for prompt in prompts if is_about_an_anchor(prompt)]
    while askable and len(askable) < count:
        askable += filter(is_about_an_anchor, sample_prompts(records, task, 4 * count, rng))
    return askable[:count] or prompts


def _write_features(root: Path, settings: Settings, scenes: list[Scene], texts: list[Scene]) -> None:
    codebook = Codebook(settings.seed, settings.feature_dim)
    entry_bytes = settings.regions * (4 * settings.feature_dim + 32)
    objects = partial(render_objects, codebook=codebook, max_regions=settings.regions)
    words = partial(render_words, codebook=codebook)
    text_by_key = {f"train/{scene.image_id}": scene for scene in texts}
    write_database(root / data_root.GQA_FEATURES, {scene.image_id: scene for scene in scenes}, objects, entry_bytes)
    write_database(root / data_root.TEXTVQA_FEATURES, text_by_key, objects, entry_bytes)
    write_database(root / data_root.TEXTVQA_OCR_FEATURES, text_by_key, words, entry_bytes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the ``mini`` command."""
    parser.add_argument("dir", type=Path, metavar="DIR", help="the data root to generate (CLOVE_ROOT)")
    for option, (_, text) in _OPTIONS.items():
        default = None if option == "images" else getattr(Settings, option.replace("-", "_"))
        text = text if default is None else f"{text} (default: %(default)s)"
        parser.add_argument(f"--{option}", type=int, default=default, metavar="N", help=text)
    parser.add_argument("--overwrite", action="store_true", help=f"replace a {NAME} generated with other settings")


def run(args: argparse.Namespace) -> int:
    """Generate the data root of a command line; return 0."""
    images = args.images if args.images is not None else max(len(SCENE_TYPES), args.train * 3 // 4)
    settings = Settings(args.train, args.val, images, args.regions, args.feature_dim, args.seed)
    print(make_root(args.dir, settings, args.overwrite))
    return 0


def make_root(root: Path, settings: Settings, overwrite: bool = False) -> str:
    """Generate the data root ``root`` unless it exists, in a temporary folder that is renamed when complete.

    Returns:
        One line that describes what was done.

    Raises:
        DataError: ``root`` has other contents, which are kept, or a feature database cannot be written.
        OSError: the folder cannot be written; nothing is left behind.
    """
    root = Path(os.path.realpath(root))
    existing = _existing_manifest(root)
    if existing == settings.manifest():
        return f"{root}: already exists, generated with the same settings"
    if existing and not overwrite:
        old, new = ({"seed": manifest.seed, **manifest.shape} for manifest in (existing, settings.manifest()))
        named = [f"{key} {old.get(key)} instead of {new[key]}" for key in new if old.get(key) != new[key]]
        raise DataError(f"{root}: was generated with {', '.join(named) or 'other sizes'}; --overwrite replaces it")
    _remove_leftovers(root)
    started = time.perf_counter()
    partial = root.parent / f".{root.name}.partial-{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        write_root(partial, settings)
        if existing:
            old = root.parent / f".{root.name}.partial-old-{os.getpid()}"
            root.rename(old)
            partial.rename(root)
            shutil.rmtree(old)
        else:
            try:
                partial.rename(root)
            except OSError:
                # Another process may have generated the same in the meantime.
                if _existing_manifest(root) != settings.manifest():
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    return f"{root}: written, {size / 2**20:.0f} MiB in {time.perf_counter() - started:.0f} s"


def _existing_manifest(root: Path) -> Manifest | None:
    """Return the manifest of an existing clove-mini, None if ``root`` does not exist or is empty."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    manifest = load_manifest(root) if (root / MANIFEST).is_file() else None
    if manifest is None or manifest.name != NAME:
        raise DataError(f"{root}: exists and was not generated by this command; choose another folder")
    return manifest


def _remove_leftovers(root: Path) -> None:
    """Remove the temporary folders of killed runs, whose names end with the id of their process."""
    for folder in root.parent.glob(f".{glob.escape(root.name)}.partial-*"):
        if not _is_another_process(int(folder.name.rpartition("-")[2])):
            shutil.rmtree(folder, ignore_errors=True)


def _is_another_process(process: int) -> bool:
    """Return whether another process has this id; in containers, this one often has that of an earlier run."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
