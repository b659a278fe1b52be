"""Jobs that a cluster refuses or ends, through Snakemake's SLURM executor with stand-ins for SLURM's programs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mmclvqa.experiments import __main__ as command_line

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("snakemake", "snakemake_executor_plugin_slurm"))),
        reason="Snakemake is not installed: pip install -r workflow_requirements.txt",
    ),
]

SBATCH = """\
case "$*" in
*-p\\ nosuch*)
  echo 'sbatch: error: invalid partition specified: nosuch' >&2
  echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2
  exit 1 ;;
esac
echo "$$" | tee -a "$LOG.jobs"
"""
"""Refuses jobs in the partition ``nosuch`` and runs no other job."""
SQUEUE = """[[ ! -e $LOG.jobs ]] || sed 's/$/|TIMEOUT/' "$LOG.jobs"\n"""
REASON = (
    "The error message was 'sbatch: error: invalid partition specified: nosuch "
    "sbatch: error: Batch job submission failed: Invalid partition name specified'; check partition, account and "
    "limits in {profile}/config.yaml"
)
COMMAND = ["run", "--order", "oarlks", "--method"]


@pytest.fixture
def profile(stage: Path, project: Path) -> Path:
    """A copy of ``profiles/slurm`` that waits for nothing, on a cluster of stand-ins."""
    scripts = {"sbatch": SBATCH, "squeue": SQUEUE, "scontrol": "echo 'MinJobAge = 300 sec'\n", "sacct": "exit 1\n"}
    for name, script in (scripts | {"sinfo": ""}).items():
        (stage / "bin" / name).write_text(f"#!/usr/bin/env bash\n{script}")
        (stage / "bin" / name).chmod(0o755)
    folder = stage / "a profile"
    folder.mkdir()
    text = (project / "profiles/slurm/config.yaml").read_text() + "seconds-between-status-checks: 1\n"
    (folder / "config.yaml").write_text(text)
    change(folder, ("before-status-checks: 10", "before-status-checks: 1"))
    return folder


def change(profile: Path, *replacements: tuple[str, str]) -> None:
    text = (profile / "config.yaml").read_text()
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (profile / "config.yaml").write_text(text)


@pytest.mark.parametrize("steps_per_job", [1, 2])
def test_a_refused_job_is_named_with_the_reason(
    profile: Path, steps_per_job: int, capsys: pytest.CaptureFixture[str]
) -> None:
    change(
        profile,
        ("- steps_per_job=2", f"- steps_per_job={steps_per_job}"),
        ("slurm_partition=batch ", "slurm_partition=nosuch "),
    )
    assert command_line.main([*COMMAND, "ft", "multitask", "--profile", str(profile)]) == 1
    said = capsys.readouterr()
    reason = REASON.format(profile=profile)
    assert said.out.count(reason) == 1, "the reason is shown once while the workflow runs"
    [line] = said.err.splitlines()
    # The first of six trainings, and joint training, whose job has two steps if jobs may have.
    assert line.startswith("error: not submitted: ") and " and 1 more: " in line and line.endswith(reason)


@pytest.mark.parametrize("steps_per_job", [1, 2])
def test_an_account_that_the_executor_refuses_is_named(
    profile: Path, stage: Path, steps_per_job: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (stage / "bin/sacctmgr").write_text("#!/bin/sh\necho mine\n")
    (stage / "bin/sacctmgr").chmod(0o755)
    change(
        profile,
        ("- steps_per_job=2", f"- steps_per_job={steps_per_job}"),
        ("# - slurm_account=...", "- slurm_account=other"),
        ("slurm-no-account: true", ""),
    )
    assert command_line.main([*COMMAND, "multitask", "--profile", str(profile)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not submitted: train on all tasks at once: ")
    assert "account other appears to be invalid. Available accounts: mine; check partition, account" in line


@pytest.mark.long
def test_other_steps_go_on_after_a_refused_job(
    profile: Path, stage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(profile, ("- evaluate:runtime=120", "- train:slurm_partition=nosuch"), ("retries: 2", "retries: 0"))
    assert command_line.main([*COMMAND, "ft", "chance", "--profile", str(profile)]) == 1
    lines = capsys.readouterr().err.splitlines()
    [job] = (stage / "log.jobs").read_text().split()
    refused, ended = sorted(lines, key=lambda line: "TIMEOUT" in line)
    assert refused.startswith("error: not submitted: train object: ") and "invalid partition" in refused
    assert ended.startswith("error: compute the chance level: exp/clvqa/save/chance: ")
    assert f"SLURM-job '{job}' failed, SLURM status is: 'TIMEOUT'" in ended
    assert "; log of the job: " in ended and ended.endswith(f"/{job}.log"), "the step itself has written no log"
