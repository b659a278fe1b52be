"""The expected cost of steps by kind: minutes of measured steps or of a profile, and GPU-hours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mmclvqa.clove.text import format_table
from mmclvqa.experiments.profiles import DEFAULT
from mmclvqa.experiments.progress import Journal
from mmclvqa.experiments.steps import Step


def cost_lines(
    steps: Sequence[Step], journal: Journal, runtimes: Mapping[str, float], source: str, parallel: int
) -> list[str]:
    """Return a table of expected costs by kind, and the expected time, line by line.

    The minutes of a kind are the mean of its finished steps in the journal, otherwise those of ``runtimes``, which are
    from ``source``. ``steps`` are in a valid order of execution, and ``parallel`` of them run at a time.
    """
    minutes: dict[str, float | None] = {}
    rows, gpu_hours = [], 0.0
    for (kind, gpus), count in Counter((step.kind, step.gpus) for step in steps).items():
        seconds = journal.mean_seconds(kind)
        each = runtimes.get(kind, runtimes.get(DEFAULT)) if seconds is None else seconds / 60
        minutes[kind] = each
        origin = "finished steps" if seconds is not None else "not known" if each is None else source
        hours = count * gpus * (each or 0.0) / 60
        gpu_hours += hours
        rows.append((kind, origin, count, *(f"{value:.1f}" if each is not None else "" for value in (each, hours))))
    rows.append(("all", "", len(steps), "", f"{gpu_hours:.1f}"))
    header = ("kind", "minutes from", "steps", "minutes each", "GPU-hours")
    lines = format_table(header, rows, text_columns=2).splitlines()
    if None in minutes.values():
        missing = "some kinds of steps have neither finished steps nor a runtime in the profile"
        return [*lines, f"the total time cannot be estimated: {missing}"]
    ended: dict[str, float] = {}
    for step in steps:
        ended[step.output] = minutes[step.kind] + max((ended.get(path, 0.0) for path in step.inputs), default=0.0)
    chain = max(ended.values(), default=0.0)
    time = max(chain, sum(minutes[step.kind] for step in steps) / parallel)
    return [*lines, f"about {_hours(time)} with {parallel} at a time; the longest chain of steps takes {_hours(chain)}"]


def _hours(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes < 48 * 60 else f"{minutes / 60 / 24:.1f} days"
