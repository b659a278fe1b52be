"""What is imported before a command line is answered: torch and MMF only once a configuration is valid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = "config=EXP_CONFIG/functional/cl_object_unicl_standalone.yaml"
MMF_RUN = ("mmclvqa.cli", CONFIG, "model=unicl", "dataset=clvqa")
SRM = ("SRM.train", "--cl_setting", "functional", "--task_seq", "oarlks", "--model_dir_root", "{tmp}/srm")
EXPERIMENTS = ("mmclvqa.experiments", "run")
LOADED = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(json.dumps([name for name in ("torch", "mmf", "transformers") if name in sys.modules]))
"""
"""Runs a module as a program and prints which of the slow packages it has imported."""


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (MMF_RUN, ["training.max_update=3"], "unknown key training.max_update; did you mean training.max_updates?"),
        (MMF_RUN, ["training.CL.ewc.weigth=1"], "unknown key training.CL.ewc.weigth"),
        (MMF_RUN, ["training.max_updates=many"], "training.max_updates must be a number"),
        (MMF_RUN, ["config=nowhere.yaml"], "nowhere.yaml does not exist"),
        (MMF_RUN, ["nonsense"], "'nonsense' is not of the form key=value"),
        (MMF_RUN, ["env.user_dir=nowhere.py"], "env.user_dir=nowhere.py: there is no file"),
        (SRM, ["--data_dir", "{tmp}", "--n_train_epoch", "many"], "argument --n_train_epochs: invalid"),
        (SRM, ["--data_dir", "{tmp}/nowhere"], "nowhere: there is no such folder"),
        (SRM, ["--data_dir", "{tmp}"], "fcl_mmf_object_train.npy: there is no such file"),
        (EXPERIMENTS, ["--method", "ewcc"], "ewcc: there is no such method; did you mean ewc"),
        (EXPERIMENTS, ["--order", "oarlkx"], "oarlkx"),
    ],
)
def test_wrong_arguments_are_answered_before_torch_and_mmf_are_imported(
    program: tuple[str, ...], arguments: list[str], message: str, project: Path, tmp_path: Path
) -> None:
    words = [word.format(tmp=tmp_path) for word in (*program, *arguments)]
    done = subprocess.run([sys.executable, "-c", LOADED, *words], cwd=project, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert json.loads(done.stdout) == []
