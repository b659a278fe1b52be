"""``python -m mmclvqa.clove``: fast help, exit codes, and errors on one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmclvqa.clove.__main__ import COMMANDS, main
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.text import run_command

Run = Callable[..., tuple[int, str, str]]


def test_help_names_every_command_and_loads_no_library(project: Path) -> None:
    code = (
        "import sys; from mmclvqa.clove.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print({'numpy', 'lmdb', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)
    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0 and command in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["chek"], ["check", "--samples", "many"]])
def test_wrong_usage_ends_with_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["DIR", "--dry-run", "fasttext"], ["--dry-run", "DIR", "fasttext"]])
def test_flags_may_stand_between_the_other_arguments(tmp_path: Path, run_clove: Run, words: list[str]) -> None:
    code, out, _ = run_clove("download", *(str(tmp_path) if word == "DIR" else word for word in words))
    assert code == 0 and out.startswith("fasttext: ") and "to fetch: 1 of 1" in out


def test_what_the_system_refuses_is_one_line(tmp_path: Path, run_clove: Run) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, _, err = run_clove("download", tmp_path / "file" / "root", "fasttext", "--base-url", "http://127.0.0.1:9")
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1


def _raise(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("a.npy: is\n  truncated"), 1, "error: a.npy: is truncated\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_error_becomes_an_exit_code_and_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: _raise(error)) == code
    assert capsys.readouterr().err == message


def test_a_command_without_a_return_value_succeeds() -> None:
    assert run_command(lambda: None) == 0


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
