"""Where pretrained weights and tokenizers are taken from: the data root first, then the hub."""

from __future__ import annotations

import os
from pathlib import Path


def pretrained_source(root: str | os.PathLike[str], name: str) -> str:
    """``<root>/pretrained/<name>`` where that folder exists, else ``name`` as a hub id."""
    folder = Path(root) / "pretrained" / name
    return str(folder) if folder.is_dir() else name
