"""Word vectors of the world in fastText's binary format.

The format is fastText's, the training is our own: ``fasttext.train_unsupervised`` with one thread starts
from memory that it never initialises and with several threads depends on their timing, so no two runs of
it agree. Here a word's vector is the sum of random index vectors of the words near it (random indexing,
Kanerva et al. 2000), and a subword's vector the mean over the words that hold it.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmclvqa.clove.files import atomic_write
from mmclvqa.clove.mini.draws import named_generator

WIDTH = 300
BUCKETS = 2000
WINDOW = 5
MIN_SUBWORD, MAX_SUBWORD = 3, 6
NOISE = 0.1
"""Share of a random part that tells words apart which have the same neighbours."""

_MAGIC, _VERSION = 793712314, 12
_NEGATIVE_SAMPLING, _SKIPGRAM = 2, 2


def write_word_vectors(path: Path, lines: Iterable[str], words: Sequence[str], seed: int) -> None:
    """Write a fastText ``.bin`` of ``words``, 300 wide, with subwords of 3 to 6 letters.

    Args:
        path: the file.
        lines: sentences to learn from, words parted by spaces; other words than ``words`` are passed over.
        words: the vocabulary, ASCII.
        seed: of the index vectors.
    """
    counts, vectors = _learn(lines, words, seed)
    matrix = np.concatenate([vectors, _subword_vectors(words, vectors, seed)]).astype("<f4")
    with atomic_write(path, "wb") as file:
        file.write(struct.pack("<2i", _MAGIC, _VERSION))
        # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate, t
        sizes = (
            WIDTH,
            WINDOW,
            1,
            1,
            5,
            1,
            _NEGATIVE_SAMPLING,
            _SKIPGRAM,
            BUCKETS,
            MIN_SUBWORD,
            MAX_SUBWORD,
            100,
        )
        file.write(struct.pack("<12id", *sizes, 1e-4))
        file.write(struct.pack("<3i2q", len(words), len(words), 0, sum(counts.values()), -1))
        for word in words:
            file.write(word.encode() + b"\0" + struct.pack("<qb", counts[word], 0))
        for rows in (matrix, np.zeros((len(words), WIDTH), dtype="<f4")):
            file.write(struct.pack("<?2q", False, *rows.shape) + rows.tobytes())


def subword_buckets(word: str) -> list[int]:
    """Numbers of the buckets of a word's subwords, as fastText hashes them (FNV-1a)."""
    marked = f"<{word}>"
    return [
        _hash(marked[start : start + size]) % BUCKETS
        for start in range(len(marked))
        for size in range(MIN_SUBWORD, MAX_SUBWORD + 1)
        if start + size <= len(marked)
    ]


def _hash(text: str) -> int:
    value = 2166136261
    for byte in text.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


def _learn(lines: Iterable[str], words: Sequence[str], seed: int) -> tuple[Counter[str], np.ndarray]:
    """Counts of the words (at least 1) and their vectors, of length 1: words×300."""
    known = {word: row for row, word in enumerate(words)}
    near = np.zeros((len(words), len(words)))
    counts = Counter(dict.fromkeys(words, 1))
    for line in lines:
        rows = [known[word] for word in line.split() if word in known]
        counts.update(words[row] for row in rows)
        for position, row in enumerate(rows):
            for other in rows[position + 1 : position + 1 + WINDOW]:
                near[row, other] += 1
                near[other, row] += 1
    rng = named_generator(seed, "word vectors")
    index, own = rng.standard_normal((2, len(words), WIDTH))
    # The logarithm keeps frequent neighbours such as "the" from drowning the telling ones.
    vectors = _unit(np.einsum("ij,jk->ik", np.log1p(near), index))
    return counts, _unit(vectors + NOISE * own)


def _subword_vectors(words: Sequence[str], vectors: np.ndarray, seed: int) -> np.ndarray:
    """Buckets×300; a bucket that no word hits holds a small random vector."""
    sums = named_generator(seed, "subwords").standard_normal((BUCKETS, WIDTH)) * NOISE / np.sqrt(WIDTH)
    hits = np.ones((BUCKETS, 1))
    for word, vector in zip(words, vectors, strict=True):
        for bucket in subword_buckets(word):
            sums[bucket] += vector
            hits[bucket] += 1
    return sums / hits


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
