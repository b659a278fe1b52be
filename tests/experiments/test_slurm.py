"""The workflow on a SLURM cluster that consists of this machine, with ``profiles/slurm`` unchanged."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from script_runs import calls, environment, stubbed_workflow, write_stubs

from mmclvqa.evaluation.results import read_sweep

CLUSTER = Path(__file__).with_name("slurm_cluster.sh")
GRID = ["--method", "chance", "ft", "random:replay_rate=0.1", "--order", "oarlks", "--seed", "0", "1"]
RESULTS = ("sweep.json", "unicl_final.pth")
UPDATES = "training.max_updates=8 training.evaluation_interval=8 training.num_workers=0 training.warmup_iterations=1"


def missing() -> str | None:
    """Return what a cluster on this machine lacks."""
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        return "a SLURM cluster on this machine needs root on Debian"
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        return "SLURM is not installed: apt-get install --no-install-recommends slurm-wlm munge"
    if not all(map(importlib.util.find_spec, ("snakemake", "snakemake_executor_plugin_slurm"))):
        return "Snakemake is not installed: pip install -r workflow_requirements.txt"
    return None


pytestmark = [pytest.mark.long, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


def run(command: list[str], env: dict[str, str], project: Path) -> str:
    done = subprocess.run(command, env=env, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def time_limits(jobs: Path) -> Counter[int]:
    """Return how many completed jobs had which time limit in minutes."""
    return Counter(int(minutes) for minutes in re.findall(r"\bTimeLimit=(\d+)", jobs.read_text()))


def test_a_grid_on_slurm_ends_with_the_results_of_a_local_run(
    project: Path, programs: dict[str, str], clove_mini: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "mmclvqa.experiments", "run", "--config", "EXP_CONFIG/mini", *GRID]
    env = {**programs, "CLOVE_ROOT": str(clove_mini), "MMF_ARGS": UPDATES}
    local, slurm, jobs = tmp_path / "local", tmp_path / "slurm", tmp_path / "jobs"
    run([*command, "--cores", "2"], env | {"ROOT": str(local)}, project)
    env |= {"ROOT": str(slurm), "JOBS": str(jobs)}
    said = run(["bash", str(CLUSTER), *command, "--profile", "slurm"], env, project)
    assert "28 steps in 16 jobs" in said and "[28/28]" in said and "fine-tuning, oarlks, 2 seeds" in said
    # Pairs of trainings; a training with an evaluation; first trainings and chance levels.
    assert time_limits(jobs) == {1200: 8, 720: 4, 600: 4}

    sweeps, checkpoints = ({path.relative_to(local) for path in local.rglob(name)} for name in RESULTS)
    assert len(sweeps) == 4 and len(checkpoints) == 22
    devices = {
        log.name: re.findall(r"DEVICE=(\S*)$", log.read_text().splitlines()[0]) for log in slurm.rglob("*.log")
        if log.name in ("functional.json.log", "unicl_final.pth.log")
    }  # fmt: skip
    assert devices["functional.json.log"] == [""] and devices["unicl_final.pth.log"][0] in ("0", "1")
    for path in sweeps:
        assert read_sweep(slurm / path) == read_sweep(local / path) and not read_sweep(local / path).missing
    for path in checkpoints:
        ours, reference = (torch.load(root / path, weights_only=True) for root in (slurm, local))
        assert ours.keys() == reference.keys() and all(torch.equal(ours[key], reference[key]) for key in ours), path


def test_a_grid_goes_on_after_kills_of_slurmd_snakemake_and_a_job(project: Path, tmp_path: Path) -> None:
    write_stubs(tmp_path / "bin", sys.executable)
    log, root = tmp_path / "log", tmp_path / "root"
    env = environment(ROOT=str(root), CLOVE_ROOT=str(tmp_path), LOG=str(log), PYTHONPATH=str(project), SLEEP="3")
    script = tmp_path / "killed.sh"
    script.write_text(KILLS.format(log=log))
    command = [*stubbed_workflow(tmp_path / "bin"), "run", "--method", "ft", "--order", "oarlks", "--profile", "slurm"]
    said = run(["bash", str(CLUSTER), "bash", str(script), *command], env, project)
    assert all(f"killed {victim}" in said for victim in ("slurmd", "Snakemake", "a job")) and "[7/7]" in said
    trained = [call.words for call in calls(log) if call.program == "mmf_run"]
    assert len(trained) == len(set(trained)) == 6, "no step was lost or ran twice"


def test_a_job_that_is_submitted_again_skips_its_finished_steps(project: Path, tmp_path: Path) -> None:
    write_stubs(tmp_path / "bin", sys.executable)
    log, root, jobs = tmp_path / "log", tmp_path / "root", tmp_path / "jobs"
    env = environment(ROOT=str(root), CLOVE_ROOT=str(tmp_path), LOG=str(log), PYTHONPATH=str(project), JOBS=str(jobs))
    command = [*stubbed_workflow(tmp_path / "bin"), "run", "--order", "oarlks", "--profile", "slurm"]
    command += ["--method", "ft", "random:replay_rate=0.1"]
    failing = env | {"FAIL": "ft/unicl_relation"}  # the second step of its job
    done = subprocess.run(["bash", str(CLUSTER), *command], env=failing, cwd=project, capture_output=True, text=True)
    assert done.returncode == 1 and "ft/unicl_relation/unicl_final.pth.log" in done.stderr
    assert "error: train relation" in done.stderr and ": error: ft/unicl_relation; log: " in done.stderr
    assert any("val_exp='rnd_replay_0.1'" in call.words for call in calls(log)), "the other method goes on"
    assert time_limits(jobs)[1200] == 3 + 2, "the failed job is submitted three times"

    assert "[13/13]" in run(["bash", str(CLUSTER), *command], env, project)
    times = Counter(call.words.rpartition("/setting_1_oarlks/")[2] for call in calls(log) if call.program == "mmf_run")
    assert times.pop("ft/unicl_relation") == 3 + 1 and set(times.values()) == {1} and len(times) == 10


KILLS = """\
set -m
"$@" &
until [[ -s {log} ]]; do sleep 0.1; done
kill -9 "$(cat "$CLUSTER/slurmd.pid")"
echo killed slurmd
slurmd
until [[ $(wc -l <{log}) -ge 3 ]]; do sleep 0.1; done
kill -9 -- -$!
echo killed Snakemake
"$@" &
until [[ $(wc -l <{log}) -ge 4 ]]; do sleep 0.1; done # the second step of a job is running
scancel --state=RUNNING --user=root
echo killed a job
wait $!
"""
