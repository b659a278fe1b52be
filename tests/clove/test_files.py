"""Untrusted pickles: plain values and arrays are loaded, code never runs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmclvqa.clove.errors import CloveError, DataError, UnsafePickleError
from mmclvqa.clove.files import locked_folder, safe_load, safe_loads, safe_numpy_load

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

PLAIN_VALUES = {
    "numbers": [1, -(10**30), 0.5, True, None, 1 + 2j],
    "text": ["", "kiosk", "日本 €"],
    "bytes": [b"", b"\x00\xff"],
    "sets": [{1, 2}, frozenset({"a"})],
    "nested": {"a": ({"b": [1]},), 3: OrderedDict(x=1)},
}

ARRAYS = {
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(3, np.float16),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "booleans": np.array([True, False]),
    "text": np.array(["ab", "c"]),
    "bytes": np.array([b"ab", b"c"]),
    "empty": np.zeros((0, 4), np.float32),
    "scalar array": np.array(3),
}


class Malicious:
    """Pickles into a call that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PLAIN_VALUES)
def test_plain_values_come_through(name: str, protocol: int) -> None:
    value = PLAIN_VALUES[name]
    assert safe_loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_through_as_plain_arrays(name: str, protocol: int) -> None:
    array = ARRAYS[name]
    loaded = safe_loads(pickle.dumps({"deep": [(array,)]}, protocol))["deep"][0][0]
    assert type(loaded) is np.ndarray
    assert loaded.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(loaded, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scalar", [np.float32(2.5), np.int64(-3), np.bool_(True), np.str_("a"), np.str_("")])
def test_numpy_scalars_come_through(scalar: np.generic, protocol: int) -> None:
    loaded = safe_loads(pickle.dumps([scalar], protocol))[0]
    assert type(loaded) is type(scalar) and loaded == scalar


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_arrays_hold_plain_arrays(protocol: int) -> None:
    array = np.empty(2, dtype=object)
    array[:] = [{"boxes": np.ones((1, 4))}, None]
    loaded = safe_loads(pickle.dumps(array, protocol))
    assert type(loaded) is np.ndarray and type(loaded[0]["boxes"]) is np.ndarray and loaded[1] is None


def test_an_array_that_stands_twice_stays_one_array() -> None:
    array = np.ones(2)
    first, second = safe_loads(pickle.dumps([array, array]))
    assert first is second


def test_numpy_1_module_names_are_understood() -> None:
    written = pickle.dumps(np.arange(3), protocol=2).replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core.multiarray" in written
    np.testing.assert_array_equal(safe_loads(written), np.arange(3))


def test_arrays_written_by_python_2_are_understood() -> None:
    # numpy.float32([1.0]) as Python 2 pickled it: the values are a str of bytes.
    written = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x04\x00\x00\x80?tb."
    )
    np.testing.assert_array_equal(safe_loads(written), np.float32([1.0]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "ran"
    with pytest.raises(UnsafePickleError, match=r"open is not allowed"):
        safe_loads(pickle.dumps({"record": Malicious(target)}, protocol))
    assert not target.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("collections", "OrderedDict.fromkeys"),
        ("mmclvqa.clove.files", "safe_load"),
    ],
)
def test_anything_outside_the_list_is_refused(module: str, name: str) -> None:
    written = b"\x80\x04" + _text(module) + _text(name) + b"\x93."
    with pytest.raises(UnsafePickleError, match=f"{module}.{name}"):
        safe_loads(written, "somewhere")


def _text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def test_a_codec_other_than_latin_1_is_refused() -> None:
    written = b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR."
    with pytest.raises(UnsafePickleError, match="rot13"):
        safe_loads(written)


def test_a_dtype_with_forged_flags_cannot_make_pointers_of_bytes() -> None:
    # dtype object whose state says that it holds no objects, then 8 raw bytes as the array's only element.
    forged = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08AAAAAAAAtb."
    )
    with pytest.raises(DataError, match="does not fill"):
        safe_loads(forged)


def test_an_object_array_shorter_than_its_shape_is_refused() -> None:
    array = np.empty(1, dtype=object)
    written = pickle.dumps(array, protocol=2)
    assert written.count(b"K\x01K\x01\x85") == 1
    with pytest.raises(DataError, match="does not fill"):
        safe_loads(written.replace(b"K\x01K\x01\x85", b"K\x01K\x7f\x85"))


def test_structured_dtypes_are_refused() -> None:
    with pytest.raises(UnsafePickleError, match="dtype"):
        safe_loads(pickle.dumps(np.zeros(2, dtype=[("a", "f4")])))


@pytest.mark.parametrize("keep", [0, 1, 20, -1])
def test_a_truncated_pickle_is_a_data_error_with_its_name(keep: int) -> None:
    written = pickle.dumps([{"question": "what?", "features": np.ones(9)}])
    with pytest.raises(DataError, match="some name"):
        safe_loads(written[:keep], "some name")


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    with pytest.raises(UnsafePickleError, match=r"weights\.pkl"):
        safe_load(path)
    with pytest.raises(DataError, match=r"missing\.pkl"):
        safe_load(tmp_path / "missing.pkl")


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.array([{"a": [1]}, {"b": np.ones(2)}], dtype=object)]
)
def test_npy_files_come_through(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    loaded = safe_numpy_load(tmp_path / "a.npy")
    assert loaded.shape == array.shape and loaded.dtype == array.dtype
    assert str(loaded) == str(array)


def test_code_in_an_npy_file_is_refused(tmp_path: Path) -> None:
    array = np.empty(1, dtype=object)
    array[0] = Malicious(tmp_path / "ran")
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UnsafePickleError, match=r"a\.npy.*open"):
        safe_numpy_load(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", [object, np.float64])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_npy_file_is_a_data_error(tmp_path: Path, dtype: type, share: float) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(100).astype(dtype), allow_pickle=True)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"a\.npy"):
        safe_numpy_load(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04zip", b"{}", b"\x93NUMPY\x09\x00rubbish"])
def test_a_file_that_is_no_npy_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy"):
        safe_numpy_load(path)


def test_a_missing_npy_file_and_a_folder_are_data_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.npy", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            safe_numpy_load(path)


def test_a_folder_is_locked_until_its_process_ends(tmp_path: Path) -> None:
    code = "import sys, pathlib; from mmclvqa.clove.files import locked_folder as lock\n"
    code += "with lock(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(CloveError, match="another process is working in this folder"), locked_folder(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with locked_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
