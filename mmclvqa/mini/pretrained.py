"""The ``pretrained/`` folder of clove-mini: language models, tokenizers and word vectors of its own language.

Each file has the name and format of the published one and can be loaded in the same way.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import string
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from mmclvqa.clove import data_root
from mmclvqa.clove.data_root import FASTTEXT_WIDTH
from mmclvqa.clove.files import atomic_write, write_json
from mmclvqa.mini import vocabulary
from mmclvqa.mini.pretraining import GPT2_WEIGHTS, TIED, pretrained_weights
from mmclvqa.mini.questions import ask
from mmclvqa.mini.scenes import named_generator, named_random, sample_scenes, sample_text_scenes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

CORPUS_SCENES = 300
LANGUAGE_SEED = 0
"""Seed of the text from which tokens and word vectors are computed."""
BERT_WIDTH = 64
BERT_LAYERS = 3
BERT_HEADS = 4
BERT_INITIALIZER_RANGE = 0.07
"""BERT's default 0.02 suits layers of width 768; at this width attention would remain uniform for long."""
GPT2_WIDTH = 128
GPT2_LAYERS = 4
GPT2_HEADS = 4
POSITIONS = 512
BPE_SIZE = 1500
END_OF_TEXT = "<|endoftext|>"

BUCKETS = 2000
WINDOW = 5
MIN_SUBWORD, MAX_SUBWORD = 3, 6
VECTOR_NOISE = 0.1
"""Weight of a random vector that distinguishes words with the same neighbors."""

_NEGATIVE_SAMPLING, _SKIPGRAM = 2, 2


def write_pretrained(root: Path, seed: int, feature_dim: int, pretrained: bool = True) -> None:
    """Write BERT, GPT-2, fastText and fc7 for clove-mini's language, which is the same for every seed.

    Args:
        pretrained: whether GPT-2 has the weights of :mod:`mmclvqa.mini.pretraining` instead of random ones. BERT's
            weights are random, because with pretrained ones of this size UniVQA does not learn faster.
    """
    words, syllables = _words(), vocabulary.SYLLABLES
    whole = [word for word in words if word not in vocabulary.UNLISTED_WORDS]
    pieces = wordpieces(whole, (*syllables, *(f"##{syllable}" for syllable in syllables)))
    weights = GPT2_WEIGHTS if pretrained else None
    write_models(root, seed, feature_dim, _sentences(LANGUAGE_SEED), words, pieces, gpt2_weights=weights)


def write_models(
    root: Path,
    seed: int,
    feature_dim: int,
    lines: Sequence[str],
    words: Sequence[str],
    pieces: Sequence[str],
    gpt2_layers: int = GPT2_LAYERS,
    gpt2_weights: Path | None = None,
) -> None:
    """Write small models of any language below ``root``: BERT, GPT-2, fastText and fc7.

    Args:
        lines: sentences, from which GPT-2's tokens and the word vectors are computed.
        words: all words, in ASCII, which are single tokens of GPT-2.
        pieces: BERT's vocabulary, see :func:`wordpieces`.
        gpt2_weights: file of the weights of GPT-2, random if None.
    """
    _write_bert(root / data_root.BERT, pieces, seed)
    _write_gpt2(root / data_root.DISTILGPT2, lines, words, gpt2_layers, seed, gpt2_weights)
    plain = [line.replace("?", "").replace(",", "") for line in lines]
    _write_word_vectors(root / data_root.FASTTEXT, plain, words, seed)
    _write_fc7(root, seed, feature_dim)


def _words() -> list[str]:
    """Return all words of questions, answers and items, sorted."""
    language = vocabulary
    named = (
        *language.CLASSES, *language.CATEGORIES, *language.PLACES, *language.ATTRIBUTE_KIND, *language.ATTRIBUTES,
        *language.PURPOSES, *language.RELATIONS, *language.FACT_PREDICATES, *language.SURFACES, *language.SIGN_WORDS,
        language.YES, language.NO, "with",
    )  # fmt: skip
    templates = (word.strip("?,") for forms in language.FORMS.values() for form in forms for word in form.split())
    return sorted({word for name in named for word in name.split()} | {word for word in templates if "{" not in word})


