"""Compares the values of the published configuration files with this project's.

    python tests/parity/check_configs.py FILE

FILE is JSON: ``in_all_14`` has the dotted keys and values that all published files share, ``only_here`` those of each
file by its path in EXP_CONFIG. Every value must be that of this project's file of the same path, be unused
(``IGNORED_KEYS`` in mmclvqa/published_configs.py), or be listed in ``DIFFERENT``. Other differences are printed.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from mmf.utils.configuration import Configuration  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402

import mmclvqa  # noqa: E402, F401  (before mmf)
from mmclvqa.published_configs import MACHINE_PATHS, file_name, ignored_pattern, translate_key  # noqa: E402

DIFFERENT: dict[str, str] = {
    "config": "it is the path of the file itself",
    "env.save_dir": "a place on the author's machine; below ROOT here, where the scripts put it, too",
    "env.cache_dir": "a place on the author's machine",
    "env.data_dir": "a place on the author's machine; CLOVE_ROOT here",
    "model_config.unicl.model_data_dir": "a place on the author's machine; CLOVE_ROOT here",
    "dataset_config.clvqa.data_dir": "a place on the author's machine; features_dir below CLOVE_ROOT here",
    "checkpoint.max_to_keep": "the two newest are kept: one takes 1 GB, and no result depends on them",
    "model_config.unicl.ocr.mmt_in_dim": "computed from the other sizes, to the published number for the published",
    "model_config.unicl.classifier.ocr_ptr_net.*": "computed, as above",
    "scheduler": "the schedule that training.lr_* describe is named (pythia); the published code builds it unnamed",
    "training.callbacks": "k-means replay has its callback without naming it, and other methods do not need it",
    "training.device": "a GPU where there is one, otherwise the CPU",
    "training.CL.use_cl": "left over from an experiment; nothing reads it in a stand-alone run, and scripts name it",
    "training.CL.use_callback": "left over, as above",
    "training.CL.reg_type": "left over, as above",
    "training.CL.task_order": "left over, as above; a run that needs an order and names none is refused",
    "training.CL.restore_dir": "left over, as above",
    "training.CL.restore_paths": "left over, as above",
}
"""Patterns of keys whose value differs from the published one, and the reason."""


def published_files(path: Path) -> dict[str, dict[str, Any]]:
    """Return dotted keys and values of each published file, by its path in EXP_CONFIG."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: {**content["in_all_14"], **own} for name, own in content["only_here"].items()}


def compose(*words: str) -> DictConfig:
    """Return the configuration of ``mmf_run`` with these overrides, with fictitious roots."""
    before, folder = dict(os.environ), Path.cwd()
    os.environ.update(ROOT="/experiments", CLOVE_ROOT="/clove")
    os.environ.pop("MMF_USER_DIR", None)
    os.chdir(PROJECT)
    try:
        config = Configuration(argparse.Namespace(opts=list(words), config_override=None)).get_config()
        return OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


def check(path: Path, used: set[str] | None = None) -> Iterator[str]:
    """Yield a line for each difference; patterns of :data:`DIFFERENT` that match are added to ``used``."""
    for name, values in published_files(path).items():
        ours = compose(f"config=EXP_CONFIG/{name}", "model=unicl", "dataset=clvqa")
        for key, value in values.items():
            if ignored_pattern(key):
                continue
            for line in differences(ours, key, value):
                pattern = next((pattern for pattern in DIFFERENT if fnmatch.fnmatchcase(key, pattern)), None)
                if pattern is None:
                    yield f"{name}: {line}"
                elif used is not None:
                    used.add(pattern)


def differences(ours: DictConfig, key: str, value: Any) -> Iterator[str]:
    """Yield a line for each of this project's keys that differs from a published value."""
    for own_key, wanted in translate_key(key, copy.deepcopy(value)).items():
        own = OmegaConf.select(ours, own_key, default="(no such key)")
        own = OmegaConf.to_container(own) if OmegaConf.is_config(own) else own
        if isinstance(wanted, str) and "${pretrained:" in wanted:
            wanted = value
        if MACHINE_PATHS.get(key):
            own, wanted = _names(own), _names(wanted)
        if own != wanted or isinstance(own, bool) != isinstance(wanted, bool):
            called = "" if own_key == key else f" ({own_key} here)"
            yield f"{key}{called}: published {wanted!r}, ours {own!r}"


def _names(places: Any) -> Any:
    """Return the file names of a path or a list of paths."""
    return [file_name(place) for place in places] if isinstance(places, list) else file_name(places)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    path = parser.parse_args().file
    problems = list(check(path))
    print("\n".join(problems) or f"{path}: every value holds or stands in the table of differences")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
