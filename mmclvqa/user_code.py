"""Imports user code: a Python file or package with methods, models, data sets or callbacks."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.text import one_line


def user_file(path: str) -> Path:
    """Return the file that is executed when ``path``, a ``.py`` file or a package folder, is imported.

    Raises:
        ConfigError: the file does not exist.
    """
    source = Path(path).resolve()
    file = source if source.suffix == ".py" else source / "__init__.py"
    if source.is_file() and file is not source:
        raise ConfigError(f"env.user_dir={path}: it must be a .py file, or a folder with an __init__.py")
    if not file.is_file():
        raise ConfigError(f"env.user_dir={path}: there is no file {file}")
    return file


def user_code_files(path: str) -> list[Path]:
    """Return the ``.py`` file that ``path`` names, or all those of a package folder.

    Raises:
        ConfigError: the file does not exist.
    """
    file = user_file(path)
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def user_code_sha256(path: str) -> str:
    """Hash the content of the user's code.

    Raises:
        ConfigError: the file does not exist.
    """
    digest = hashlib.sha256()
    for file in user_code_files(path):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def is_from_user_code(path: str, objects: Iterable[object]) -> bool:
    """Return whether the class of one of some objects was imported from the user's code."""
    name = Path(path).resolve().stem if path else None
    return any(type(one).__module__.partition(".")[0] == name for one in objects)


def import_user_code(path: str) -> None:
    """Import a ``.py`` file or a package folder, the value of ``env.user_dir``, once per process.

    Raises:
        ConfigError: the file does not exist, or its import fails.
    """
    source, file = Path(path).resolve(), user_file(path)
    name = source.stem if source.suffix == ".py" else source.name
    loaded = sys.modules.get(name)
    if loaded is not None:
        if Path(getattr(loaded, "__file__", None) or "").resolve() != file:
            raise ConfigError(f"env.user_dir={path}: a module named {name} is imported already; rename yours")
        return
    search = [str(source)] if file is not source else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=search)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ConfigError as error:
        del sys.modules[name]
        raise ConfigError(f"env.user_dir={path}: {error}") from None
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"env.user_dir={path}: importing it failed: {type(error).__name__}: {one_line(error)}{_line(error, file)}"
        ) from error


def _line(error: BaseException, file: Path) -> str:
    """Return the line of ``file`` in which an exception was raised, as text; a SyntaxError itself names its line."""
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f" (line {numbers[-1]})" if numbers else ""