def _sentences(seed: int) -> list[str]:
    """Return items, and questions with answers, of GQA-like and TextVQA-like scenes as training text."""
    rng = named_random(seed, "corpus")
    lines: list[str] = []
    for scene in sample_scenes(seed, "corpus", CORPUS_SCENES) + sample_text_scenes(seed, "corpus", CORPUS_SCENES):
        lines.extend(scene.items)
        questions = [ask(kind, scene, rng) for kind in vocabulary.FORMS]
        lines.extend(f"{question.text} {question.answer}" for question in questions if question)
    return lines


def wordpieces(words: Iterable[str], parts: Iterable[str] = ()) -> list[str]:
    """Return a vocabulary of BERT in the order of ``vocab.txt``: special tokens, letters, parts of words, and words.

    Args:
        words: words that are one token each.
        parts: tokens of other words, with ``##`` if they continue a word; what they do not cover is split into letters.
    """
    letters = string.ascii_lowercase + string.digits + "?,.[]"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return list(dict.fromkeys([*pieces, *parts, *words]))


def _write_bert(folder: Path, pieces: Sequence[str], seed: int) -> None:
    """Write a WordPiece tokenizer and a small BERT with random weights in the format of ``from_pretrained``."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=BERT_WIDTH,
        num_hidden_layers=BERT_LAYERS,
        num_attention_heads=BERT_HEADS,
        intermediate_size=2 * BERT_WIDTH,
        initializer_range=BERT_INITIALIZER_RANGE,
        max_position_embeddings=POSITIONS,
    )
    _save(BertModel, config, folder, seed)
    with atomic_write(folder / "vocab.txt") as file:
        file.write("\n".join(pieces) + "\n")
    settings = {"do_lower_case": True, "model_max_length": POSITIONS, "tokenizer_class": "BertTokenizer"}
    write_json(folder / "tokenizer_config.json", settings)


def _write_gpt2(
    folder: Path, lines: Sequence[str], words: Sequence[str], layers: int, seed: int, weights: Path | None
) -> None:
    """Write a byte-level BPE tokenizer trained on ``lines`` and a small GPT-2."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = ByteLevelBPETokenizer()
    # A word is one token both at the beginning of an item and after another word.
    corpus = [*lines, *(form for word in words for form in (word, f" {word}") * 2)]
    tokenizer.train_from_iterator(
        corpus, vocab_size=BPE_SIZE, min_frequency=2, show_progress=False, special_tokens=[END_OF_TEXT]
    )
    bpe = json.loads(tokenizer.to_str())["model"]
    token_ids = bpe["vocab"]
    ends = token_ids[END_OF_TEXT]
    config = GPT2Config(
        vocab_size=len(token_ids),
        n_embd=GPT2_WIDTH,
        n_layer=layers,
        n_head=GPT2_HEADS,
        n_positions=POSITIONS,
        bos_token_id=ends,
        eos_token_id=ends,
    )
    by_id = sorted(token_ids, key=token_ids.get)
    _save(GPT2LMHeadModel, config, folder, seed, pretrained_weights(weights, by_id) if weights else {})
    write_json(folder / "vocab.json", token_ids, indent=None)
    with atomic_write(folder / "merges.txt") as file:
        file.write("\n".join(["#version: 0.2", *map(" ".join, bpe["merges"])]) + "\n")
    settings = {"model_max_length": POSITIONS, "tokenizer_class": "GPT2Tokenizer"}
    settings |= {role: END_OF_TEXT for role in ("bos_token", "eos_token", "unk_token")}
    write_json(folder / "tokenizer_config.json", settings)


def _write_fc7(root: Path, seed: int, width: int) -> None:
    """Write fc7's weight (width x width) and bias in float32, close to the identity so that features are preserved."""
    noise = named_generator(seed, "fc7", width).standard_normal((width, width), dtype=np.float32)
    weight = np.eye(width, dtype=np.float32) + np.float32(0.1 / width) * noise
    for path, value in ((data_root.FC7_WEIGHT, weight), (data_root.FC7_BIAS, np.zeros(width, dtype=np.float32))):
        with atomic_write(root / path, "wb") as file:
            pickle.dump(value, file, protocol=4)


