"""Fixtures: the programs that shell scripts call, and stand-ins for them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from script_runs import Stage, write_stubs

from mmclvqa.experiments import __main__ as command_line
from mmclvqa.experiments.finished import shell_words
from mmclvqa.experiments.planning import below_root
from mmclvqa.methods.base import Step

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


@pytest.fixture
def workflow_in_process(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return ``workflow(*words, **variables)``, which returns exit code, stdout and stderr.

    All steps run in this process. A loop over them replaces Snakemake, which other tests run with stand-ins for the
    programs of the steps.
    """

    def run_steps(
        arguments: list[str], environment: dict[str, str], root: Path, steps: list[Step], *others: Any
    ) -> int:
        from mmclvqa import cli

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project)
            for name, value in environment.items():
                patch.setenv(name, value)
            for step in steps:
                if not (root / below_root(step.output)).exists():
                    print(step.title)
                    words = shell_words(step, environment)
                    cli.run(words) if step.program == ("mmf_run",) else exec(words[0], {})
        return 0

    def workflow(*words: str, **variables: str) -> tuple[int, str, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code = command_line.main(["run", *words])
        return code, *capsys.readouterr()

    monkeypatch.setattr(command_line, "_snakemake", run_steps)
    return workflow
