"""The demo as a whole, in sizes that take a minute."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmclvqa.evaluation.results import SweepResult, read_sweep

TRAINING = {"max_updates": 40, "evaluation_interval": 20, "checkpoint_interval": 10, "warmup_iterations": 1,
            "batch_size": 16, "num_workers": 0}  # fmt: skip
SRM = "--n_train_epochs 35 --min_batch_size 8 --n_sg_seq 2 --n_prompts 16 --n_replay 2 --max_length 64"
# Few words that still make a language model write replays which are accepted.
TINY = {
    "MMF_ARGS": " ".join(f"training.{key}={value}" for key, value in TRAINING.items()),
    "SRM_ARGS": f"{SRM} --learning_rate 3e-3",
}
MOMENTS = 5
SECONDS = (5.0, 30.0)
"""Between which a start is killed; all of it takes more than five times that."""


def start(project: Path, environment: dict[str, str], root: Path) -> subprocess.Popen[str]:
    """The demo in a process group of its own, its log in ``<root>.log``."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{root}.log", "a") as log:
        return subprocess.Popen(
            ["bash", str(project / "run_scripts/demo.sh")],
            env=environment | TINY | {"ROOT": str(root), "CLOVE_ROOT": str(root.parent / "world")},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )


def sweeps(root: Path) -> list[SweepResult]:
    return sorted(map(read_sweep, root.rglob("sweep.json")), key=lambda sweep: sweep.experiment)


def pairs(root: Path) -> dict[str, tuple[str, float]]:
    """Checkpoint and loss of each pair."""
    found = {}
    for file in root.rglob("val_*/*2*/results.json"):
        content = json.loads(file.read_text())
        found[str(file.relative_to(root))] = (content["run"]["checkpoint_sha256"], content["evaluations"][-1]["loss"])
    return found


def replays(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in root.rglob("*_REPLAY*.npy")}


@pytest.mark.long
def test_a_demo_that_is_killed_again_and_again_ends_with_the_same_matrices(
    project: Path, programs: dict[str, str], tmp_path: Path
) -> None:
    undisturbed, disturbed = tmp_path / "one" / "undisturbed", tmp_path / "two" / "disturbed"
    for root in (undisturbed, disturbed):
        words = ["-m", "mmclvqa.clove", "mini", str(root.parent / "world"), "--train", "40", "--val", "16"]
        subprocess.run([sys.executable, *words], env=programs, check=True, timeout=120)
    whole = start(project, programs, undisturbed)
    draws = random.Random(20261124)
    killed = 0
    for _ in range(MOMENTS):
        process = start(project, programs, disturbed)
        try:
            process.wait(timeout=draws.uniform(*SECONDS))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed == MOMENTS, Path(f"{disturbed}.log").read_text()[-2000:]
    for process, root in ((start(project, programs, disturbed), disturbed), (whole, undisturbed)):
        assert process.wait(timeout=600) == 0, Path(f"{root}.log").read_text()[-2000:]
    ours, wanted = sweeps(disturbed), sweeps(undisturbed)
    assert [len(sweep.accuracies) for sweep in wanted] == [36, 36] and any(wanted[0].accuracies.values())
    assert ours == wanted
    # Many accuracies of models that have hardly learned are 0; what they rest on is the same, too.
    assert pairs(disturbed) == pairs(undisturbed)
    assert replays(disturbed) == replays(undisturbed)

    # Another start finds all of it done, and prints the table again.
    began = time.monotonic()
    again = start(project, programs, undisturbed)
    assert again.wait(timeout=120) == 0 and time.monotonic() - began < 40
    log = Path(f"{undisturbed}.log").read_text()
    table = log[log.rindex("method, task order") :]
    assert re.search(r"^fine-tuning, oarlks .* 0 +0\.00 +0:00:\d\d$", table, re.MULTILINE)
    assert re.search(r"^SRM .* 0 +\d+\.\d\d +0:\d\d:\d\d$", table, re.MULTILINE)
    page = Path(re.search(r"^report: (.+)$", table, re.MULTILINE)[1])
    rows = json.loads((page.parent / "comparison.json").read_text())
    assert [row["label"].partition(",")[0] for row in rows] == ["fine-tuning", "SRM (distilgpt2"]
    assert rows[1]["cost"]["seconds"] > rows[0]["cost"]["seconds"] > 0
