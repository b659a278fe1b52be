"""Count SRM's replays with correct answers, given the prompt: ``python -m examples.easy_vqa.replays ROOT``."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from examples.easy_vqa.language import is_true
from mmclvqa.clove.data_root import existing_root
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.experiment_paths import QAG_SEQ
from mmclvqa.clove.records import load_records
from mmclvqa.clove.text import format_table, run_command
from SRM.data import related_items

_OF_ONE_TASK = re.compile(r".+_REPLAY\[(?P<past>.+)\]_AT\[(?P<current>.+)\]\.npy")


def verdicts(file: Path) -> Counter[bool | None]:
    """Return how many replays of a file have a correct answer, a wrong one, and (None) no question of easy-VQA.

    Raises:
        DataError, RecordError, UnsafePickleError: the file cannot be read.
    """
    return Counter(is_true(row["question"], row["answer"], related_items(row)) for row in load_records(file))


def run(root: Path) -> int:
    """Print the share of replays with correct answers in every replay file below ``root`` and in all; return 0.

    Raises:
        DataError: there are no replay files.
    """
    matches = {file: _OF_ONE_TASK.fullmatch(file.name) for file in sorted(root.rglob(f"{QAG_SEQ}/**/*.npy"))}
    files = {file: match for file, match in matches.items() if match}
    if not files:
        raise DataError(f"{root}: has no replays of SRM below {QAG_SEQ}")
    existing_root(None)  # records name an image source, which a setting of the data root defines
    total: Counter[bool | None] = Counter()
    rows = []
    for file, match in files.items():
        counts = verdicts(file)
        total += counts
        run_name = file.relative_to(root).parts[0]
        rows.append((run_name if run_name.startswith("seed_") else "", *match.groups(), *_numbers(counts)))
    rows.append(("all", "", "", *_numbers(total)))
    print(format_table(("run", "replays of", "before", "replays", "true", "share true"), rows, text_columns=3))
    return 0


def _numbers(counts: Counter[bool | None]) -> tuple[int, int, str]:
    return counts.total(), counts[True], f"{counts[True] / max(1, counts.total()):.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.easy_vqa.replays", description=__doc__)
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of experiments")
    args = parser.parse_args(argv)
    return run_command(lambda: run(args.root))


if __name__ == "__main__":
    sys.exit(main())
