"""Writing the data root of the small world: every file of the real one, under the same names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmclvqa.clove import layout
from mmclvqa.clove.annotations import save_records
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.manifest import SPLITS, Manifest, save_manifest
from mmclvqa.clove.mini.databases import write_database
from mmclvqa.clove.mini.draws import named_random
from mmclvqa.clove.mini.pretrained import BERT_LAYERS, BERT_WIDTH, write_pretrained
from mmclvqa.clove.mini.records import TEXT_TASK, draw_records, sample_scenes, sample_text_scenes
from mmclvqa.clove.mini.render import Codebook, render_objects, render_words
from mmclvqa.clove.mini.scenes import Scene
from mmclvqa.clove.mini.vocabulary import SCENE_TYPES, answer_vocabulary
from mmclvqa.clove.prompts import save_prompts
from mmclvqa.clove.scene_graph_prompts import sample_prompts
from mmclvqa.clove.tasks import SETTINGS, Task, tasks
from mmclvqa.clove.vocabulary import save_vocabulary

NAME = "clove-mini"
VERSION = 4
"""Rises whenever the same settings give other files."""
SCENE_SHARE = 4
"""A task of the scene setting, with its sixth of the classes, has one train record for so many of another task.

SRM's replays, of which so small a world has some hundred different ones, then outnumber a new task's records
about as they do at CLOVE's size and rate 1.5.
"""
SMALLEST_REGIONS = 12
SMALLEST_FEATURE_DIM = 16


@dataclass(frozen=True)
class Settings:
    """What decides every byte of a data root.

    Attributes:
        train: records per task in the train split; a task of the scene setting has a quarter of them.
        val: records per task in the val split.
        images: GQA-like pictures of the train split; half as many are TextVQA-like.
        regions: most object regions of a picture.
        feature_dim: width of a region's feature.
        seed: of every draw.
    """

    train: int = 4000
    val: int = 500
    images: int = 3000
    regions: int = 16
    feature_dim: int = 64
    seed: int = 0

    def check(self) -> None:
        """Raise DataError for sizes that no world can have."""
        smallest = {
            "train": 1,
            "val": 1,
            "images": len(SCENE_TYPES),
            "regions": SMALLEST_REGIONS,
            "feature_dim": SMALLEST_FEATURE_DIM,
            "seed": 0,
        }
        for name, least in smallest.items():
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise DataError(f"--{option} {getattr(self, name)}: must be at least {least}")

    def records(self, setting: str, split: str) -> int:
        """Records of each task of a setting in a split."""
        if split == "train":
            return max(1, self.train // SCENE_SHARE) if setting == "scene" else self.train
        return self.val

    def pictures(self, split: str) -> int:
        """GQA-like pictures of a split: val has them in proportion to its records."""
        if split == "train":
            return self.images
        return max(len(SCENE_TYPES), -(-self.images * self.val // self.train))

    def manifest(self) -> Manifest:
        """The manifest of a root made with these settings."""
        counts = {
            setting: {
                task.name: {split: self.records(setting, split) for split in SPLITS} for task in tasks(setting).values()
            }
            for setting in SETTINGS
        }
        shape: dict[str, Any] = {"version": VERSION, **asdict(self)}
        shape |= {"answers": len(answer_vocabulary()), "text_width": BERT_WIDTH, "text_layers": BERT_LAYERS}
        del shape["seed"]
        return Manifest(NAME, self.seed, counts, shape)


def write_root(root: Path, settings: Settings) -> None:
    """Write a whole data root into the empty folder ``root``; the manifest comes last.

    Equal settings give equal bytes. Memory holds the scenes and the records of one task, never the features.

    Raises:
        DataError: a size is too small.
        OSError, lmdb.Error: the folder cannot be written or the disk is full.
    """
    settings.check()
    seed = settings.seed
    scenes = {split: sample_scenes(seed, split, settings.pictures(split)) for split in SPLITS}
    texts = {
        split: sample_text_scenes(seed, split, max(1, settings.pictures(split) // 2)) for split in SPLITS
    }
    save_vocabulary(root / layout.VOCABULARY, answer_vocabulary())
    _write_annotations(root, settings, scenes, texts)
    _write_features(root, settings, [*scenes["train"], *scenes["val"]], [*texts["train"], *texts["val"]])
    write_pretrained(root, seed, settings.feature_dim)
    save_manifest(root, settings.manifest())


def _write_annotations(
    root: Path, settings: Settings, scenes: dict[str, list[Scene]], texts: dict[str, list[Scene]]
) -> None:
    """The records of every task, and from those of the train split its prompts."""
    every = [task for setting in SETTINGS for task in tasks(setting).values()]
    prompts: dict[str, dict[str, list[list[str]]]] = {setting: {} for setting in SETTINGS}
    for task in tqdm(every, desc="records", disable=None, leave=False):
        for split in SPLITS:
            pictures = _pictures_of(task, scenes[split], texts[split])
            records = draw_records(task, split, settings.records(task.setting, split), pictures, settings.seed)
            save_records(root / task.annotation_path(split), records)
            if split == "train":
                rng = named_random(settings.seed, "prompts", task.setting, task.name)
                prompts[task.setting][task.name] = sample_prompts(records, task, settings.train, rng)
    for setting, sampled in prompts.items():
        save_prompts(root / layout.prompts_path(setting), sampled)


def _pictures_of(task: Task, scenes: Sequence[Scene], texts: Sequence[Scene]) -> list[Scene]:
    if task.setting == "scene":
        return [scene for scene in scenes if scene.letter == task.letter]
    return list(texts if task.name == TEXT_TASK else scenes)


def _write_features(root: Path, settings: Settings, scenes: list[Scene], texts: list[Scene]) -> None:
    codebook = Codebook(settings.seed, settings.feature_dim)
    region_bytes = 4 * settings.feature_dim + 32
    most = settings.regions * region_bytes
    write_database(
        root / layout.GQA_FEATURES,
        [scene.image_id for scene in scenes],
        lambda index: render_objects(scenes[index], codebook, settings.regions),
        most,
    )
    keys = [f"train/{scene.image_id}" for scene in texts]
    write_database(
        root / layout.TEXTVQA_FEATURES,
        keys,
        lambda index: render_objects(texts[index], codebook, settings.regions),
        most,
    )
    write_database(
        root / layout.TEXTVQA_OCR_FEATURES, keys, lambda index: render_words(texts[index], codebook), most
    )
