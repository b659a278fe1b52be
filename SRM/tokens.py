"""Special tokens, and how texts become token ids.

Texts are tokenised piece by piece (an item, a question, an answer), because the special tokens between the
pieces split the text for the tokenizer as well: the ids are those of the whole text, and each piece is
tokenised once, however often it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmclvqa.clove.annotations import ITEM_END
from mmclvqa.clove.tasks import Task

EOS = "<|endoftext|>"
PAD = "[pad]"
UNK = "[unk]"
SEP = "[SEP]"
QUESTION = "[que]"
ANSWER = "[ans]"
OCR = "[OCR]"
WEIGHTED = (ANSWER, QUESTION, OCR, SEP)
"""Targets that count more in the loss."""


def task_token(task: Task | str, own: bool = True) -> str:
    """What a task's sequences begin with: ``__<task>__``, or ``__gen__`` where all tasks share one."""
    return f"__{task if isinstance(task, str) else task.name}__" if own else "__gen__"


def task_question_token(task: Task | str, own: bool = True) -> str:
    """What the questions of encoder-decoder models begin with: ``[que_<task>]``, or ``[que]`` where tasks share it."""
    return f"[que_{task if isinstance(task, str) else task.name}]" if own else QUESTION


class Tokens:
    """A tokenizer with SRM's special tokens, and the ids of texts.

    Args:
        tokenizer: of the transformers library; the special tokens are added where it lacks them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        tokenizer.add_special_tokens({"eos_token": EOS, "pad_token": PAD, "unk_token": UNK, "sep_token": SEP})
        self.add(QUESTION, ANSWER, OCR)
        self.eos = self.id(EOS)
        self.pad = self.id(PAD)
        self.sep = self.id(SEP)
        self.question = self.id(QUESTION)
        self.answer = self.id(ANSWER)
        self._pieces: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.tokenizer)

    def add(self, *tokens: str) -> None:
        """Add special tokens that are not there yet."""
        self.tokenizer.add_tokens(
            [token for token in tokens if token not in self.tokenizer.get_vocab()], special_tokens=True
        )

    def id(self, token: str) -> int:
        """The id of a special token."""
        return self.tokenizer.convert_tokens_to_ids(token)

    def weighted_ids(self) -> list[int]:
        """Ids of the targets that count more in the loss."""
        return [self.id(token) for token in WEIGHTED]

    def remember(self, pieces: Iterable[str]) -> None:
        """Tokenise many pieces at once; :meth:`ids` of them is then a look-up."""
        fresh = [piece for piece in dict.fromkeys(pieces) if piece not in self._pieces]
        if fresh:
            lists = self.tokenizer(fresh, add_special_tokens=False)["input_ids"]
            self._pieces.update(zip(fresh, lists, strict=True))

    def ids(self, piece: str) -> list[int]:
        """The ids of a piece of text; do not change the list."""
        if piece not in self._pieces:
            self.remember([piece])
        return self._pieces[piece]

    def join(self, items: Sequence[str]) -> list[int]:
        """The ids of items with ``[SEP]`` between them."""
        joined: list[int] = []
        for item in items:
            if joined:
                joined.append(self.sep)
            joined.extend(self.ids(item))
        return joined

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)


def bare(item: str) -> str:
    """An item of a scene graph without its `` [SEP]``."""
    return item.removesuffix(ITEM_END)
