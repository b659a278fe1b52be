"""Reading pickles that strangers wrote: plain Python values and numpy arrays come through, code does not.

CLOVE's records (``.npy`` object arrays) and MMF's feature databases are pickles, and a pickle is a program
that may call anything importable. Here every name it asks for is looked up in a short list; anything else is
refused by name before it is imported.

numpy's own array and dtype classes stay out of the pickle's hands, too: ``dtype.__setstate__`` believes the
flags it is given, so that a forged dtype turns raw bytes into object pointers. Small stand-ins collect what
the pickle says about dtypes and arrays, check it, and only then is a real array filled.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmclvqa.clove.errors import DataError, UnsafePickleError

_DTYPE_NAME = re.compile(r"[<>=|]?([biufcSUO]\d{0,9})")


def _bytes(raw: Any) -> bytes | bytearray:
    """``raw`` if it holds bytes; as Latin-1 where Python 2 wrote them as ``str``."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray)):
        raise ValueError(f"numpy values come as {type(raw).__name__} instead of bytes")
    return raw


class _Dtype:
    """What a pickle says about a dtype: plain booleans, numbers, text, bytes or objects; no fields."""

    __slots__ = ("value",)

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        match = _DTYPE_NAME.fullmatch(name)
        if match is None:
            raise UnsafePickleError(f"numpy dtype {name!r} is not one of booleans, numbers, text and objects")
        code = match.group(1)
        # Pickles of 32-bit machines say O4, of 64-bit ones O8: both mean "objects".
        self.value = np.dtype("O" if code.startswith("O") else name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, subarray, names, fields, *_sizes_and_flags = state
        if not (subarray is None and names is None and fields is None):
            raise UnsafePickleError("a numpy dtype with fields or subarrays is not allowed in these files")
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order in ("<", ">"):
            self.value = self.value.newbyteorder(order)


class _Array(np.ndarray):
    """An array while its pickle is being read; callers get the plain ``numpy.ndarray`` of it."""

    __slots__ = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, raw = state
        value = dtype.value
        if self.size:
            raise ValueError("an array is filled twice")  # that would free memory its views still use
        if value.hasobject:
            # numpy trusts the list to be as long as the shape says and would read past its end.
            if not isinstance(raw, list) or len(raw) != math.prod(shape):
                raise ValueError(f"{type(raw).__name__} of objects does not fill an array of shape {shape}")
        else:
            raw = _bytes(raw)
        super().__setstate__((version, shape, value, bool(fortran), raw))


class _Inert:
    """Stands for ``numpy.ndarray`` where a pickle names the class: nothing can be called or set on it."""

    __slots__ = ()


class _Latin1:
    """``_codecs.encode`` as protocol 2 uses it for bytes: text to Latin-1 and nothing else."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise UnsafePickleError(f"_codecs.encode to {encoding!r} is not allowed in these files")
        return str(text).encode("latin1")


class _Scalar:
    """``numpy.core.multiarray.scalar``: one numpy number, boolean or text from its bytes."""

    __slots__ = ()

    def __call__(self, dtype: _Dtype, raw: bytes | str = b"") -> np.generic:
        value = dtype.value
        if value.hasobject:
            raise UnsafePickleError("a numpy scalar of dtype object is not allowed in these files")
        if value.itemsize == 0:
            return value.type()
        return np.frombuffer(_bytes(raw), value, count=1)[0]


class _FromBuffer:
    """``numpy.core.numeric._frombuffer``: an array as protocol 5 writes it; dtype object has no such form."""

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
    """``numpy.core.multiarray._reconstruct``: an empty array that the pickle fills afterwards."""

    __slots__ = ("_made",)

    def __init__(self, made: list[_Array]) -> None:
        self._made = made

    def __call__(self, subtype: _Inert, shape: tuple[int, ...], typecode: Any) -> _Array:
        if not isinstance(subtype, _Inert):
            raise UnsafePickleError(f"an array of class {type(subtype).__name__} is not allowed in these files")
        array = np.ndarray.__new__(_Array, (0,), np.int8)
        self._made.append(array)
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
    """The C unpickler with :meth:`find_class` narrowed to the allow-list."""

    def __init__(self, file: IO[bytes]) -> None:
        # Arrays written by Python 2 need Latin-1; later pickles do not depend on it.
        super().__init__(file, encoding="latin1")
        self._made: list[_Array] = []

    def find_class(self, module: str, name: str) -> Any:
        """The allowed object of that name. Raises :class:`UnsafePickleError` for any other."""
        if (module, name) in _RECONSTRUCT:
            return _Reconstruct(self._made)
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafePickleError(f"{module}.{name} is not allowed in these files") from None

    def load_plain(self) -> Any:
        """The pickle's value, its arrays as plain ``numpy.ndarray``."""
        value = self.load()
        if not self._made:
            return value
        if len(self._made) == 1 and value is self._made[0]:
            return value.view(np.ndarray)
        return _without_stand_ins(value, {})


def _without_stand_ins(value: Any, done: dict[int, Any]) -> Any:
    """``value`` with each :class:`_Array` in its containers replaced by its plain view."""
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
        raise UnsafePickleError(f"{name}: {_one_line(error)}; it was not loaded") from None
    except EOFError:
        raise DataError(f"{name}: the pickle is cut short; fetch or make the file again") from None
    except RecursionError:
        raise DataError(f"{name}: the pickle nests too deeply; it was not loaded") from None
    except MemoryError:
        raise DataError(f"{name}: the pickle asks for more memory than there is; it was not loaded") from None
    except Exception as error:
        # A broken stream can fail in any of the operations it spells out, each with its own exception.
        reason = _one_line(error)
        raise DataError(f"{name}: the pickle is broken ({reason}); fetch or make the file again") from None


def _one_line(error: Exception) -> str:
    """The error's text, which a stranger may have written, fit for one line of a terminal."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def safe_loads(data: bytes | bytearray | memoryview, name: str = "pickle") -> Any:
    """Unpickle ``data``, letting through builtins' plain types, ``OrderedDict`` and numpy arrays and scalars.

    Args:
        data: a pickle of protocol 0 to 5, written with numpy 1 or 2 (or by Python 2).
        name: what error messages call it: a path, a path and key.

    Raises:
        UnsafePickleError: it asks for anything else; the message says ``module.name``.
        DataError: it is truncated or broken.
    """
    return _load(io.BytesIO(data), name)


def safe_load(file: str | os.PathLike[str] | IO[bytes]) -> Any:
    """:func:`safe_loads` for a path or an open binary file, whose name error messages carry.

    Raises:
        UnsafePickleError: the pickle asks for something outside the allow-list.
        DataError: the file is missing, unreadable, truncated or broken.
    """
    if isinstance(file, (str, os.PathLike)):
        try:
            with open(file, "rb") as opened:
                return _load(opened, str(file))
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    return _load(file, str(getattr(file, "name", "pickle")))


def safe_numpy_load(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an ``.npy`` file; the objects of an object array pass the allow-list of :func:`safe_loads`.

    Raises:
        UnsafePickleError: an object array holds something outside the allow-list.
        DataError: the file is missing, empty, truncated or no ``.npy`` file.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise DataError(f"{path}: the file is empty; fetch or make it again")
            file.seek(0)
            return _read_npy(file, path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_npy(file: IO[bytes], path: Path) -> np.ndarray:
    formats = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise DataError(f"{path}: is no .npy file (it does not begin with numpy's mark)") from None
    try:
        # Version 3.0 differs only in field names beyond Latin-1, which an array of objects cannot have.
        header = formats[version](file) if version in formats else ((), False, np.dtype("V"))
        shape, _fortran, dtype = header
        if not dtype.hasobject:
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:
        # The header is Python text; broken, it fails in as many ways as Python text can.
        raise DataError(f"{path}: is truncated or broken ({_one_line(error)}); fetch or make it again") from None
    array = _load(file, str(path))
    if not isinstance(array, np.ndarray) or array.size != math.prod(shape):
        raise DataError(f"{path}: its header promises an array of shape {shape}, which does not follow")
    return array.reshape(shape)
