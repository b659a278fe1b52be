"""Measures the speed-up of SRM's batching and search at the size of distilgpt2 (6 layers, width 768, 50266 tokens).

It compares, with the same random weights:

* training: SRM's updates (batches of similar lengths, both passes in one row, logits only where they are used) with
  plain updates (file order, one padded batch per pass, all logits), in tokens per second;
* generation: SRM's search (new prompts take the place of finished ones) with transformers' generate() on batches of
  32 in file order, in prompts per second: the scene graph with 5 beams, then question and answer. The model is
  modified to end its texts at the lengths of short scene graphs. Both sides must generate the same texts.

    python benchmarks/srm.py [--device cpu] [--threads N] [--json FILE]

The exit code is 0 if the targets of 1.5 and 2 are reached.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmclvqa.clove.files import write_json  # noqa: E402
from SRM.batches import TreeLayout, padded, plan  # noqa: E402
from SRM.generate import BEAMS  # noqa: E402
from SRM.model import SRMLoss  # noqa: E402
from SRM.rows import CachedRows, onednn_copy  # noqa: E402
from SRM.search import Search  # noqa: E402
from SRM.tokens import IGNORED, Example, Source, decoder_sequences, draw  # noqa: E402

WORDS = 50256
TARGETS = {"training": 1.5, "generation": 2.0}
UNITS = {"training": "tokens/s", "generation": "prompts/s"}
EXAMPLES_PER_BATCH = 13
"""The batch size that follows from 20000 records and the published ``min_n_steps`` of 1500."""
PLAIN_PROMPTS = 32
LM_LAMBDA, TOKENS_WEIGHT = 0.25, 5.0


@dataclass(frozen=True)
class Ids:
    """Ids of the special tokens, as in distilgpt2 with SRM's tokens added."""

    eos: int = 50256
    pad: int = 50257
    sep: int = 50259
    question: int = 50260
    answer: int = 50261
    ocr: int = 50262
    start: int = 50263

    def weighted_ids(self) -> list[int]:
        """Return the ids whose loss has a higher weight."""
        return [self.answer, self.question, self.ocr, self.sep]


IDS = Ids()


def clove_sources(count: int, seed: int = 0) -> list[Source]:
    """Return records of CLOVE's shape: graphs with a median of 15 items and a long tail, 1 to 3 of them related."""
    rng = np.random.default_rng(seed)

    def words(least: int, most: int) -> list[int]:
        return rng.integers(0, WORDS, rng.integers(least, most + 1)).tolist()

    sources = []
    for _ in range(count):
        items = [words(2, 6) for _ in range(int(np.clip(15 * np.exp(rng.normal(0, 0.8)), 1, 80)))]
        related = int(rng.integers(1, 4))
        sources.append(
            Source(
                IDS.start, IDS.question, items[:related], items[related:], words(6, 12), [words(1, 2)], [10]
            )
        )
    return sources


