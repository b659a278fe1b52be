"""From predicted indices to words, the same way for metrics and predictions (M4C decoding)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mmf.utils.text import word_tokenize


class AnswerSpace(Protocol):
    """What is needed of an answer processor."""

    EOS_IDX: int

    def get_true_vocab_size(self) -> int: ...


def answer_words(
    indices: Sequence[int], ocr_tokens: Sequence[str], answer_processor: AnswerSpace
) -> tuple[str, list[str]]:
    """Turn one record's greedy indices into its answer.

    Args:
        indices: one index per decoding step; below A a vocabulary word, from A on an OCR slot.
        ocr_tokens: the record's OCR tokens by slot (padded with ``<pad>``).
        answer_processor: gives A, EOS and the words.

    Returns:
        The answer, and per word where it came from: ``VOCAB`` or ``OCR``.
    """
    size = answer_processor.get_true_vocab_size()
    words, sources = [], []
    for index in indices:
        if index == answer_processor.EOS_IDX:
            break
        if index >= size:
            words.append(word_tokenize(ocr_tokens[index - size]))
            sources.append("OCR")
        else:
            words.append(answer_processor.answer_vocab.idx2word(index))
            sources.append("VOCAB")
    return " ".join(words).replace(" 's", "'s"), sources
