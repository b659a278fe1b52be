"""The sidecar of a replay file: what was prompted, refused and accepted, and how the replays look."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmclvqa.clove.manifest import load_manifest
from SRM.data import answer_counts
from SRM.records import REFUSALS
from SRM.tokens import bare

SHOWN_ANSWERS = 30
"""Answers whose shares are listed, of the most frequent ones on either side."""
MINI = "clove-mini"

Judge = Callable[[str, str, Iterable[str]], bool | None]
"""Whether an answer to a question follows from items; None where it cannot tell."""


def judge_for(root: Path) -> Judge | None:
    """The checker of the small world's rules where the data are of it, else None."""
    manifest = load_manifest(root)
    if manifest is None or manifest.name != MINI:
        return None
    from mmclvqa.clove.mini.truth import is_true

    return is_true


def describe_replays(
    records: Sequence[Mapping[str, Any]],
    outcome: Counter[str],
    real_answers: Mapping[str, int] | None,
    judge: Judge | None,
) -> dict[str, Any]:
    """Figures of one replay file.

    Args:
        records: the accepted ones.
        outcome: how many prompts were ``accepted``, were refused by reason (:data:`SRM.records.REFUSALS`), were
            ``cut`` to fit, and how many real records were ``left_out`` because they give no prompt.
        real_answers: how often each answer stands in the task's real records, None where that is not known.
        judge: see :func:`judge_for`.

    Returns:
        Plain JSON values. Shares are of the accepted replays; lengths are of items and of words.
    """
    prompts = outcome["accepted"] + sum(outcome[reason] for reason in REFUSALS)
    questions = {record["question"] for record in records}
    known = Counter(
        (*record["gt_scene_graph_seq"], record["question"], record["answer"]) for record in records
    )
    figures: dict[str, Any] = {
        "prompts": prompts,
        "accepted": len(records),
        "acceptance": _share(len(records), prompts),
        "refused": {
            reason: {"count": outcome[reason], "why": why}
            for reason, why in REFUSALS.items()
            if outcome[reason]
        },
        "prompts_cut": outcome["cut"],
        "records_without_prompt": outcome["left_out"],
        "duplicates": len(records) - len(known),
        "distinct_questions": len(questions),
        "distinct_question_share": _share(len(questions), len(records)),
        "distinct_answers": len({record["answer"] for record in records}),
        "empty_questions": sum(not record["question"] for record in records),
        "empty_answers": sum(not record["answer"] for record in records),
        "lengths": {
            "items": _lengths(len(record["gt_scene_graph_seq"]) for record in records),
            "question_words": _lengths(len(record["question"].split()) for record in records),
            "answer_words": _lengths(len(record["answer"].split()) for record in records),
        },
        "answers": _answers(answer_counts(records), real_answers),
    }
    if judge is not None:
        figures["truth"] = _truth(records, judge)
    return figures


def _truth(records: Sequence[Mapping[str, Any]], judge: Judge) -> dict[str, Any]:
    """Whether answers follow from the prompt's items, which are those of mask 1."""
    verdicts = Counter(judge(record["question"], record["answer"], _prompted(record)) for record in records)
    return {
        "true": verdicts[True],
        "false": verdicts[False],
        "not_a_question": verdicts[None],
        "share": _share(verdicts[True], len(records)),
    }


def _prompted(record: Mapping[str, Any]) -> list[str]:
    pairs = zip(record["gt_scene_graph_seq"], record["gt_scene_graph_mask"], strict=True)
    return [bare(item) for item, prompted in pairs if prompted]


def _answers(replayed: Mapping[str, int], real: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """Shares of the most frequent answers, of the replays and of the real records."""
    sides = {"replay": replayed} | ({"real": real} if real is not None else {})
    names = dict.fromkeys(name for side in sides.values() for name in list(side)[:SHOWN_ANSWERS])
    totals = {key: sum(side.values()) for key, side in sides.items()}
    return [
        {"answer": name} | {key: _share(side.get(name, 0), totals[key]) for key, side in sides.items()}
        for name in names
    ]


def _lengths(values: Iterable[int]) -> dict[str, float]:
    found = list(values)
    if not found:
        return {}
    return {
        "min": min(found),
        "mean": round(statistics.fmean(found), 2),
        "median": statistics.median(found),
        "max": max(found),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
