"""Measures the speed-up of UniVQA's prefix cache and padding-free layers on a batch of CLOVE's shape.

The reference is the oracle of the tests, a plain implementation of the published model. Greedy decoding with 12 full
passes is compared with a prefix that is encoded once, and a training step that includes padding with one on real tokens
only. Outputs of both sides are compared without dropout.

    python benchmarks/univqa.py [--device cpu] [--dtype fp32] [--size published] [--batch-size 8] [--repeats 3]
                                [--threads N] [--json FILE]
"""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.comparison import alternate, describe, parser  # noqa: E402
from mmclvqa.clove.files import write_json  # noqa: E402
from mmclvqa.models import UniVQAInputs, UniVQANetwork, build_univqa  # noqa: E402
from tests.models import oracle  # noqa: E402

ANSWERS, SLOTS, STEPS, VOCABULARY = 6182, 50, 12, 30522
QUESTION, GRAPH, KNOWLEDGE, OBJECTS = 20, 480, 20, 100
RESULT_TOLERANCE = 1e-3
TARGETS = {"greedy decoding": 8.0, "training step": 1.5}
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
HOST_FIELDS = ("text_len", "scene_graph_len", "knowledge_len", "object_num", "ocr_num", "ocr_slots")
Answer = Callable[[UniVQANetwork, UniVQAInputs], dict[str, Tensor]]
SIDES: dict[str, Answer] = {"plain": oracle.scores, "ours": UniVQANetwork.answer}


