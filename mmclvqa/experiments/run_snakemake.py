"""Snakemake, with a line in the journal for each job that a cluster refuses or ends.

Snakemake itself prints no reason for the failure of a job of several steps, and for other jobs only together with the
commands of all jobs. Takes Snakemake's arguments; ``ROOT`` is the folder of experiments and ``PROFILE`` the profile
that the user should check after a refusal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snakemake.cli import main
from snakemake.jobs import GroupJob
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

from mmclvqa.clove.text import error_line, one_line
from mmclvqa.experiments.progress import Event, Journal

MAX_CHARACTERS = 1000
"""Maximum length of a reason in the journal."""
print_job_error = RemoteExecutor.print_job_error


def record_job_error(
    executor: RemoteExecutor, job_info: SubmittedJobInfo, msg: str | None = None, **details: Any
) -> None:
    """Append the reason of a job's failure to the journal, then report the failure as Snakemake does."""
    try:
        _record(job_info, msg or "", details.get("aux_logs") or ())
    except Exception as error:
        # Snakemake would wait forever for a job whose failure is not reported.
        executor.logger.error(f"the journal lacks the failure of a job ({error_line(error)}): {msg}")
    print_job_error(executor, job_info, msg, **details)


def _record(job_info: SubmittedJobInfo, message: str, logs: Iterable[str | None]) -> None:
    """Append an event of the first unfinished step of a job. A step that has recorded its own failure keeps it."""
    steps = list(job_info.job) if job_info.job.is_group() else [job_info.job]
    step = next((step for step in steps if not Path(step.output[0]).exists()), steps[-1])
    output = str(step.output[0])
    journal = Journal(Path(os.environ["ROOT"]))
    is_refused = job_info.external_jobid is None
    if not is_refused and journal.last_event(output) == "failed":
        return
    # The call of the scheduler's program, which follows, contains the commands of all steps.
    reason = one_line(message.partition("sbatch call:")[0])[:MAX_CHARACTERS].rstrip(".") or "no reason is known"
    if is_refused:
        reason += f"; check partition, account and limits in {os.environ['PROFILE']}"
    reason += "".join(f"; log of the job: {path}" for path in logs if path)
    what = "refused" if is_refused else "failed"
    journal.append(Event(what, int(time.time()), step.rule.name, output, step.params.title, reason))


if __name__ == "__main__":
    RemoteExecutor.print_job_error = record_job_error
    # The SLURM executor reads this attribute when it reports that it cannot submit a job, for example because of an
    # invalid account. A job of several steps lacks it; the executor's thread then ends, and Snakemake waits forever.
    GroupJob.rule = property(lambda job: next(iter(job)).rule)
    main()
