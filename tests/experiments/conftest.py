"""Fixtures: the programs that shell scripts call, and stand-ins for them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from script_runs import Stage, write_stubs

from mmclvqa.experiments import __main__ as command_line

PROGRAMS = {"python": "", "mmf_run": " -m mmclvqa.cli"}


@pytest.fixture(scope="session")
def programs(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which ``python`` and ``mmf_run`` are this project's, with one thread each."""
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in PROGRAMS.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
        (folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Stage:
    """Return ``run(script, **environment)``, which uses stand-ins for mmf_run and python."""
    copy, stubs = tmp_path / "a project", tmp_path / "bin"
    shutil.copytree(project / "run_scripts", copy / "run_scripts")
    write_stubs(stubs, sys.executable)
    # A file that matches REPLAY[o]_AT[a] as a shell pattern, if it is not quoted.
    (copy / "training.CL.restore_paths=oarlks_REPLAYo_ATa.npy").touch()
    return Stage(copy, tmp_path / "exp root", stubs, tmp_path / "log")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins, in which ``ROOT`` is ``a #root: x``; the report is left out."""
    write_stubs(tmp_path / "bin", sys.executable)
    places = {"ROOT": tmp_path / "a #root: x", "CLOVE_ROOT": tmp_path / "data", "LOG": tmp_path / "log"}
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(command_line, "PROGRAMS", tmp_path / "bin")
    monkeypatch.setattr(command_line, "_report", lambda *arguments: 0)
    return tmp_path
