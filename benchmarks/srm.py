"""Measures the speed-up of SRM's batching and search, by default at the size of distilgpt2.

It compares, with the same random weights:

* training: SRM's updates (batches of similar lengths, both passes in one row, logits only where they are used) with
  plain updates (file order, one padded batch per pass, all logits), in tokens per second;
* generation: SRM's search (new prompts take the place of finished ones) with transformers' generate() on batches of
  32 in file order, in prompts per second: the scene graph with 5 beams, then question and answer. The model is
  modified to end its texts at the lengths of short scene graphs. Both sides must generate the same texts.

    python benchmarks/srm.py [--device cpu] [--size published] [--repeats 3] [--threads N] [--json FILE]

The exit code is 0 if the targets of 1.5 and 2 are reached.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.comparison import alternate, describe, parser  # noqa: E402
from mmclvqa.clove.files import write_json  # noqa: E402
from SRM.batches import TreeLayout, padded, plan  # noqa: E402
from SRM.generate import BEAMS  # noqa: E402
from SRM.model import SRMLoss  # noqa: E402
from SRM.rows import rows_for  # noqa: E402
from SRM.search import Search  # noqa: E402
from SRM.tokens import IGNORED, Example, Source, decoder_sequences, draw_example  # noqa: E402

TARGETS = {"training": 1.5, "generation": 2.0}
UNITS = {"training": "tokens/s", "generation": "prompts/s"}
EXAMPLES_PER_BATCH = 13
"""The batch size that follows from 20000 records and the published ``min_n_steps`` of 1500."""
PLAIN_PROMPTS = 32
LM_LAMBDA, TOKENS_WEIGHT = 0.25, 5.0


class Ids:
    """Ids of the special tokens behind ``words`` ordinary tokens, as in distilgpt2 with SRM's tokens added."""

    def __init__(self, words: int) -> None:
        self.words = self.eos = words
        self.pad, self.sep, self.question, self.answer, self.ocr, self.start = (words + i for i in (1, 3, 4, 5, 6, 7))

    def weighted_ids(self) -> list[int]:
        """Return the ids whose loss has a higher weight."""
        return [self.answer, self.question, self.ocr, self.sep]


SIZES = {"published": (6, 768, 50256), "small": (3, 256, 8000), "tiny": (1, 32, 400)}
"""Sizes of a GPT-2: layers, width, and tokens besides the special ones."""


def build(size: str) -> tuple[GPT2LMHeadModel, Ids]:
    """Return a GPT-2 with random weights in one of :data:`SIZES`, and the ids of its special tokens."""
    torch.manual_seed(0)
    layers, width, words = SIZES[size]
    ids = Ids(words)
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=max(1, width // 64), vocab_size=ids.start + 3,
        bos_token_id=ids.eos, eos_token_id=ids.eos, pad_token_id=ids.pad,
    )  # fmt: skip
    return GPT2LMHeadModel(config), ids


def clove_sources(ids: Ids, count: int, seed: int = 0) -> list[Source]:
    """Return records of CLOVE's shape: graphs with a median of 15 items and a long tail, 1 to 3 of them related."""
    rng = np.random.default_rng(seed)

    def words(least: int, most: int) -> list[int]:
        return rng.integers(0, ids.words, rng.integers(least, most + 1)).tolist()

    sources = []
    for _ in range(count):
        items = [words(2, 6) for _ in range(int(np.clip(15 * np.exp(rng.normal(0, 0.8)), 1, 80)))]
        related = int(rng.integers(1, 4))
        parts = items[:related], items[related:], words(6, 12), [words(1, 2)]
        sources.append(Source(ids.start, ids.question, *parts, [10]))
    return sources


