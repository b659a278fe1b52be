"""Where things lie below a data root (``CLOVE_ROOT``), as relative paths."""

from __future__ import annotations

import os
from pathlib import Path

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.tasks import Task

VOCABULARY = "vocab/clvqa_answer_6k.txt"
MANIFEST = "manifest.json"
GQA_FEATURES = "features/gqa/defaults/features/gqa.lmdb"
TEXTVQA_FEATURES = "features/textvqa/defaults/features/open_images/detectron.lmdb"
TEXTVQA_OCR_FEATURES = "features/textvqa/ocr_en/features/ocr_en_frcn_features.lmdb"
BERT = "pretrained/bert-base-uncased"
DISTILGPT2 = "pretrained/distilgpt2"
FASTTEXT = "pretrained/fasttext/wiki.en.bin"
FC7_WEIGHT = "pretrained/detectron/fc7_w.pkl"
FC7_BIAS = "pretrained/detectron/fc7_b.pkl"


def prompts_path(setting: str) -> str:
    """The scene-graph prompts of a setting."""
    return f"scene_graph_prompts/{setting}.json"


def annotation_file(root: str | os.PathLike[str], task: Task, split: str) -> Path | None:
    """The annotation file of a task and split: the ``.npy``, else the ``.json`` beside it, else None."""
    path = Path(root) / task.annotation_path(split)
    return next((file for file in (path, path.with_suffix(".json")) if file.exists()), None)


def existing_root(path: str | os.PathLike[str] | None) -> Path:
    """A data root from a command line, or from ``$CLOVE_ROOT`` where none is given.

    Raises:
        DataError: neither says one, or it is no folder.
    """
    path = path or os.environ.get("CLOVE_ROOT")
    if not path:
        raise DataError("no data root: name its folder or set CLOVE_ROOT")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; `python -m mmclvqa.clove mini {root}` makes one")
    return root
