"""The small world's ``pretrained/`` folder: untrained models, tokenizers and word vectors of its own words.

Every file has the name and format of the real one, so that whatever loads the real ones loads these.
"""

from __future__ import annotations

import json
import os
import pickle
import string
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmclvqa.clove import layout
from mmclvqa.clove.files import atomic_write, write_json
from mmclvqa.clove.mini.corpus import sentences, words
from mmclvqa.clove.mini.draws import named_generator
from mmclvqa.clove.mini.vocabulary import SYLLABLES, UNLISTED_WORDS
from mmclvqa.clove.mini.wordvectors import write_word_vectors

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

BERT_WIDTH = 64
BERT_LAYERS = 3
BERT_HEADS = 4
BERT_INITIALIZER_RANGE = 0.07
"""BERT's own 0.02 is made for 768 wide layers; at this width it would leave attention flat for long."""
GPT2_WIDTH = 128
GPT2_LAYERS = 4
GPT2_HEADS = 4
POSITIONS = 512
BPE_SIZE = 1500
END_OF_TEXT = "<|endoftext|>"
TIED = ("lm_head.weight",)
"""Weights that a model shares with its input embeddings and does not store."""


def write_pretrained(root: Path, seed: int, feature_dim: int) -> None:
    """Write BERT, GPT-2, fastText and fc7 below ``root``; ``seed`` and ``feature_dim`` set every byte."""
    lines = sentences(seed)
    write_bert(root / layout.BERT, seed)
    write_gpt2(root / layout.DISTILGPT2, lines, seed)
    plain = [line.replace("?", "").replace(",", "") for line in lines]
    write_word_vectors(root / layout.FASTTEXT, plain, words(), seed)
    write_fc7(root, seed, feature_dim)


def wordpieces() -> list[str]:
    """BERT's vocabulary in the order of ``vocab.txt``: sign words outside the answers come in syllables."""
    letters = string.ascii_lowercase + string.digits + "?,.[]"
    whole = [word for word in words() if word not in UNLISTED_WORDS]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += (
        [f"##{letter}" for letter in letters] + [*SYLLABLES] + [f"##{syllable}" for syllable in SYLLABLES]
    )
    return list(dict.fromkeys(pieces + whole))


def write_bert(folder: Path, seed: int) -> None:
    """A WordPiece tokenizer and a small BERT with random weights, as ``from_pretrained`` reads them."""
    from transformers import BertConfig, BertModel

    pieces = wordpieces()
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=BERT_WIDTH,
        num_hidden_layers=BERT_LAYERS,
        num_attention_heads=BERT_HEADS,
        intermediate_size=2 * BERT_WIDTH,
        initializer_range=BERT_INITIALIZER_RANGE,
        max_position_embeddings=POSITIONS,
    )
    _save_untrained(BertModel, config, folder, seed)
    with atomic_write(folder / "vocab.txt") as file:
        file.write("\n".join(pieces) + "\n")
    settings = {"do_lower_case": True, "model_max_length": POSITIONS, "tokenizer_class": "BertTokenizer"}
    write_json(folder / "tokenizer_config.json", settings)


def write_gpt2(folder: Path, lines: list[str], seed: int) -> None:
    """A byte-level BPE tokenizer trained on ``lines`` and a small GPT-2 with random weights."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = ByteLevelBPETokenizer()
    # A word begins an item or follows another one: it should be one token either way.
    corpus = lines + [form for word in words() for form in (word, f" {word}") * 2]
    tokenizer.train_from_iterator(
        corpus, vocab_size=BPE_SIZE, min_frequency=2, show_progress=False, special_tokens=[END_OF_TEXT]
    )
    vocabulary = json.loads(tokenizer.to_str())["model"]
    ends = vocabulary["vocab"][END_OF_TEXT]
    config = GPT2Config(
        vocab_size=len(vocabulary["vocab"]),
        n_embd=GPT2_WIDTH,
        n_layer=GPT2_LAYERS,
        n_head=GPT2_HEADS,
        n_positions=POSITIONS,
        bos_token_id=ends,
        eos_token_id=ends,
    )
    _save_untrained(GPT2LMHeadModel, config, folder, seed)
    write_json(folder / "vocab.json", vocabulary["vocab"], indent=None)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in vocabulary["merges"]]
    with atomic_write(folder / "merges.txt") as file:
        file.write("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = {"model_max_length": POSITIONS, "tokenizer_class": "GPT2Tokenizer"}
    settings |= {role: END_OF_TEXT for role in ("bos_token", "eos_token", "unk_token")}
    write_json(folder / "tokenizer_config.json", settings)


def write_fc7(root: Path, seed: int, width: int) -> None:
    """fc7's weight (width x width) and bias, float32: nearly the identity, so that features pass through."""
    noise = named_generator(seed, "fc7", width).standard_normal((width, width), dtype=np.float32)
    weight = np.eye(width, dtype=np.float32) + np.float32(0.1 / width) * noise
    for path, value in ((layout.FC7_WEIGHT, weight), (layout.FC7_BIAS, np.zeros(width, dtype=np.float32))):
        with atomic_write(root / path, "wb") as file:
            pickle.dump(value, file, protocol=4)


def _save_untrained(
    model_class: type[PreTrainedModel], config: PretrainedConfig, folder: Path, seed: int
) -> None:
    import torch
    from safetensors.torch import save

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    config.architectures = [model_class.__name__]
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name not in TIED}
    with atomic_write(folder / "model.safetensors", "wb") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with atomic_write(folder / "config.json") as file:
        file.write(config.to_json_string(use_diff=True))
