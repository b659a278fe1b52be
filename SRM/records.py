"""Replay records: the acceptance tests of generated texts, the finished records, and the statistics of a file."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclvqa.clove.data_root import load_manifest
from mmclvqa.clove.experiment_paths import language_model_name
from mmclvqa.clove.records import ANSWERS_PER_RECORD, ITEM_END, new_record
from mmclvqa.clove.tasks import GENERATED_SUFFIX
from SRM.data import related_items
from SRM.tokens import ANSWER, EOS, OCR, QUESTION, SEP

LAST_SEPARATOR = 30
"""Index, counted from 0, of the last ``[SEP]`` of a graph that counts, so a record has at most 31 items."""
SHOWN_ANSWERS = 30
"""Number of most frequent answers, of the replays and of the real records, whose shares are listed."""

REFUSALS = {
    "graph_end": f"no {EOS} in the graph of an encoder-decoder model",
    "graph_marks": f"the graph contains {QUESTION} or {ANSWER}",
    "no_graph": f"the graph has no {SEP}",
    "questions": f"not exactly one {QUESTION}",
    "answers": f"not exactly one {ANSWER}",
    "no_end": f"no {EOS} after the answer",
    "order": f"not in the order {SEP} {QUESTION} {ANSWER} {EOS}",
}
"""Reasons for rejecting a generation, in the order of the tests."""

Judge = Callable[[str, str, Iterable[str]], bool | None]
"""Returns whether an answer to a question follows from scene-graph items; None if it cannot be decided."""


@dataclass(frozen=True)
class Generation:
    """The texts generated for one prompt.

    Attributes:
        items: the items of the prompt.
        graph: the scene-graph text from the task token on; padding around it is ignored.
        qa: the text of prompt, question and answer.
    """

    items: tuple[str, ...]
    graph: str
    qa: str


def refusal(generation: Generation, graph_must_end: bool = False) -> str | None:
    """Return the first acceptance test that fails, a key of :data:`REFUSALS`; None if the generation is accepted.

    ``graph_must_end`` rejects graphs truncated at the maximum length, as for encoder-decoder models.
    """
    graph, qa = generation.graph, generation.qa
    if graph_must_end and EOS not in graph:
        return "graph_end"
    if QUESTION in graph or ANSWER in graph:
        return "graph_marks"
    if SEP not in graph:
        return "no_graph"
    if qa.count(QUESTION) != 1:
        return "questions"
    if qa.count(ANSWER) != 1:
        return "answers"
    question, answer, end = qa.find(QUESTION), qa.find(ANSWER), qa.find(EOS)
    if end < 0:
        return "no_end"
    if not qa.rfind(SEP) < question < answer < end:
        return "order"
    return None


def build_replay_record(
    generation: Generation, model_name: str, task_name: str, start: str, question_id: str, rng: random.Random
) -> dict[str, Any]:
    """Build the replay record of an accepted generation.

    Args:
        generation: texts that :func:`refusal` accepts.
        model_name: the language model, as on the command line.
        task_name: the task that is replayed.
        start: the token that the texts of the task start with.
        question_id: unique among all replays.
        rng: shuffles the predicted scene graph.
    """
    graph = generation.graph.partition(start)[2] if start in generation.graph else generation.graph
    # The items up to the last [SEP], also empty ones; [OCR] is separated by spaces.
    items = [item.replace(OCR, f" {OCR} ").strip() for item in graph.split(SEP)[:-1][: LAST_SEPARATOR + 1]]
    question, _, answer = generation.qa.partition(QUESTION)[2].partition(ANSWER)
    answer = answer.partition(EOS)[0].strip()
    sequence = [item + ITEM_END for item in items]
    prompted = min(len(generation.items), len(items))
    return new_record(
        anno_source=f"{language_model_name(model_name)}_replay",
        stage=task_name + GENERATED_SUFFIX,
        question_id=question_id,
        question=question.strip(),
        answer=answer,
        answers=[answer] * ANSWERS_PER_RECORD,
        gt_scene_graph_seq=sequence,
        gt_scene_graph_mask=[1] * prompted + [0] * (len(items) - prompted),
        pred_scene_graph_seq=rng.sample(sequence, len(sequence)),
        ocr_tokens=[item.rpartition(OCR)[2].strip().split(" ")[0] for item in items if OCR in item],
        set_name="train",
    )


def answer_counts(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how often each answer occurs, most frequent first."""
    counts = Counter(record["answer"] for record in records)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def judge_for(root: Path) -> Judge | None:
    """Return the function that verifies answers if the data root is clove-mini, else None."""
    manifest = load_manifest(root)
    if manifest is None or manifest.name != "clove-mini":
        return None
    from mmclvqa.mini.truth import is_true

    return is_true


def replay_statistics(
    records: Sequence[Mapping[str, Any]],
    outcome: Counter[str],
    real_answers: Mapping[str, int] | None,
    judge: Judge | None,
) -> dict[str, Any]:
    """Return the statistics of one replay file as JSON values.

    Args:
        records: the accepted replays.
        outcome: number of prompts that were ``accepted``, rejected (by key of :data:`REFUSALS`) or ``cut`` to fit, and
            of real records ``left_out`` because they yield no prompt.
        real_answers: how often each answer occurs in the real records of the task; None if not available.
        judge: see :func:`judge_for`.

    Returns:
        Counts, and shares of the accepted replays; lengths are in items and in words.
    """
    prompts = sum(outcome[reason] for reason in ("accepted", *REFUSALS))
    questions = {record["question"] for record in records}
    distinct = {(*record["gt_scene_graph_seq"], record["question"], record["answer"]) for record in records}
    result: dict[str, Any] = {
        "prompts": prompts,
        "accepted": len(records),
        "acceptance": _share(len(records), prompts),
        "refused": {key: {"count": outcome[key], "why": why} for key, why in REFUSALS.items() if outcome[key]},
        "prompts_cut": outcome["cut"],
        "records_without_prompt": outcome["left_out"],
        "duplicates": len(records) - len(distinct),
        "distinct_questions": len(questions),
        "distinct_question_share": _share(len(questions), len(records)),
        "distinct_answers": len({record["answer"] for record in records}),
        "empty_questions": sum(not record["question"] for record in records),
        "empty_answers": sum(not record["answer"] for record in records),
        "lengths": {
            "items": _lengths([len(record["gt_scene_graph_seq"]) for record in records]),
            "question_words": _lengths([len(record["question"].split()) for record in records]),
            "answer_words": _lengths([len(record["answer"].split()) for record in records]),
        },
        "answers": _answer_shares(answer_counts(records), real_answers),
    }
    if judge is not None:
        # Whether the answer follows from the items of the prompt.
        verdicts = Counter(judge(record["question"], record["answer"], related_items(record)) for record in records)
        truth = {"true": verdicts[True], "false": verdicts[False], "not_a_question": verdicts[None]}
        result["truth"] = truth | {"share": _share(verdicts[True], len(records))}
    return result


def _answer_shares(replayed: Mapping[str, int], real: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """Return the shares of the most frequent answers among the replays and among the real records."""
    counts = {"replay": replayed} | ({"real": real} if real is not None else {})
    names = dict.fromkeys(name for side in counts.values() for name in list(side)[:SHOWN_ANSWERS])
    totals = {key: sum(side.values()) for key, side in counts.items()}
    return [
        {"answer": name} | {key: _share(side.get(name, 0), totals[key]) for key, side in counts.items()}
        for name in names
    ]


def _lengths(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    mean, median = round(statistics.fmean(values), 2), statistics.median(values)
    return {"min": min(values), "mean": mean, "median": median, "max": max(values)}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
