"""Compares SRM with sequences and records of the published code.

    python tests/parity/check_srm.py DIR

DIR has ``srm.json`` and the tokenizer ``tiny_gpt2/``. Id sequences, acceptance and finished records must be equal. If
an example is random (its items are drawn), the numbers of items and tokens must be equal, and so must the multisets of
items if all items are used; otherwise both sides must be draws from the same items.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from SRM.records import Generation, build_replay_record, refusal  # noqa: E402
from SRM.tokens import IGNORED, SEP, Example, Source, Tokens, decoder_sequences, draw_example, read_sources  # noqa: E402

N_SG_SEQ = 30
N_POSITIONS = 1024
SEQUENCES = ("context", "cqa", "Y", "gen_X", "gen_Y")
RECORD = "record_without_question_id_and_with_sorted_pred_scene_graph_seq"
NAMES = {
    "question_token": "[que]",
    "ans_token": "[ans]",
    "ocr_token": "[OCR]",
    "pad_token": "[pad]",
    "unk_token": "[unk]",
    "eos_token": "<|endoftext|>",
    "sep_token": "[SEP]",
}


def check(folder: Path) -> Iterator[str]:
    """Yield every difference from the fixture, one line each."""
    from transformers import GPT2Tokenizer

    fixture = json.loads((folder / "srm.json").read_text(encoding="utf-8"))
    tokens = Tokens(GPT2Tokenizer.from_pretrained(folder / "tiny_gpt2"))
    special = fixture["special_tokens"]
    starts = {
        name: token for name, token in special.items() if name not in NAMES and not name.startswith("que_")
    }
    tokens.add(*starts.values())
    for name, expected in fixture["token_ids"].items():
        if name in NAMES and special[name] != NAMES[name]:
            yield f"token {name}: {NAMES[name]} instead of {special[name]}"
        if tokens.id(special[name]) != expected:
            yield f"token {name}: id {tokens.id(special[name])} instead of {expected}"
    for index, example in enumerate(fixture["examples"]):
        for problem in _example(example, tokens, starts):
            yield f"example {index} ({example['datum']['question_id']}): {problem}"
    for index, generation in enumerate(fixture["generations"]):
        for problem in _generation(generation, starts):
            yield f"generation {index}: {problem}"


def _example(example: dict[str, Any], tokens: Tokens, starts: dict[str, str]) -> Iterator[str]:
    record, expected = example["datum"], example["expect"]
    start = tokens.id(starts[record["stage"].removesuffix("_gen")])
    [source] = read_sources([record], tokens, start, tokens.question)
    drawn = draw_example(source, np.random.default_rng(0), N_SG_SEQ, N_POSITIONS, tokens.sep)
    got = decoder_sequences(drawn, tokens)
    if example["deterministic"]:
        for name in SEQUENCES:
            if got[name] != expected[name]:
                yield f"{name} differs: {tokens.text([i for i in got[name] if i >= 0])!r}"
        return
    yield from _drawn(source, drawn, got, expected, tokens)


def _drawn(
    source: Source, drawn: Example, got: dict[str, list[int]], expected: dict[str, list[int]], tokens: Tokens
) -> Iterator[str]:
    """Compare sequences whose items are drawn."""
    related, every = (
        Counter(map(tuple, items)) for items in (source.related, source.related + source.others)
    )
    for name, first, last, allowed in (("context", 1, -1, related), ("gen_X", 1, None, every)):
        ours, theirs = (_items(side[name][first:last], tokens.sep) for side in (got, expected))
        if sum(ours.values()) != sum(theirs.values()):
            yield f"{name}: {sum(ours.values())} items instead of {sum(theirs.values())}"
        for who, items in (("ours", ours), ("the fixture's", theirs)):
            if items - allowed:
                yield f"{name}: {who} holds items that the record does not have"
        everything = sum(theirs.values()) == sum(allowed.values())
        if everything and ours != theirs:
            yield f"{name}: other items"
    fixed = len({len(item) for item in every}) == 1 and len(set(map(len, source.answers))) == 1
    for name in SEQUENCES:
        if fixed and len(got[name]) != len(expected[name]):
            yield f"{name}: {len(got[name])} tokens instead of {len(expected[name])}"
    for side in (got, expected):
        yield from _question_and_answer(side, source, tokens)
    if got["cqa"][: len(got["context"])] != got["context"] or got["gen_X"][1:] != got["gen_Y"][:-1]:
        yield "input and target do not belong together"
    if drawn.cut:
        yield "was cut"


def _question_and_answer(side: dict[str, list[int]], source: Source, tokens: Tokens) -> Iterator[str]:
    """Yield problems unless a sequence ends in the record's question and an answer, and only these have targets."""
    tail = side["cqa"][len(side["context"]) :]
    allowed = [[*source.question, tokens.answer, *answer] for answer in source.answers]
    if tail not in allowed:
        yield f"question or answer is {tokens.text(tail)!r}"
    if side["Y"] != [IGNORED] * (len(side["context"]) - 1) + [*tail, tokens.eos]:
        yield "Y does not count from [que] on"


def _items(ids: list[int], sep: int) -> Counter[tuple[int, ...]]:
    items: list[list[int]] = [[]]
    for token in ids:
        if token == sep:
            items.append([])
        else:
            items[-1].append(token)
    return Counter(tuple(item) for item in items if item)


def _generation(generation: dict[str, Any], starts: dict[str, str]) -> Iterator[str]:
    start = next(token for token in starts.values() if token in generation["qa_text"])
    prefix = tuple(generation["prefix"].split(SEP))
    made = Generation(prefix, generation["scene_graph_text"], generation["qa_text"])
    reason = refusal(made)
    if (reason is None) != generation["accepted"]:
        yield f"accepted is {reason is None} instead of {generation['accepted']} ({reason})"
    if reason is not None or not generation["accepted"]:
        return
    expected = generation[RECORD]
    model = expected["anno_source"].removesuffix("_replay")
    task = expected["stage"].removesuffix("_gen")
    record = build_replay_record(made, model, task, start, "fresh", random.Random(0))
    del record["question_id"]
    record["pred_scene_graph_seq"] = sorted(record["pred_scene_graph_seq"])
    for name in dict.fromkeys([*expected, *record]):
        if name not in record or name not in expected or record[name] != expected[name]:
            yield f"field {name}: {record.get(name, 'missing')!r} instead of {expected.get(name, 'missing')!r}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    problems = list(check(folder))
    print("\n".join(problems) or f"{folder / 'srm.json'}: all examples, decisions and records are equal")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
