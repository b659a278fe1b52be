"""What checkpoints are evaluated with: configuration files, ``key=value`` words, device, data."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.experiments import MODEL
from mmclvqa.clove.layout import annotation_file
from mmclvqa.clove.tasks import Task

DEFAULT_CONFIG = "EXP_CONFIG"
DEFAULT_DATA = "data/clove"
SETTLED_KEYS = ("config", "model", "dataset", "datasets", "run_type", "env.save_dir", "training.device")
"""Keys that the evaluation says itself, so that no word may."""
DATA_WORD = "env.clove_root="
DEVICES = ("auto", "cpu", "cuda")

_PLUGIN_CONFIGS = Path(__file__).parents[1] / "configs"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Setup:
    """How checkpoints are evaluated.

    Attributes:
        config: folder of the task files, ``<setting>/cl_<task>_unicl_standalone.yaml``.
        words: more ``key=value`` words, as ``mmf_run`` takes them.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
    """

    config: Path
    words: tuple[str, ...] = ()
    device: str = "auto"

    @classmethod
    def of(cls, device: str | int | None = None, words: tuple[str, ...] = ()) -> Setup:
        """With ``$CONFIG`` (default ``EXP_CONFIG``).

        Args:
            device: as above; a number is that GPU (as ``CUDA_VISIBLE_DEVICES`` counts, of several numbers the first),
                None is ``auto``.
            words: ``key=value`` words.

        Raises:
            DataError: an unknown device, or a word that cannot be given here.
        """
        for word in words:
            key = word.partition("=")[0]
            if "=" not in word:
                raise DataError(f"{word!r} is not of the form key=value")
            if key in SETTLED_KEYS:
                raise DataError(f"{word}: {key} is settled by the evaluation itself; leave it out")
        return cls(Path(os.environ.get("CONFIG") or DEFAULT_CONFIG), tuple(words), _device(device))

    @property
    def data_root(self) -> Path:
        """The data root that the words, or else ``$CLOVE_ROOT``, name."""
        given = [word.partition("=")[2] for word in self.words if word.startswith(DATA_WORD)]
        return Path(given[-1] if given else os.environ.get("CLOVE_ROOT") or DEFAULT_DATA)

    def config_file(self, task: Task) -> Path:
        """The configuration file of a task."""
        return self.config / task.setting / f"cl_{task.name}_{MODEL}_standalone.yaml"

    def inputs_sha256(self, task: Task) -> str:
        """A hash of what, besides the checkpoint, an evaluation on ``task`` depends on.

        The val records, the configuration files with all that they include, the plugin's defaults and the words.
        Feature databases are not looked into.

        Raises:
            DataError: the task's configuration file is missing or broken.
        """
        digest = hashlib.sha256()
        records = annotation_file(self.data_root, task, "val")
        files = [*_with_includes(self.config_file(task)), *sorted(_PLUGIN_CONFIGS.rglob("*.yaml"))]
        for path in [*files, *([records] if records else [])]:
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
        # Where the data are does not matter, what they are has been counted.
        digest.update("\0".join(word for word in self.words if not word.startswith(DATA_WORD)).encode())
        return digest.hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file's bytes; of a file that has not changed it is computed once per process."""
    state = os.stat(path)
    return _sha256(os.fspath(path), state.st_mtime_ns, state.st_size, state.st_ino)


@cache
def _sha256(path: str, modified: int, size: int, inode: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _with_includes(path: Path) -> list[Path]:
    """A configuration file and, recursively, what its ``includes`` name."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"config file {path} does not exist; CONFIG names the folder of these files") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"config file {path}: {' '.join(str(error).split())}") from None
    included = (content.get("includes") or []) if isinstance(content, dict) else []
    return [path, *(found for name in included for found in _with_includes(path.parent / name))]


def _device(device: str | int | None) -> str:
    name = "auto" if device is None else str(device).strip().lower()
    numbers = name.split(",")
    if all(number.isdigit() for number in numbers):
        # Where the environment has chosen GPUs already, torch counts only those.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        return f"cuda:{visible.index(numbers[0]) if numbers[0] in visible else int(numbers[0])}"
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (":" in name and (kind != "cuda" or not number.isdigit())):
        raise DataError(f"device {device}: legal are {', '.join(DEVICES)}, cuda:<n> and the number of a GPU")
    return name
