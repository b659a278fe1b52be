"""``run_step.sh``, which runs one step of a workflow: its GPU, and the reason of its failure."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from script_runs import environment

from mmclvqa.experiments.progress import Journal


def test_a_gpu_that_another_workflow_lists_elsewhere_is_not_taken(stage: Path, project: Path) -> None:
    script = project / "mmclvqa/experiments/workflow/run_step.sh"
    env = environment(ROOT=str(stage), PROJECT=str(stage), JOURNAL=str(stage / "journal"), TMPDIR=str(stage))

    def step(output: str, gpus: str, seconds: int) -> subprocess.Popen[bytes]:
        command = f"sleep {seconds}; echo $DEVICE >$ROOT/{output}"
        return subprocess.Popen(["bash", script, output, output, command], env=env | {"GPUS": gpus}, cwd=stage)

    first = step("x/first", "0", 3)
    while not (stage / "x/first.log").exists() or not (stage / "x/first.log").stat().st_size:
        assert first.poll() is None
        time.sleep(0.05)
    assert step("y/second", "1 0", 0).wait(timeout=20) == 0
    assert (stage / "y/second").read_text() == "1\n" and first.poll() is None
    assert step("z/third", "0 0", 0).wait(timeout=20) == 0  # the second time that 0 is listed
    assert (stage / "z/third").read_text() == "0\n" and first.wait(timeout=20) == 0


def test_the_reason_of_a_failure_is_its_last_error_line_also_after_a_progress_bar(stage: Path, project: Path) -> None:
    script = project / "mmclvqa/experiments/workflow/run_step.sh"
    journal = Journal(stage)
    journal.folder.mkdir()
    env = environment(ROOT=str(stage), PROJECT=str(stage), JOURNAL=str(journal.path), GPU="0")
    for output, text in (("one", r"error: no\n50%%|##|\rerror:\tdisk full\r\nbye\n"), ("two", r"Killed\u2028here\n")):
        command = f"printf '{text}'; exit 1"
        assert subprocess.run(["bash", script, output, f"train {output}", command], env=env, cwd=stage).returncode == 1
    reasons = {"one": "train one: error: disk full", "two": "train two: Killed\u2028here"}
    logs = [f"{reason}; log: {stage / output}.log" for output, reason in reasons.items()]
    assert journal.failures(reasons) == logs