def _layers(layers: int, width: int) -> dict[str, int]:
    widths = {"hidden_size": width, "num_attention_heads": max(1, width // 64), "intermediate_size": 4 * width}
    return {"num_hidden_layers": layers, **widths}


SIZES: dict[str, dict[str, Any]] = {
    "published": {},
    "small": {"text_bert": _layers(2, 256), "mmt": _layers(2, 256)},
    "tiny": {"text_bert": _layers(1, 32), "mmt": _layers(1, 32), "obj": {"mmt_in_dim": 64}},
}
"""Configurations of the network; the inputs have CLOVE's shape in all of them."""


def build(size: str) -> UniVQANetwork:
    """Return a network with random weights in one of :data:`SIZES`."""
    torch.manual_seed(0)
    return build_univqa(SIZES[size], ANSWERS)


def clove_batch(batch: int, seed: int = 0) -> tuple[UniVQAInputs, Tensor]:
    """Return a batch of CLOVE's shape with realistic lengths, and its loss mask (B×T).

    Questions have 10±3 tokens, scene graphs a median of 150 tokens with a long tail, knowledge is mostly empty
    ([CLS][SEP]); there are 36 to 100 objects, OCR tokens in a fifth of the records, and answers of one to three words.
    The lengths are quantiles of these distributions, so that even a small batch includes the tail.
    """
    rng = np.random.default_rng(seed)
    quantiles = [(i + 0.5) / batch for i in range(batch)]

    def floats(*shape: int) -> Tensor:
        return torch.from_numpy(rng.random((batch, *shape), dtype=np.float32))

    def tokens(width: int) -> Tensor:
        return torch.from_numpy(rng.integers(1, VOCABULARY, (batch, width)))

    def lengths(of_quantile: Callable[[float], float], low: int, high: int) -> Tensor:
        values = np.clip(np.round([of_quantile(q) for q in quantiles]), low, high).astype(np.int64)
        return torch.from_numpy(rng.permutation(values))

    normal = statistics.NormalDist().inv_cdf
    words = lengths(lambda q: 1 + 2 * q, 1, 3)
    loss_mask = (torch.arange(STEPS) <= words[:, None]).float()
    previous = torch.from_numpy(rng.integers(4, ANSWERS, (batch, STEPS)))
    previous[:, 0] = 1
    targets = torch.zeros(batch, STEPS, ANSWERS + SLOTS)
    targets.scatter_(2, torch.from_numpy(rng.integers(4, ANSWERS, (batch, STEPS, 1))), 1.0)
    inputs = UniVQAInputs(
        tokens(QUESTION), lengths(lambda q: 10 + 3 * normal(q), 4, QUESTION),
        tokens(GRAPH), lengths(lambda q: 150 * math.exp(0.7 * normal(q)), 3, GRAPH),
        tokens(KNOWLEDGE), lengths(lambda q: 2 if q < 0.85 else 9, 2, KNOWLEDGE),
        floats(OBJECTS, 2048), floats(OBJECTS, 4), lengths(lambda q: 36 + 64 * q, 36, OBJECTS),
        floats(SLOTS, 300), floats(SLOTS, 604), floats(OBJECTS, 2048), floats(SLOTS, 4),
        lengths(lambda q: SLOTS * (q - 0.8) / 0.2, 0, SLOTS),
        previous, targets,
    )  # fmt: skip
    inputs.ocr_slots = torch.arange(SLOTS) < inputs.ocr_num[:, None]
    return inputs, loss_mask


def on_device(inputs: UniVQAInputs, device: torch.device, lengths_on_host: bool = False) -> UniVQAInputs:
    """Move a batch to a device; its lengths may stay in host memory."""
    kept = HOST_FIELDS if lengths_on_host else ()
    return UniVQAInputs(**{n: value if n in kept else value.to(device) for n, value in vars(inputs).items()})


def loss_of(scores: Tensor, targets: Tensor, loss_mask: Tensor) -> Tensor:
    """Return M4C's decoding loss: binary cross-entropy, masked and averaged over the decoding steps that are used."""
    losses = F.binary_cross_entropy_with_logits(scores.float(), targets, reduction="none") * loss_mask[..., None]
    return losses.sum() / loss_mask.sum().clamp(min=1)


@contextlib.contextmanager
def without_dropout(net: nn.Module) -> Iterator[None]:
    """Disable dropout in training mode, so that two passes can be compared."""
    parts = [(part, "p") for part in net.modules() if isinstance(part, nn.Dropout)]
    parts += [(part, "dropout") for part in net.modules() if isinstance(getattr(part, "dropout", None), float)]
    rates = [getattr(part, name) for part, name in parts]
    for part, name in parts:
        setattr(part, name, 0.0)
    try:
        yield
    finally:
        for (part, name), rate in zip(parts, rates, strict=True):
            setattr(part, name, rate)


def decode(answer: Answer, net: UniVQANetwork, inputs: UniVQAInputs, dtype: torch.dtype | None) -> Tensor:
    """Return the scores of greedy decoding, computed in an autocast type; the network is in evaluation mode."""
    with torch.no_grad(), torch.autocast(inputs.text.device.type, dtype, enabled=dtype is not None):
        return answer(net, inputs)["scores"]


def gradient_step(
    answer: Answer, net: UniVQANetwork, inputs: UniVQAInputs, loss_mask: Tensor, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a batch and return its scores and loss; the network is in training mode."""
    net.zero_grad(set_to_none=True)
    with torch.autocast(inputs.text.device.type, dtype, enabled=dtype is not None):
        scores = answer(net, inputs)["scores"]
    loss = loss_of(scores, inputs.targets, loss_mask)
    loss.backward()
    return scores.detach(), loss.detach()


def measure(
    net: UniVQANetwork, inputs: UniVQAInputs, loss_mask: Tensor, dtype: torch.dtype | None, repeats: int
) -> list[dict[str, Any]]:
    """Return one row per comparison: seconds of the reference and of UniVQA, ratio, largest difference of outputs."""

    def decoded(answer: Answer) -> Tensor:
        return decode(answer, net, inputs, dtype)

    def stepped(answer: Answer) -> Tensor:
        return gradient_step(answer, net, inputs, loss_mask, dtype)[0]

    rows = []
    for what, run in (("greedy decoding", decoded), ("training step", stepped)):
        net.train(run is stepped)
        with without_dropout(net):
            reference_scores, scores = (run(SIDES[side]) for side in ("plain", "ours"))
        timings = alternate({name: partial(run, side) for name, side in SIDES.items()}, repeats, loss_mask.device)
        real = reference_scores > -9000
        plain, ours = timings["plain"]["seconds"], timings["ours"]["seconds"]
        row = {"what": what, "published_seconds": plain, "seconds": ours, "ratio": plain / ours}
        row["target"] = TARGETS[what]
        row["max_difference"] = (reference_scores - scores)[real].abs().max().item()
        row["same_argmax"] = bool((reference_scores.argmax(-1) == scores.argmax(-1)).all())
        rows.append(row)
    return rows


def main() -> int:
    options = parser(__doc__, SIZES, "torch's")
    options.add_argument("--dtype", choices=DTYPES, default="fp32", help="autocast type")
    options.add_argument("--batch-size", type=int, default=8)
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    net = build(args.size).to(device)
    inputs, loss_mask = clove_batch(args.batch_size)
    rows = measure(net, on_device(inputs, device), loss_mask.to(device), DTYPES[args.dtype], args.repeats)

    where = describe(device)
    print(f"batch {args.batch_size}, {args.dtype}, {where}")
    print(f"{'':16} {'reference':>12} {'UniVQA':>9} {'ratio':>7} {'target':>7} {'difference':>11}")
    for row in rows:
        print(
            f"{row['what']:16} {row['published_seconds']:10.2f} s {row['seconds']:7.3f} s {row['ratio']:6.1f}× "
            f"{row['target']:6.1f}× {row['max_difference']:11.1e}"
        )
    if args.json:
        write_json(args.json, {"batch_size": args.batch_size, "dtype": args.dtype, "device": where, "rows": rows})
    exact = args.dtype != "fp32" or all(row["max_difference"] <= RESULT_TOLERANCE for row in rows)
    return 0 if exact and all(row["ratio"] >= row["target"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
