"""From two generated texts to a replay record: the acceptance tests and the finished record."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmclvqa.clove.annotations import ANSWERS_PER_RECORD, ITEM_END, new_record
from SRM.tokens import ANSWER, EOS, OCR, QUESTION, SEP

LAST_SEPARATOR = 30
"""The graph is cut at its ``[SEP]`` of this index, counted from 0, so a record has at most 31 items."""

REFUSALS = {
    "graph_end": f"no {EOS} in the graph of an encoder-decoder model",
    "graph_marks": f"the graph holds {QUESTION} or {ANSWER}",
    "no_graph": f"the graph has no {SEP}",
    "questions": f"not exactly one {QUESTION}",
    "answers": f"not exactly one {ANSWER}",
    "no_end": f"no {EOS} after the answer",
    "order": f"not in the order {SEP} {QUESTION} {ANSWER} {EOS}",
}
"""Why a generation can be refused, in the order in which the tests are made."""


@dataclass(frozen=True)
class Generation:
    """What the model wrote for one prompt.

    Attributes:
        items: the prompt's items.
        graph: the scene-graph text, from the task's token on; padding around it does not matter.
        qa: the text of prompt, question and answer.
    """

    items: tuple[str, ...]
    graph: str
    qa: str


def refusal(generation: Generation, graph_must_end: bool = False) -> str | None:
    """The first test that a generation does not pass (a key of :data:`REFUSALS`), None if it is accepted.

    Args:
        generation: what the model wrote.
        graph_must_end: refuse a graph that was cut at the longest length, as for encoder-decoder models.
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


def graph_items(graph: str, start: str) -> list[str]:
    """The items of an accepted graph: what stands after the start token up to the last ``[SEP]``.

    Items without text are left out, and ``[OCR]`` stands apart from the words around it.
    """
    text = graph.partition(start)[2] if start in graph else graph
    parts = text.split(SEP)[:-1][: LAST_SEPARATOR + 1]
    items = (part.replace(OCR, f" {OCR} ").strip() for part in parts)
    return [item for item in items if item]


def question_and_answer(qa: str) -> tuple[str, str]:
    """Question and answer of an accepted text."""
    question, _, answer = qa.partition(QUESTION)[2].partition(ANSWER)
    return question.strip(), answer.partition(EOS)[0].strip()


def ocr_words(items: Sequence[str]) -> list[str]:
    """The word after ``[OCR]`` of every item that has one."""
    words = (item.partition(OCR)[2].split() for item in items)
    return [found[0] for found in words if found]


def finish(
    generation: Generation, model_name: str, task_name: str, start: str, question_id: str, rng: random.Random
) -> dict[str, Any]:
    """The replay record of an accepted generation.

    Args:
        generation: what :func:`refusal` accepted.
        model_name: as on the command line.
        task_name: the task that it replays.
        start: the token its texts begin with.
        question_id: unique in all replays.
        rng: shuffles the predicted scene graph.
    """
    items = graph_items(generation.graph, start)
    question, answer = question_and_answer(generation.qa)
    sequence = [item + ITEM_END for item in items]
    prompted = min(len(generation.items), len(items))
    return new_record(
        anno_source=f"{model_name}_replay",
        stage=f"{task_name}_gen",
        question_id=question_id,
        question=question,
        answer=answer,
        answers=[answer] * ANSWERS_PER_RECORD,
        gt_scene_graph_seq=sequence,
        gt_scene_graph_mask=[1] * prompted + [0] * (len(items) - prompted),
        pred_scene_graph_seq=rng.sample(sequence, len(sequence)),
        ocr_tokens=ocr_words(items),
        set_name="train",
    )
