"""The documentation names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [
    PROJECT / "README.md",
    PROJECT / "run_scripts" / "README.md",
    PROJECT / "examples" / "easy_vqa" / "README.md",
    # The log keeps the names of its day.
    *(page for page in sorted((PROJECT / "docs").glob("*.md")) if page.name != "LOG.md"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_named_source_files_exist(page: Path) -> None:
    folders = "mmclvqa|examples|SRM|tests|benchmarks|run_scripts|profiles|EXP_CONFIG"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", page.read_text()))
    assert not [path for path in sorted(named) if not (PROJECT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page if not path else page.parent / path
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert not wrong


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
