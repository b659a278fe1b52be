"""Compares SRM's beam search and optimizer with results of the published code.

    python tests/parity/check_srm_search.py FILE

FILE has the form of ``tests/fixtures/srm_search_and_optimizer.json``: a small GPT-2 whose weights are derived from
their names, prompts with the tokens that beam search returns with both length rules, and steps of the optimizer. Token
sequences must be equal, for single prompts and for batches; parameters must agree to 1e-7. Differences are printed;
the exit code is 0 if there are none.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from SRM.optimizer import FormerAdamW  # noqa: E402
from SRM.rows import CachedRows  # noqa: E402
from SRM.search import Search  # noqa: E402

RULES = {"published": "published", "generated_length": "generated"}
"""The fixture's name of each length rule, and this project's."""
PROMPTS_AT_A_TIME = (1, 3, 64)
TOLERANCE = 1e-7


def small_model(search: Mapping[str, Any], direction: Mapping[str, Any]) -> Any:
    """Build a GPT-2 in float32 without dropout, whose weights are drawn with seeds derived from their names."""
    from transformers import GPT2Config, GPT2LMHeadModel

    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(**search["config"], **dropouts, bos_token_id=search["eos"], eos_token_id=search["eos"])
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn.bias" in name:
                parameter.zero_()
                continue
            drawn = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(parameter.shape)
            parameter.copy_(torch.from_numpy((drawn * 0.3).astype(np.float32)))
            if ".ln_" in name and name.endswith("weight"):
                parameter += 1
        drawn = np.random.RandomState(direction["seed"]).standard_normal(config.n_embd).astype(np.float32)
        towards_eos = torch.from_numpy(drawn / np.linalg.norm(drawn))
        position = torch.arange(config.n_positions, dtype=torch.float32)[:, None]
        model.transformer.wpe.weight += position * direction["wpe_step"] * towards_eos
        model.transformer.wte.weight[search["eos"]] = direction["wte_eos"] * towards_eos
    return model


def check_search(search: Mapping[str, Any], direction: Mapping[str, Any]) -> Iterator[str]:
    """Yield every case whose tokens differ."""
    if search["no_repeat_ngram_size"] != 2:
        yield f"no_repeat_ngram_size is {search['no_repeat_ngram_size']}, but SRM's search knows 2 only"
        return
    model, beams, longest = small_model(search, direction), search["num_beams"], search["max_length"]
    order = sorted(range(len(search["cases"])), key=lambda index: len(search["cases"][index]["prompt"]))
    cases = [search["cases"][index] for index in order]
    for recorded, rule in RULES.items():
        for most in PROMPTS_AT_A_TIME:
            rows = CachedRows(model, most * beams, longest)
            found = Search(search["eos"], search["pad"], longest, beams, True, rule).run(
                rows, [case["prompt"] for case in cases]
            )
            for index, case, tokens in zip(order, cases, found, strict=True):
                if tokens != case[recorded]:
                    yield f"case {index}, {rule} rule, {most} prompts at a time: {tokens} instead of {case[recorded]}"


def check_optimizer(fixture: Mapping[str, Any]) -> Iterator[str]:
    """Yield every parameter that differs after a recorded step."""
    parameters = [torch.nn.Parameter(torch.tensor(values, dtype=torch.float32)) for values in fixture["start"]]
    groups = [
        {"params": [parameter], "weight_decay": decay}
        for parameter, decay in zip(parameters, fixture["weight_decay"], strict=True)
    ]
    optimizer = FormerAdamW(groups, fixture["lr"], tuple(fixture["betas"]), fixture["eps"], fused=True)
    recorded = {int(found[1]): found[0] for key in fixture if (found := re.fullmatch(r"after_step_(\d+)", key))}
    if not recorded or max(recorded) > len(fixture["gradients"]):
        yield f"the steps {sorted(recorded)} do not belong to {len(fixture['gradients'])} gradients"
    for step, gradients in enumerate(fixture["gradients"], start=1):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        if step not in recorded:
            continue
        for number, (parameter, values) in enumerate(zip(parameters, fixture[recorded[step]], strict=True)):
            difference = float((parameter.detach().double() - torch.tensor(values).double()).abs().max())
            if not difference <= TOLERANCE:
                yield f"optimizer, parameter {number} after step {step}: differs by {difference:.3g}"


def check(path: Path) -> Iterator[str]:
    """Yield every difference from the fixture, one line each."""
    fixture = json.loads(path.read_text(encoding="utf-8"))
    yield from check_search(fixture["beam_search"], fixture["eos_direction"])
    yield from check_optimizer(fixture["adamw"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    path = parser.parse_args().file
    problems = list(check(path))
    print("\n".join(problems) or f"{path}: all beam searches and optimizer steps are equal")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