def plain_sums(model: GPT2LMHeadModel, sequences: list[dict[str, list[int]]], device: torch.device) -> Tensor:
    """Return the sums of :class:`SRM.model.SRMLoss`, computed with two padded batches and all logits."""
    weights_of = torch.ones(model.config.vocab_size, device=device)
    weights_of[IDS.weighted_ids()] = TOKENS_WEIGHT
    sums = []
    for fed, wanted in (("cqa", "Y"), ("gen_X", "gen_Y")):
        rows = [one[fed] for one in sequences]
        input_ids = padded(rows, IDS.pad).to(device)
        targets = padded([one[wanted] for one in sequences], IGNORED).to(device)
        mask = (torch.arange(input_ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).to(
            device
        )
        scores = model(input_ids, attention_mask=mask.long()).logits
        loss = F.cross_entropy(
            scores.flatten(0, 1), targets.flatten(), weights_of, ignore_index=IGNORED, reduction="sum"
        )
        sums += [loss, (weights_of[targets.clamp(min=0)] * (targets != IGNORED)).sum()]
    return torch.stack(sums)


def measure_training(model: GPT2LMHeadModel, device: torch.device, batches: int) -> dict[str, float]:
    """Return tokens per second of both sides, and the relative difference of their losses."""
    rng = np.random.default_rng(1)
    drawn = [draw(source, rng, 30, 1024, IDS.sep) for source in clove_sources(1300)]
    layout = TreeLayout(IDS)
    lengths = [layout.length(one) for one in drawn]
    planned = plan(lengths, EXAMPLES_PER_BATCH, 16384, rng)[:batches]
    in_file_order = plan(lengths, EXAMPLES_PER_BATCH, 10**9, None)[:batches]
    loss = SRMLoss(model, IDS.weighted_ids(), TOKENS_WEIGHT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def ours(chosen: list[Example]) -> Tensor:
        return loss({name: value.to(device) for name, value in layout.batch(chosen).items()})

    def plain(chosen: list[Example]) -> Tensor:
        return plain_sums(model, [decoder_sequences(one, IDS) for one in chosen], device)

    def tokens(indices: list[list[int]]) -> int:
        chosen = [decoder_sequences(drawn[i], IDS) for batch in indices for i in batch]
        return sum(len(one["cqa"]) + len(one["gen_X"]) for one in chosen)

    def update(side: Callable[[list[Example]], Tensor], batch: list[int]) -> None:
        sums = side([drawn[i] for i in batch])
        (sums[0] / sums[1] + LM_LAMBDA * sums[2] / sums[3]).backward()
        optimizer.step()
        optimizer.zero_grad()

    model.eval()
    with torch.no_grad():
        few = [drawn[i] for i in in_file_order[0][:4]]
        difference = float((ours(few) / plain(few) - 1).abs().max())
    model.train()
    rates = {}
    for name, side, work in (("plain", plain, in_file_order), ("ours", ours, planned)):
        update(side, work[0][:2])
        begun = time.perf_counter()
        for batch in work:
            update(side, batch)
        _wait(device)
        rates[name] = tokens(work) / (time.perf_counter() - begun)
    return rates | {"difference": difference}


def let_it_end(model: GPT2LMHeadModel) -> None:
    """Modify the weights so that texts end: the logit of eos grows with the position and depends on the last token.

    Like trained weights, and unlike random ones, they end scene graphs at many different lengths.
    """
    generator = torch.Generator().manual_seed(0)
    by_place, by_word = F.normalize(torch.randn(2, model.config.n_embd, generator=generator))
    words, places = model.transformer.wte.weight.data, model.transformer.wpe.weight.data
    words += 0.2 * (2 * torch.rand(len(words), 1, generator=generator) - 1) * by_word
    places += 0.02 * (torch.arange(len(places)) - 10).clamp(min=0)[:, None] * by_place
    words[IDS.eos] = 0.7 * (by_place + by_word)


def measure_generation(
    model: GPT2LMHeadModel, device: torch.device, count: int, longest: int
) -> dict[str, float]:
    """Return prompts per second of both sides, and the fraction of texts that differ."""
    rng = np.random.default_rng(2)
    starts = [[IDS.start, *rng.integers(0, WORDS, rng.integers(2, 12)).tolist()] for _ in range(count)]
    passes = [
        (BEAMS, [[*start, IDS.sep] for start in starts]),
        (1, [[*start, IDS.question] for start in starts]),
    ]
    model.eval()

    def ours() -> list[list[int]]:
        quick = onednn_copy(model) if device.type == "cpu" else model
        rows = CachedRows(quick, PLAIN_PROMPTS * BEAMS, longest, torch.float32)
        order = sorted(range(count), key=lambda i: len(starts[i]))
        texts = []
        for beams, prompts in passes:
            search = Search(IDS.eos, IDS.pad, longest, beams, unique_pairs=beams > 1, length_rule="generated")
            generated = dict(zip(order, search.run(rows, [prompts[i] for i in order]), strict=True))
            texts += [generated[i] for i in range(count)]
        return texts

    def plain() -> list[list[int]]:
        texts = []
        for beams, prompts in passes:
            for first in range(0, count, PLAIN_PROMPTS):
                texts += library(model, prompts[first : first + PLAIN_PROMPTS], beams, longest, device)
        return texts

    results, rates = [], {}
    for name, side in (("plain", plain), ("ours", ours)):
        begun = time.perf_counter()
        results.append(side())
        _wait(device)
        rates[name] = count / (time.perf_counter() - begun)
    graphs = [len(text) for text in results[1][:count]]
    print(f"generated graphs: {min(graphs)} to {max(graphs)} tokens, {sum(graphs) / count:.0f} on average")
    return rates | {"difference": sum(a != b for a, b in zip(*results, strict=True)) / (2 * count)}


def library(
    model: GPT2LMHeadModel, prompts: list[list[int]], beams: int, longest: int, device: torch.device
) -> list[list[int]]:
    """Return the texts that transformers generates from one padded batch of prompts."""
    width = max(map(len, prompts))
    input_ids = torch.tensor(
        [[IDS.pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device
    )
    beam = {"num_beams": beams, "early_stopping": True, "no_repeat_ngram_size": 2} if beams > 1 else {}
    made = model.generate(
        input_ids, attention_mask=(input_ids != IDS.pad).long(), do_sample=False, max_length=longest, **beam
    )
    texts = made[:, width:].tolist()
    return [text[: text.index(IDS.eos) + 1] if IDS.eos in text else text for text in texts]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--batches", type=int, default=3, help="number of training batches")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--longest", type=int, default=100, help="maximum number of tokens of a text")
    parser.add_argument("--json", type=Path, help="also write the measurements to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    logging.set_verbosity_error()
    torch.manual_seed(0)
    device = torch.device(args.device)
    model = GPT2LMHeadModel(GPT2Config(n_layer=6, vocab_size=IDS.start + 3))
    model.generation_config.pad_token_id = IDS.pad
    training = measure_training(model.to(device), device, args.batches)
    let_it_end(model.cpu())
    generation = measure_generation(model.to(device), device, args.prompts, args.longest)

    reached = True
    print(f"{'':12} {'plain':>8} {'SRM':>8} {'ratio':>6} {'target':>6} {'difference':>10}")
    figures = {"training": training, "generation": generation}
    for name, rates in figures.items():
        rates["ratio"] = rates["ours"] / rates["plain"]
        reached &= rates["ratio"] >= TARGETS[name]
        print(
            f"{name:12} {rates['plain']:8.2f} {rates['ours']:8.2f} {rates['ratio']:5.2f}x {TARGETS[name]:5.1f}x "
            f"{rates['difference']:10.1e}  {UNITS[name]}"
        )
    if args.json:
        write_json(args.json, {"device": str(device), "threads": torch.get_num_threads(), **figures})
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
