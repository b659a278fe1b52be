"""What a check of a data root found, and how it is printed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from mmclvqa.clove.table import format_table

EXAMPLES = 20
"""How many findings of one kind are printed in full unless all are asked for."""


@dataclass
class Report:
    """What a check found.

    Attributes:
        rows: ``(what, what it holds)`` in the order looked at.
        findings: ``{what: {kind: [detail, ...]}}``; a detail is one line that names file, record or key.
        notes: lines about what departs from the published form and is read all the same; they are no findings.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    findings: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, kind: str, detail: str) -> None:
        """Note one finding about ``what``."""
        self.findings[what][kind].append(detail)

    def count(self, what: str | None = None) -> int:
        """How many findings there are, about ``what`` or in all."""
        kinds = self.findings.values() if what is None else [self.findings.get(what, {})]
        return sum(len(details) for by_kind in kinds for details in by_kind.values())


def format_report(report: Report, examples: int | None = EXAMPLES) -> str:
    """The table of a report, below it the notes and then the findings, grouped by file and kind.

    Args:
        report: of :meth:`Checker.run`.
        examples: how many findings of one kind are spelled out, the others counted; None spells out all.
    """
    listed = dict.fromkeys(what for what, _ in report.rows)
    rows = [(what, holds, report.count(what) or "-") for what, holds in report.rows]
    lines = [
        format_table(("what", "holds", "findings"), rows, text_columns=2),
        "",
        *(f"note: {note}" for note in report.notes),
    ]
    for what in [*listed, *(what for what in report.findings if what not in listed)]:
        for kind, details in report.findings.get(what, {}).items():
            shown = details if examples is None else details[:examples]
            lines += [f"{what}: {detail}" for detail in shown]
            if len(details) > len(shown):
                rest = len(details) - len(shown)
                lines.append(f"{what}: ... and {rest} more of this kind ({kind}); --all lists them")
    total = report.count()
    lines.append(f"{total} finding{'' if total == 1 else 's'}" if total else "no findings")
    return "\n".join(lines)
