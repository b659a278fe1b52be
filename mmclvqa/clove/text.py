"""Text of command lines: arguments, tables, durations, suggestions for mistyped names, and errors on one line."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Sequence

from mmclvqa.clove.errors import CloveError

SHELL_SPECIAL = frozenset("\"'$`\\\n")
"""Characters that end or change a quoted word of a shell."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""


def run_command(command: Callable[[], int | None], advice: str = "", silent: bool = False) -> int:
    """Run a command and return its exit code; errors that a user can fix are printed on one line.

    Args:
        command: returns an exit code; None means 0.
        advice: how to resume, printed after Ctrl-C.
        silent: whether errors are not printed, because another process prints them.

    Returns:
        The exit code of ``command``; 1 after a :class:`CloveError` or :class:`OSError`; 130 after Ctrl-C.
    """
    try:
        return command() or 0
    except BrokenPipeError:
        # The reader of stdout has exited, as `head` does. The flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CloveError, OSError) as error:
        if not silent:
            print(f"error: {error_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted" + (f"; {advice}" if advice else ""), file=sys.stderr)
        return INTERRUPTED


def error_line(error: BaseException) -> str:
    """Return an exception on one line: file and reason of an operating-system error, else its message."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return one_line(error) or type(error).__name__


def one_line(text: object) -> str:
    """Return a text, or the message of an exception, with all white space collapsed to single spaces."""
    return " ".join(str(text).split())


def first_of(entries: Sequence[str], most: int) -> str:
    """Return the first ``most`` entries, separated by commas, with the number of the others."""
    rest = len(entries) - most
    return ", ".join(entries[:most]) + (f" and {rest} more" if rest > 0 else "")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: ``1 record``, ``3 records``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def positive(text: str) -> int:
    """Return an argument of a command line as a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def did_you_mean(name: object, candidates: Iterable[str]) -> str:
    """Return ``; did you mean <names>?`` with the candidates closest to ``name``, empty if none is close."""
    return suggestion(difflib.get_close_matches(str(name), list(candidates)))


def suggestion(names: Sequence[str]) -> str:
    """Return ``; did you mean <names>?``, empty without names."""
    return f"; did you mean {' or '.join(names)}?" if names else ""


def clock(seconds: float) -> str:
    """Return a duration as ``h:mm:ss``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]], text_columns: int = 1) -> str:
    """Format rows below a header, with columns padded to equal width.

    Args:
        text_columns: number of columns from the left that are left-aligned; the others are right-aligned.
    """
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    lines = []
    for row in cells:
        text = [cell.ljust(width) for cell, width in zip(row[:text_columns], widths, strict=False)]
        numbers = [cell.rjust(width) for cell, width in zip(row[text_columns:], widths[text_columns:], strict=True)]
        lines.append("  ".join(text + numbers).rstrip())
    return "\n".join(lines)
