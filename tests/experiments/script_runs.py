"""Runs shell scripts and workflows with stand-ins for the programs they call."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_snakemake = pytest.mark.skipif(not importlib.util.find_spec("snakemake"), reason="Snakemake is not installed")

SWITCHES = {"ROOT", "CLOVE_ROOT", "DEVICE", "CONFIG", "SRM_ARGS", "MMF_ARGS", "GPUS", "SEED"}
SWITCHES |= {"DEMO_SETTING", "DEMO_ORDER"}

STUB = """#!{python}
import os, pathlib, re, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
if words[:2] == ["-m", "mmclvqa.experiments.root"]:
    sys.exit()  # not a step
overrides = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("from "))
began = time.time()
time.sleep(float(os.environ.get("SLEEP", "0")))
with open(os.environ["LOG"], "a") as log:
    text = overrides["env.save_dir"] if name == "mmf_run" else " ".join(words)
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    log.write("\\t".join([name, text, device, str(began), str(time.time())]) + "\\n")
if os.environ.get("FAIL", "(nothing)") in " ".join(words):
    sys.exit("error: " + os.environ["FAIL"])
if os.environ.get("FULL", "(nothing)") in " ".join(words):
    with open("/dev/full", "w") as disk:
        disk.write(name)
outputs = []
if name == "mmf_run":
    start = overrides.get("checkpoint.resume_file")
    assert start is None or os.path.exists(start), start
    for file in filter(None, overrides.get("training.CL.restore_paths", "").split(",")):
        assert os.path.exists(os.path.join(overrides["training.CL.restore_dir"], file)), file
    outputs = [overrides["env.save_dir"] + "/unicl_final.pth"]
elif words[0] == "SRM/train.py":
    order = words[words.index("--task_seq") + 1]
    folder = words[words.index("--model_dir_root") + 1] + "/distilgpt2_replay/distilgpt2_functional_" + order
    outputs = [f"{{folder}}/{{order}}_REPLAY[{{past}}]_AT[{{now}}].npy" for place, now in enumerate(order)
               for past in order[:place]]
elif words[0] == "-c" and "stage_sweep" in words[1]:
    given = dict(re.findall("(\\\\w+)='?([^',)]*)", words[1]))
    folder = f"setting_{{given['setting_idx']}}_{{given['abbr_seq']}}"
    outputs = [f"{{given['save_dir']}}/save/{{given['cl_setting']}}/{{folder}}/val_{{given['val_exp']}}/sweep.json"]
for output in outputs:
    pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(output).write_text("done")
"""
"""A stand-in: logs its arguments, device and time span, and writes the output of its step."""


def environment(**named: str) -> dict[str, str]:
    """Return the environment without the variables that the scripts read, plus the given ones."""
    return {key: value for key, value in os.environ.items() if key not in SWITCHES} | named


def write_stubs(folder: Path, python: str) -> None:
    """Write stand-ins for ``mmf_run`` and ``python`` into a folder."""
    folder.mkdir(parents=True)
    for name in ("mmf_run", "python"):
        (folder / name).write_text(STUB.replace("{python}", python).replace("{{", "{").replace("}}", "}"))
        (folder / name).chmod(0o755)


def stubbed_workflow(stubs: Path) -> list[str]:
    """Return ``python -m mmclvqa.experiments`` as a command whose steps use stand-ins and which writes no report."""
    code = (
        "import sys; from pathlib import Path; from mmclvqa.experiments import __main__ as line; "
        f"line.PROGRAMS = Path({str(stubs)!r}); line._report = lambda *arguments: 0; "
        "sys.exit(line.main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", code]


@dataclass
class Call:
    """One call of a stand-in: program, arguments, device, and time span in seconds."""

    program: str
    words: str
    device: str
    began: float
    ended: float


def calls(log: Path) -> list[Call]:
    """Read the log of the stand-ins."""
    lines = log.read_text().splitlines() if log.exists() else []
    fields = [line.split("\t") for line in lines]
    return [Call(program, words, device, float(began), float(ended)) for program, words, device, began, ended in fields]


@dataclass
class Stage:
    """A copy of the scripts in a project's folder, run with stand-ins.

    Attributes:
        project: the folder.
        root: ``ROOT``.
        stubs: folder of the stand-ins.
        log: their log.
    """

    project: Path
    root: Path
    stubs: Path
    log: Path

    def __call__(self, script: str, **named: str) -> tuple[int, list[str], str]:
        """Run a script; return its exit code, the arguments of the stand-ins (without ``ROOT``), and its output."""
        self.log.write_text("")
        path = f"{self.stubs}{os.pathsep}{os.environ['PATH']}"
        env = environment(**{"ROOT": str(self.root), "LOG": str(self.log), "PATH": path} | named)
        done = subprocess.run(["bash", self.project / script], env=env, capture_output=True, text=True, timeout=60)
        said = [call.words.replace(f"{self.root}/", "") for call in calls(self.log)]
        return done.returncode, said, done.stdout + done.stderr