class Training:
    """Updates of SRM (``ours``) and plain ones on the same examples, with autocast to ``dtype`` unless it is None."""

    def __init__(self, model: GPT2LMHeadModel, ids: Ids, records: int, dtype: torch.dtype | None = None) -> None:
        rng = np.random.default_rng(1)
        self.model, self.ids, self.dtype, self.device = model, ids, dtype, model.device
        self.layout = TreeLayout(ids)
        self.drawn = [draw_example(source, rng, 30, 1024, ids.sep) for source in clove_sources(ids, records)]
        lengths = [self.layout.length(one) for one in self.drawn]
        self.batches = {
            "plain": plan(lengths, EXAMPLES_PER_BATCH, 10**9, None),
            "ours": plan(lengths, EXAMPLES_PER_BATCH, 16384, rng),
        }
        self.loss = SRMLoss(model, ids.weighted_ids(), TOKENS_WEIGHT)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def sums(self, side: str, chosen: list[Example]) -> Tensor:
        """Return the sums of :class:`SRM.model.SRMLoss` over a batch."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            if side == "ours":
                return self.loss({name: value.to(self.device) for name, value in self.layout.batch(chosen).items()})
            return plain_sums(self.model, [decoder_sequences(one, self.ids) for one in chosen], self.ids)

    def update(self, side: str, batch: list[int]) -> None:
        """Train on a batch, with a learning rate of 0."""
        sums = self.sums(side, [self.drawn[i] for i in batch])
        (sums[0] / sums[1] + LM_LAMBDA * sums[2] / sums[3]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tokens(self, batches: list[list[int]]) -> int:
        """Return the number of tokens of both passes of every example."""
        sequences = [decoder_sequences(self.drawn[i], self.ids) for batch in batches for i in batch]
        return sum(len(one["cqa"]) + len(one["gen_X"]) for one in sequences)

    @torch.no_grad()
    def few_sums(self, side: str) -> Tensor:
        """Return the sums over four examples without dropout."""
        self.model.eval()
        return self.sums(side, self.drawn[:4])


def plain_sums(model: GPT2LMHeadModel, sequences: list[dict[str, list[int]]], ids: Ids) -> Tensor:
    """Return the sums of :class:`SRM.model.SRMLoss`, computed with two padded batches and all logits."""
    device = model.device
    weights_of = torch.ones(model.config.vocab_size, device=device)
    weights_of[ids.weighted_ids()] = TOKENS_WEIGHT
    sums = []
    for fed, wanted in (("cqa", "Y"), ("gen_X", "gen_Y")):
        rows = [one[fed] for one in sequences]
        input_ids = padded(rows, ids.pad).to(device)
        targets = padded([one[wanted] for one in sequences], IGNORED).to(device)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).to(device)
        scores = model(input_ids, attention_mask=mask.long()).logits
        loss = F.cross_entropy(
            scores.float().flatten(0, 1), targets.flatten(), weights_of, ignore_index=IGNORED, reduction="sum"
        )
        sums += [loss, (weights_of[targets.clamp(min=0)] * (targets != IGNORED)).sum()]
    return torch.stack(sums)


def measure_training(training: Training, batches: int, repeats: int) -> dict[str, Any]:
    """Return tokens per second of both sides, their timings, and the relative difference of their losses."""
    ours, plain = (training.few_sums(side) for side in ("ours", "plain"))
    training.model.train()
    work = {side: planned[:batches] for side, planned in training.batches.items()}

    def run(side: str) -> None:
        for batch in work[side]:
            training.update(side, batch)

    timings = alternate({side: partial(run, side) for side in work}, repeats, training.device)
    counts = {side: training.tokens(planned) for side, planned in work.items()}
    return compared(timings, counts) | {"difference": float((ours / plain - 1).abs().max())}


def compared(timings: dict[str, dict[str, Any]], counts: dict[str, int]) -> dict[str, Any]:
    """Return the rate of each side, their ratio, and the timings."""
    rates = {side: counts[side] / timing["seconds"] for side, timing in timings.items()}
    return rates | {"ratio": rates["ours"] / rates["plain"], "timings": timings}


def let_it_end(model: GPT2LMHeadModel, ids: Ids) -> None:
    """Modify the weights so that texts end: the logit of eos grows with the position and depends on the last token.

    Like trained weights, and unlike random ones, they end scene graphs at many different lengths.
    """
    generator = torch.Generator().manual_seed(0)
    by_place, by_word = F.normalize(torch.randn(2, model.config.n_embd, generator=generator))
    words, places = model.transformer.wte.weight.data, model.transformer.wpe.weight.data
    words += 0.2 * (2 * torch.rand(len(words), 1, generator=generator) - 1) * by_word
    places += 0.02 * (torch.arange(len(places)) - 10).clamp(min=0)[:, None] * by_place
    words[ids.eos] = 0.7 * (by_place + by_word)


class Generation:
    """Generation by SRM's search (``ours``) and by transformers' ``generate()`` in file order.

    Args:
        model: on its device, in the precision of the computation; see :func:`let_it_end`.
        ids: its special tokens.
        prompts: number of prompts of ``ours``; the plain side gets the first ``plain_prompts`` of them.
        plain_prompts: see ``prompts``.
        longest: maximum number of tokens of a text.
        capacity: number of rows of the search.
    """

    def __init__(
        self, model: GPT2LMHeadModel, ids: Ids, prompts: int, plain_prompts: int, longest: int, capacity: int
    ) -> None:
        rng = np.random.default_rng(2)
        starts = [[ids.start, *rng.integers(0, ids.words, rng.integers(2, 12)).tolist()] for _ in range(prompts)]
        self.model, self.ids, self.longest = model.eval(), ids, longest
        self.counts = {"plain": plain_prompts, "ours": prompts}
        graphs, questions = ([[*start, end] for start in starts] for end in (ids.sep, ids.question))
        self.passes, self.capacity = [(BEAMS, graphs), (1, questions)], capacity

    def texts(self, side: str, count: int | None = None) -> list[list[int]]:
        """Generate for the first prompts: all scene graphs, then all questions with answers."""
        count = count or self.counts[side]
        generate = self._search if side == "ours" else self._library
        return [text for beams, prompts in self.passes for text in generate(prompts[:count], beams)]

    def _search(self, prompts: list[list[int]], beams: int) -> list[list[int]]:
        rows = rows_for(self.model, self.capacity, self.longest)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        eos, pad = self.ids.eos, self.ids.pad
        search = Search(eos, pad, self.longest, beams, unique_pairs=beams > 1, length_rule="generated")
        generated = dict(zip(order, search.run(rows, [prompts[i] for i in order]), strict=True))
        return [generated[i] for i in range(len(prompts))]

    def _library(self, prompts: list[list[int]], beams: int) -> list[list[int]]:
        """Generate from padded batches of prompts with transformers."""
        ids, texts = self.ids, []
        options = {"num_beams": beams, "early_stopping": True, "no_repeat_ngram_size": 2} if beams > 1 else {}
        options |= {"do_sample": False, "max_length": self.longest}
        for first in range(0, len(prompts), PLAIN_PROMPTS):
            part = prompts[first : first + PLAIN_PROMPTS]
            width = max(map(len, part))
            rows = [[ids.pad] * (width - len(prompt)) + prompt for prompt in part]
            input_ids = torch.tensor(rows, device=self.model.device)
            generated = self.model.generate(input_ids, attention_mask=(input_ids != ids.pad).long(), **options)
            for text in generated[:, width:].tolist():
                texts.append(text[: text.index(ids.eos) + 1] if ids.eos in text else text)
        return texts


def differing(texts: list[list[int]], others: list[list[int]]) -> float:
    """Return the fraction of texts that differ."""
    return sum(a != b for a, b in zip(texts, others, strict=True)) / len(texts)


def measure_generation(generation: Generation, repeats: int) -> dict[str, Any]:
    """Return prompts per second of both sides, their timings, and the fraction of texts that differ."""
    common = generation.counts["plain"]
    ours, plain = (generation.texts(side, common) for side in ("ours", "plain"))
    graphs = [len(text) for text in ours[:common]]
    sides = {side: partial(generation.texts, side) for side in generation.counts}
    timings = alternate(sides, repeats, generation.model.device)
    return compared(timings, generation.counts) | {
        "difference": differing(ours, plain),
        "graph_tokens": [min(graphs), sum(graphs) / common, max(graphs)],
    }


def measure(
    size: str, device: torch.device, repeats: int, batches: int, prompts: int, longest: int
) -> dict[str, dict[str, Any]]:
    """Measure training and generation; see :func:`measure_training` and :func:`measure_generation`."""
    logging.set_verbosity_error()
    model, ids = build(size)
    measured = {"training": measure_training(Training(model.to(device), ids, 1300), batches, repeats)}
    let_it_end(model.cpu(), ids)
    generation = Generation(model.to(device), ids, prompts, prompts, longest, PLAIN_PROMPTS * BEAMS)
    return measured | {"generation": measure_generation(generation, repeats)}


def main() -> int:
    options = parser(__doc__, SIZES, "all")
    options.add_argument("--batches", type=int, default=3, help="number of training batches")
    options.add_argument("--prompts", type=int, default=64)
    options.add_argument("--longest", type=int, default=100, help="maximum number of tokens of a text")
    args = options.parse_args()
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    device = torch.device(args.device)
    measured = measure(args.size, device, args.repeats, args.batches, args.prompts, args.longest)

    shortest, mean, longest = measured["generation"]["graph_tokens"]
    print(f"{describe(device)}; generated graphs: {shortest} to {longest} tokens, {mean:.0f} on average")
    print(f"{'':12} {'plain':>8} {'SRM':>8} {'ratio':>6} {'target':>6} {'difference':>10}")
    for name, rates in measured.items():
        print(
            f"{name:12} {rates['plain']:8.2f} {rates['ours']:8.2f} {rates['ratio']:5.2f}x {TARGETS[name]:5.1f}x "
            f"{rates['difference']:10.1e}  {UNITS[name]}"
        )
    if args.json:
        write_json(args.json, {"device": describe(device), **measured})
    return 0 if all(rates["ratio"] >= TARGETS[name] for name, rates in measured.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
