"""Running shell scripts with stand-ins for the programs they call."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

SWITCHES = {"ROOT", "CLOVE_ROOT", "DEVICE", "CONFIG", "SRM_ARGS", "MMF_ARGS", "DRY_RUN", "PLANNED", "EXPECTED", "JOBS"}
SWITCHES |= {"SETTING", "ORDER", "METHODS", "SEED", "MINI_ARGS", "DEMO_SETTING", "DEMO_ORDER"}

STUB = """#!{python}
import os, pathlib, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
said = dict(word.split("=", 1) for word in words if "=" in word)
with open(os.environ["LOG"], "a") as log:
    log.write(" ".join([name, *(words if name == "python" else [said["env.save_dir"]])]) + "\\n")
time.sleep(float(os.environ.get("SLEEP", "0")))
if os.environ.get("FAIL", "(no word)") in " ".join(words):
    sys.exit("error: " + os.environ["FAIL"])
if name == "mmf_run":
    folder = pathlib.Path(said["env.save_dir"])
    start = said.get("checkpoint.resume_file")
    assert start is None or os.path.exists(start), start
    for file in filter(None, said.get("training.CL.restore_paths", "").split(",")):
        assert os.path.exists(os.path.join(said["training.CL.restore_dir"], file)), file
    folder.mkdir(parents=True)
    (folder / "unicl_final.pth").touch()
elif words[0] == "SRM/train.py":
    order = words[words.index("--task_seq") + 1]
    root = words[words.index("--model_dir_root") + 1]
    folder = pathlib.Path(root, "distilgpt2_replay", "distilgpt2_functional_" + order)
    folder.mkdir(parents=True, exist_ok=True)
    for place, now in enumerate(order):
        for past in order[:place]:
            (folder / (order + "_REPLAY[" + past + "]_AT[" + now + "].npy")).touch()
"""
"""Writes what it was called with, and the files by which the scripts see that a step is done."""


def environment(**named: str) -> dict[str, str]:
    """Without anything that the scripts take from the environment, but for what is named."""
    return {key: value for key, value in os.environ.items() if key not in SWITCHES} | named


@dataclass
class Stage:
    """A copy of the scripts in a project's folder, where only stand-ins play.

    Attributes:
        project: the folder.
        root: ``ROOT``.
        stubs: folder of the stand-ins.
        log: what they were called with, a call a line.
    """

    project: Path
    root: Path
    stubs: Path
    log: Path

    def __call__(self, script: str, **named: str) -> tuple[int, list[str], str]:
        """Run a script: exit code, what was called (without ``ROOT``), output."""
        env = self._environment(**named)
        done = subprocess.run(["bash", self.project / script], env=env, capture_output=True, text=True)
        calls = [line.replace(f"{self.root}/", "") for line in self.log.read_text().splitlines()]
        return done.returncode, calls, done.stdout + done.stderr

    def start(self, script: str, **named: str) -> subprocess.Popen[bytes]:
        """Start a script in a process group of its own, where Ctrl-C is not ignored."""
        command, env = ["bash", self.project / script], self._environment(**named)
        heard = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
        finally:
            signal.signal(signal.SIGINT, heard)

    def _environment(self, **named: str) -> dict[str, str]:
        self.log.write_text("")
        path = f"{self.stubs}{os.pathsep}{os.environ['PATH']}"
        return environment(**{"ROOT": str(self.root), "LOG": str(self.log), "PATH": path, "JOBS": "1"} | named)
