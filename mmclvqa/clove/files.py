"""Reads untrusted files without executing code in them, and writes files atomically.

CLOVE's records (``.npy`` object arrays) and MMF's feature databases are pickles, and a pickle is a program that may
call any importable object. Here each name that a pickle refers to is looked up in a short allow-list of plain Python
types and numpy arrays; any other name is rejected before it is imported.

numpy's own array and dtype classes are not exposed to the pickle either: ``dtype.__setstate__`` trusts the flags it
is given, so that a forged dtype turns raw bytes into object pointers. Stand-in classes collect and check the
description of a dtype or array before a real array is filled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import pickle
import re
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

from mmclvqa.clove.errors import CloveError, DataError, UnsafePickleError
from mmclvqa.clove.text import one_line

LOCK = ".lock"
"""Name of the lock file in a folder."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file in the same folder; on success flush it to disk and rename it to ``path``.

    If the process is killed, ``path`` has either the old or the new contents.

    Args:
        mode: ``"w"`` (UTF-8 text) or ``"wb"``.

    Raises:
        OSError: the folder is not writable or the disk is full; ``path`` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)  # a process can only read it by setting it
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def check_output_file(option: str, path: str | os.PathLike[str] | None) -> None:
    """Check that the file that an option names can be written; called before the work that produces the file.

    Its folder must exist, except below ``$ROOT``, where the commands of run scripts create their folders.

    Raises:
        DataError: the folder does not exist, or the path is that of a folder.
    """
    if path is None:
        return
    absolute, root = Path(path).absolute(), os.environ.get("ROOT")
    if absolute.is_dir():
        raise DataError(f"{option} {path}: is a folder; name a file in it")
    if not absolute.parent.is_dir() and not (root and absolute.is_relative_to(Path(root).absolute())):
        raise DataError(f"{option} {path}: there is no folder {absolute.parent}; create it, or correct the path")


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock a folder, so that no other process works in it; the lock ends with the process.

    Raises:
        CloveError: another process holds the lock.
        OSError: the folder is not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    # A record lock: unlike one of flock, processes that this process forks do not hold it after a kill.
    with open(path, "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Any other error number: the file system has no locks.
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise CloveError(f"{folder}: another process is working in this folder") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 1) -> None:
    """Write a value as UTF-8 JSON with :func:`atomic_write`; keys keep their order."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=indent, ensure_ascii=False)
        file.write("\n")


@contextlib.contextmanager
def read_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Convert errors of the operating system about a file that is read.

    Raises:
        DataError: the file is missing or unreadable.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8.
    """
    try:
        with read_errors(path):
            return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a UTF-8 JSON file.

    Raises:
        DataError: the file is missing, unreadable or not valid JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error})") from None


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a UTF-8 YAML file.

    Raises:
        DataError: the file is missing, unreadable or not valid YAML.
    """
    text = read_text(path)
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: is not valid YAML ({one_line(error)})") from None


_DTYPE_NAME = re.compile(r"[<>=|]?([biufcSUO]\d{0,9})")


def _bytes(raw: Any) -> bytes | bytearray:
    """Return the bytes of a numpy value; Python 2 wrote them as a Latin-1 ``str``."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray)):
        raise ValueError(f"numpy values are {type(raw).__name__} instead of bytes")
    return raw


