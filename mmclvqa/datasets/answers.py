"""Conversion of predicted indices to answers (M4C decoding), shared by metrics and prediction files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmf.utils.text import word_tokenize


def answer_words(indices: Sequence[int], ocr_tokens: Sequence[str], answer_processor: Any) -> tuple[str, list[str]]:
    """Return the answer that a record's greedy indices spell.

    Args:
        indices: one index per decoding step; below A a vocabulary word, otherwise A + OCR slot.
        ocr_tokens: OCR tokens of the record by slot, padded with ``<pad>``.

    Returns:
        The answer, and the source of each of its words: ``VOCAB`` or ``OCR``.
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
    # word_tokenize puts a space before 's, also where there is one already.
    return re.sub(" +'s", "'s", " ".join(words)), sources
