"""The answer vocabulary: one answer word a line, the first four special."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import atomic_write

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
"""What the first four lines must be: padding, begin, end and unknown (index 0 to 3)."""

PUBLISHED_SIZE = 6182
"""Lines of CLOVE's own vocabulary, which the published checkpoints are shaped by."""


def load_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """The answer words by index, specials first.

    Raises:
        DataError: the file is missing or not text, the specials are not in front, a line is blank or stands
            twice; the message gives the line, counted from 1.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start})") from None
    words = [line.strip() for line in text.removesuffix("\n").split("\n")]
    _check(words, str(path))
    return words


def save_vocabulary(path: str | os.PathLike[str], words: Iterable[str]) -> None:
    """Write answer words, specials first.

    Raises:
        DataError: they are not what :func:`load_vocabulary` would read.
    """
    kept = list(words)
    _check(kept, str(path))
    with atomic_write(path) as file:
        file.write("\n".join(kept) + "\n")


def _check(words: list[str], where: str) -> None:
    if tuple(words[: len(SPECIALS)]) != SPECIALS:
        raise DataError(f"{where}: the first lines must be {' '.join(SPECIALS)}, one a line")
    lines: dict[str, int] = {}
    for number, word in enumerate(words, start=1):
        if not word:
            raise DataError(f"{where}: line {number} is blank")
        if word in lines:
            raise DataError(f"{where}: line {number}: {word!r} stands on line {lines[word]} already")
        lines[word] = number