class _Dtype:
    """Stand-in for ``numpy.dtype``: booleans, numbers, text, bytes or objects; no fields."""

    __slots__ = ("value",)

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        match = _DTYPE_NAME.fullmatch(name)
        if match is None:
            raise UnsafePickleError(f"numpy dtype {name!r} is not one of booleans, numbers, text and objects")
        code = match.group(1)
        # Pickles of 32-bit machines contain O4, of 64-bit machines O8; both mean objects.
        self.value = np.dtype("O" if code.startswith("O") else name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, subarray, names, fields, *_sizes_and_flags = state
        if not (subarray is None and names is None and fields is None):
            raise UnsafePickleError("a numpy dtype with fields or subarrays is not allowed in these files")
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order in ("<", ">"):
            self.value = self.value.newbyteorder(order)


class _Array(np.ndarray):
    """Stand-in for an array while its pickle is read; callers receive a plain ``numpy.ndarray``."""

    __slots__ = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, raw = state
        value = dtype.value
        if self.size:
            raise ValueError("an array is filled twice")  # that would free memory which views still use
        if value.hasobject:
            # numpy trusts the shape and would read past the end of a shorter list.
            if not isinstance(raw, list) or len(raw) != math.prod(shape):
                raise ValueError(f"{type(raw).__name__} of objects does not fill an array of shape {shape}")
        else:
            raw = _bytes(raw)
        super().__setstate__((version, shape, value, bool(fortran), raw))


class _Inert:
    """Stand-in for the class ``numpy.ndarray``; it has nothing to call or set."""

    __slots__ = ()


class _Latin1:
    """``_codecs.encode`` restricted to Latin-1, with which protocol 2 stores bytes."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise UnsafePickleError(f"_codecs.encode to {encoding!r} is not allowed in these files")
        return str(text).encode("latin1")


class _Scalar:
    """``numpy.core.multiarray.scalar``: a numpy number, boolean or text from its bytes."""

    __slots__ = ()

    def __call__(self, dtype: _Dtype, raw: bytes | str = b"") -> np.generic:
        value = dtype.value
        if value.hasobject:
            raise UnsafePickleError("a numpy scalar of dtype object is not allowed in these files")
        if value.itemsize == 0:
            return value.type()
        return np.frombuffer(_bytes(raw), value, count=1)[0]


class _FromBuffer:
    """``numpy.core.numeric._frombuffer``: an array in protocol 5, which is never of dtype object."""

    __slots__ = ()

    def __call__(
        self,
        buffer: bytes | bytearray,
        dtype: _Dtype,
        shape: tuple[int, ...],
        order: str,
        axis_order: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        flat = np.frombuffer(_bytes(buffer), dtype.value)
        if order == "K" and axis_order is not None:
            return flat.reshape(shape).transpose(axis_order)
        return flat.reshape(shape, order=order)


class _Reconstruct:
    """``numpy.core.multiarray._reconstruct``: an empty array that the pickle then fills."""

    __slots__ = ("_created_arrays",)

    def __init__(self, created_arrays: list[_Array]) -> None:
        self._created_arrays = created_arrays

    def __call__(self, subtype: _Inert, shape: tuple[int, ...], typecode: Any) -> _Array:
        if not isinstance(subtype, _Inert):
            raise UnsafePickleError(f"an array of class {type(subtype).__name__} is not allowed in these files")
        array = np.ndarray.__new__(_Array, (0,), np.int8)
        self._created_arrays.append(array)
        return array


_PLAIN = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
_ALLOWED: dict[tuple[str, str], Any] = {
    **{(module, kind.__name__): kind for kind in _PLAIN for module in ("builtins", "__builtin__")},
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Latin1(),
    ("numpy", "ndarray"): _Inert(),
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
}
_RECONSTRUCT = {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}


class _AllowListUnpickler(pickle.Unpickler):
    """The C unpickler with :meth:`find_class` restricted to the allow-list."""

    def __init__(self, file: IO[bytes]) -> None:
        # Arrays written by Python 2 require Latin-1; other pickles do not depend on it.
        super().__init__(file, encoding="latin1")
        self._created_arrays: list[_Array] = []

    def find_class(self, module: str, name: str) -> Any:
        """Return the allowed object of that name; raise :class:`UnsafePickleError` for any other."""
        if (module, name) in _RECONSTRUCT:
            return _Reconstruct(self._created_arrays)
        if (module, name) not in _ALLOWED:
            raise UnsafePickleError(f"{module}.{name} is not allowed in these files")
        return _ALLOWED[module, name]

    def load_plain(self) -> Any:
        """Return the value of the pickle with arrays as plain ``numpy.ndarray``."""
        value = self.load()
        if not self._created_arrays:
            return value
        if len(self._created_arrays) == 1 and value is self._created_arrays[0]:
            return value.view(np.ndarray)
        return _without_stand_ins(value, {})


def _without_stand_ins(value: Any, done: dict[int, Any]) -> Any:
    """Replace each :class:`_Array` in nested containers by a plain view."""
    if not isinstance(value, (np.ndarray, dict, list, tuple)):
        return value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, tuple):
        done[id(value)] = value
        parts = [_without_stand_ins(part, done) for part in value]
        if any(new is not old for new, old in zip(parts, value, strict=True)):
            done[id(value)] = tuple(parts)
        return done[id(value)]
    plain = value.view(np.ndarray) if isinstance(value, np.ndarray) else value
    done[id(value)] = plain
    if isinstance(value, dict):
        for key, part in value.items():
            value[key] = _without_stand_ins(part, done)
    elif isinstance(value, list):
        value[:] = [_without_stand_ins(part, done) for part in value]
    elif plain.dtype.hasobject:
        for index in np.ndindex(plain.shape):
            plain[index] = _without_stand_ins(plain[index], done)
    return plain


def _load(file: IO[bytes], name: str) -> Any:
    try:
        return _AllowListUnpickler(file).load_plain()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{name}: {_printable(error)}; it was not loaded") from None
    except EOFError:
        raise DataError(f"{name}: the pickle is truncated; download or generate the file again") from None
    except RecursionError:
        raise DataError(f"{name}: the pickle is nested too deeply; it was not loaded") from None
    except MemoryError:
        raise DataError(f"{name}: the pickle requires more memory than available; it was not loaded") from None
    except Exception as error:
        # A damaged stream can fail in any of its operations, each with its own exception.
        reason = _printable(error)
        raise DataError(f"{name}: the pickle is broken ({reason}); download or generate the file again") from None


def _printable(error: Exception) -> str:
    """Return the text of an error on one line; the text may be untrusted, so unprintable characters are replaced."""
    text = one_line(error) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def safe_loads(data: bytes | bytearray | memoryview, name: str = "pickle") -> Any:
    """Unpickle plain built-in types, ``OrderedDict``, and numpy arrays and scalars; reject everything else.

    Args:
        data: a pickle of protocol 0 to 5, written with numpy 1 or 2 (or by Python 2).
        name: name of the pickle in error messages, such as a path.

    Raises:
        UnsafePickleError: the pickle refers to anything else; the message contains ``module.name``.
        DataError: the pickle is truncated or damaged.
    """
    return _load(io.BytesIO(data), name)


def safe_load(path: str | os.PathLike[str]) -> Any:
    """Unpickle a file with :func:`safe_loads`.

    Raises:
        UnsafePickleError: the pickle refers to an object outside the allow-list.
        DataError: the file is missing, unreadable, truncated or damaged.
    """
    with read_errors(path), open(path, "rb") as file:
        return _load(file, str(path))


def safe_numpy_load(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an ``.npy`` file; object arrays are unpickled with the allow-list of :func:`safe_loads`.

    Raises:
        UnsafePickleError: an object array refers to an object outside the allow-list.
        DataError: the file is missing, empty, truncated or not an ``.npy`` file.
    """
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with read_errors(path), open(path, "rb") as file:
        if not file.peek(1):
            raise DataError(f"{path}: the file is empty; download or generate it again")
        try:
            version = np.lib.format.read_magic(file)
        except ValueError:
            raise DataError(f"{path}: is not an .npy file (it does not begin with numpy's magic string)") from None
        try:
            # Version 3.0 differs only in field names beyond Latin-1, which an object array does not have.
            shape, _, dtype = formats[version](file) if version in formats else ((), False, np.dtype("V"))
            if not dtype.hasobject:
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:
            # The header is Python source text, which can be invalid in many ways.
            reason = _printable(error)
            raise DataError(f"{path}: is truncated or broken ({reason}); download or generate it again") from None
        array = _load(file, str(path))
    if not isinstance(array, np.ndarray) or array.size != math.prod(shape):
        raise DataError(f"{path}: the header declares shape {shape}, but the data does not match")
    return array.reshape(shape)
