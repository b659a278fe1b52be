"""The journal of a workflow, which records start, end and failure of steps and predicts the remaining time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mmclvqa.clove.text import clock


@dataclass(frozen=True)
class Event:
    """One line of the journal.

    Attributes:
        what: ``start``, ``end``, ``failed``, or ``refused`` if a cluster refused the job of the step.
        seconds: Unix time.
        kind: kind of the step.
        output: output of the step, relative to ``ROOT``.
        title: title of the step.
        message: last error line, if the step failed; the reason, if its job was refused.
    """

    what: str
    seconds: int
    kind: str
    output: str
    title: str
    message: str


class Journal:
    """The file to which every step appends its start and end, and Snakemake the jobs that a cluster refuses or ends.

    Args:
        root: the folder of experiments.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / ".workflow"
        self.path = self.folder / "journal.tsv"
        self._opened = self._shown = len(self._events())

    def mean_seconds(self, kind: str) -> float | None:
        """Return the mean duration of finished steps of a kind; None if no step has finished."""
        durations = _durations(self._events()).get(kind)
        return fmean(durations) if durations else None

    def append(self, event: Event) -> None:
        """Append an event, whose texts contain neither tabs nor line breaks."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\t".join(str(value) for value in vars(event).values()) + "\n")

    def last_event(self, output: str) -> str | None:
        """Return what last happened to a step, None if nothing has."""
        return next((event.what for event in reversed(self._events()) if event.output == output), None)

    def show_news(self, kinds: Mapping[str, str], parallel: int) -> None:
        """Print the events of the plan's steps that are new since the last call.

        Another workflow may use the same folder, and therefore the same journal. If jobs are refused for one reason,
        only the first of them is printed.

        Args:
            kinds: kind of each step of the plan by its output, relative to ``ROOT``.
            parallel: number of steps that run in parallel.
        """
        events, seen = self._events(), self._shown
        self._shown = len(events)
        for place, event in enumerate(events[seen:], start=seen):
            if event.output not in kinds:
                continue
            if event.what == "start":
                print(f"  started: {event.title}", flush=True)
            elif event.what == "end":
                pending = [kind for output, kind in kinds.items() if not (self._root / output).exists()]
                left = _time_left(events, pending, parallel)
                print(f"[{len(kinds) - len(pending)}/{len(kinds)}] {event.title}{left}", flush=True)
            elif event.what == "failed":
                print(f"  failed: {event.title}", flush=True)
            elif event.message not in {one.message for one in events[self._opened : place] if one.what == "refused"}:
                print(f"  not submitted: {event.title}: {event.message}", flush=True)

    def failures(self, outputs: Container[str]) -> list[str]:
        """Return lines on the steps that have failed since this object was made, and not succeeded afterwards.

        Each failed step has a line; steps whose jobs were refused for one reason share a line.
        """
        last = {event.output: event for event in self._events()[self._opened :] if event.what != "start"}
        refused: dict[str, list[Event]] = defaultdict(list)
        lines = []
        for output, event in last.items():
            if output in outputs and event.what == "refused":
                refused[event.message].append(event)
            elif output in outputs and event.what == "failed":
                # A job that ends before the first command of its step writes no log.
                log = self._root / f"{output}.log"
                place = f"; log: {log}" if log.exists() else ""
                lines.append(f"{event.title}: {event.message or 'failed'}{place}")
        for reason, jobs in refused.items():
            others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
            lines.append(f"not submitted: {jobs[0].title}{others}: {reason}")
        return lines

    def _events(self) -> list[Event]:
        try:
            text = self.path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return []
        fields = [line.split("\t") for line in text.split("\n")]  # a message may contain other line separators
        return [Event(f[0], int(f[1]), *f[2:]) for f in fields if len(f) == 6 and f[1].isdigit()]


def _time_left(events: Sequence[Event], pending: Sequence[str], parallel: int) -> str:
    durations = _durations(events)
    every = [seconds for values in durations.values() for seconds in values]
    if not every or not pending:
        return ""
    seconds = sum(fmean(durations.get(kind, every)) for kind in pending)
    return f"; about {clock(seconds / parallel)} left"


def _durations(events: Sequence[Event]) -> dict[str, list[float]]:
    started: dict[str, int] = {}
    durations: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.what == "start":
            started[event.output] = event.seconds
        elif event.what == "end" and event.output in started:
            durations[event.kind].append(event.seconds - started.pop(event.output))
    return durations