def _save(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    folder: Path,
    seed: int,
    pretrained: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write a model with random weights, except the parameters of ``pretrained``."""
    import torch
    from safetensors.torch import save

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    model.load_state_dict(model.state_dict() | dict(pretrained))
    config.architectures = [model_class.__name__]
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name not in TIED}
    with atomic_write(folder / "model.safetensors", "wb") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with atomic_write(folder / "config.json") as file:
        file.write(config.to_json_string(use_diff=True))


def _write_word_vectors(path: Path, lines: Iterable[str], words: Sequence[str], seed: int) -> None:
    """Write a fastText ``.bin`` file with vectors of width 300 and subwords of 3 to 6 letters.

    The training is not fastText's own: ``fasttext.train_unsupervised`` with one thread reads uninitialized memory, and
    with several threads it depends on their timing, so that its results are not reproducible. Here the vector of a
    word is the sum of random index vectors of nearby words (random indexing, Kanerva et al. 2000), and the vector of
    a subword is the mean over the words that contain it.

    Args:
        lines: training sentences with words separated by spaces; words outside ``words`` are ignored.
    """
    counts, vectors = _learn(lines, words, seed)
    matrix = np.concatenate([vectors, _subword_vectors(words, vectors, seed)]).astype("<f4")
    with atomic_write(path, "wb") as file:
        file.write(struct.pack("<2i", data_root.FASTTEXT_MAGIC, data_root.FASTTEXT_VERSION))
        # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate, t
        sizes = (
            FASTTEXT_WIDTH, WINDOW, 1, 1, 5, 1, _NEGATIVE_SAMPLING, _SKIPGRAM, BUCKETS, MIN_SUBWORD, MAX_SUBWORD, 100,
        )  # fmt: skip
        file.write(struct.pack("<12id", *sizes, 1e-4))
        file.write(struct.pack("<3i2q", len(words), len(words), 0, sum(counts.values()), -1))
        for word in words:
            file.write(word.encode() + b"\0" + struct.pack("<qb", counts[word], 0))
        for rows in (matrix, np.zeros((len(words), FASTTEXT_WIDTH), dtype="<f4")):
            file.write(struct.pack("<?2q", False, *rows.shape) + rows.tobytes())


def _subword_buckets(word: str) -> Iterator[int]:
    """Yield the buckets of the subwords of a word by fastText's hash (FNV-1a)."""
    marked = f"<{word}>".encode()
    for start, size in itertools.product(range(len(marked)), range(MIN_SUBWORD, MAX_SUBWORD + 1)):
        if start + size <= len(marked):
            value = 2166136261
            for byte in marked[start : start + size]:
                value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
            yield value % BUCKETS


def _learn(lines: Iterable[str], words: Sequence[str], seed: int) -> tuple[Counter[str], np.ndarray]:
    """Return the counts of the words (at least 1) and their vectors of norm 1 (words x 300)."""
    row_of = {word: row for row, word in enumerate(words)}
    cooccurrences = np.zeros((len(words), len(words)))
    counts = Counter(dict.fromkeys(words, 1))
    for line in lines:
        rows = [row_of[word] for word in line.split() if word in row_of]
        counts.update(words[row] for row in rows)
        for position, row in enumerate(rows):
            for other in rows[position + 1 : position + 1 + WINDOW]:
                cooccurrences[row, other] += 1
                cooccurrences[other, row] += 1
    rng = named_generator(seed, "word vectors")
    index_vectors, noise = rng.standard_normal((2, len(words), FASTTEXT_WIDTH))
    # The logarithm limits the influence of frequent neighbors such as "the".
    vectors = _unit(np.einsum("ij,jk->ik", np.log1p(cooccurrences), index_vectors))
    return counts, _unit(vectors + VECTOR_NOISE * noise)


def _subword_vectors(words: Sequence[str], vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return the bucket vectors (buckets x 300); an unused bucket has a small random vector."""
    rng = named_generator(seed, "subwords")
    sums = rng.standard_normal((BUCKETS, FASTTEXT_WIDTH)) * VECTOR_NOISE / np.sqrt(FASTTEXT_WIDTH)
    hits = np.ones((BUCKETS, 1))
    for word, vector in zip(words, vectors, strict=True):
        for bucket in _subword_buckets(word):
            sums[bucket] += vector
            hits[bucket] += 1
    return sums / hits


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
