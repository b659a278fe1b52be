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

    Attributes:
        opened: number of events when the object was made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / ".workflow"
        self.path = self.folder / "journal.tsv"
        self.opened = len(self._events())

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

    def show_news(self, seen: int, kinds: Mapping[str, str], parallel: int) -> int:
        """Print new events of the plan's steps and return the number of all events.

        Another workflow may use the same folder, and therefore the same journal. If jobs are refused for one reason,
        only the first of them is printed.

        Args:
            seen: number of events that have been printed.
            kinds: kind of each step of the plan by its output, relative to ``ROOT``.
            parallel: number of steps that run in parallel.
        """
        events = self._events()
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
            elif event.message not in {one.message for one in events[self.opened : place] if one.what == "refused"}:
                print(f"  not submitted: {event.title}: {event.message}", flush=True)
        return len(events)

    def failures_since(self, seen_at: int, outputs: Container[str]) -> list[str]:
        """Return lines on the steps that failed after ``seen_at`` events and have not succeeded since.

        Each failed step has a line; steps whose jobs were refused for one reason share a line.
        """
        events = [event for event in self._events()[seen_at:] if event.output in outputs]
        ended = {event.output for event in events if event.what == "end"}
        failed = {
            event.output: event for event in events if event.what in ("failed", "refused") and event.output not in ended
        }
        refused: dict[str, list[Event]] = defaultdict(list)
        lines = []
        for event in failed.values():
            if event.what == "refused":
                refused[event.message].append(event)
            else:
                lines.append(f"{event.title}: {event.message or 'failed'}{self._log(event)}")
        for reason, jobs in refused.items():
            others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
            lines.append(f"not submitted: {jobs[0].title}{others}: {reason}")
        return lines

    def _events(self) -> list[Event]:
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        fields = [line.split("\t") for line in lines]
        return [Event(f[0], int(f[1]), *f[2:]) for f in fields if len(f) == 6 and f[1].isdigit()]

    def _log(self, event: Event) -> str:
        """Name the log of a step, which a job that ends before its first command does not write."""
        log = self._root / f"{event.output}.log"
        return f"; log: {log}" if log.exists() else ""


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
