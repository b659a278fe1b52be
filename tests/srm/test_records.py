"""The acceptance tests of generated texts, and the finished records."""

from __future__ import annotations

import random

import pytest

from mmclvqa.clove.records import check_record
from SRM.records import REFUSALS, Generation, build_replay_record, refusal

GRAPH = "__object__dog[SEP]red car[SEP]sign [OCR] stop[SEP]<|endoftext|>"
QA = "__object__dog[que]what is it?[ans]dog<|endoftext|>"


@pytest.mark.parametrize(
    ("graph", "qa", "reason"),
    [
        (GRAPH, QA, None),
        ("__object__dog[SEP]car[que]", QA, "graph_marks"),
        ("__object__dog[SEP]car[ans]", QA, "graph_marks"),
        ("__object__dog", QA, "no_graph"),
        (GRAPH, "__object__dog what is it?[ans]dog<|endoftext|>", "questions"),
        (GRAPH, "__object__dog[que]what[que][ans]dog<|endoftext|>", "questions"),
        (GRAPH, "__object__dog[que]what is it?<|endoftext|>", "answers"),
        (GRAPH, "__object__dog[que]what is it?[ans]dog", "no_end"),
        (GRAPH, "__object__dog[que]what is it?<|endoftext|>[ans]dog", "order"),
        (GRAPH, "__object__dog[que]what[SEP]is it?[ans]dog<|endoftext|>", "order"),
        (GRAPH, "__object__dog[ans]what is it?[que]dog<|endoftext|>", "order"),
    ],
)
def test_a_generation_is_refused_for_the_reason_named(graph: str, qa: str, reason: str | None) -> None:
    assert refusal(Generation(("dog",), graph, qa)) == reason
    assert reason is None or reason in REFUSALS


def test_an_encoder_decoder_graph_must_end() -> None:
    cut = Generation(("dog",), "__object__dog[SEP]car[SEP]", QA)
    assert refusal(cut) is None
    assert refusal(cut, graph_must_end=True) == "graph_end"
    assert refusal(Generation(("dog",), GRAPH, QA), graph_must_end=True) is None


def finished(graph: str) -> dict:
    return build_replay_record(
        Generation(("dog",), graph, QA), "distilgpt2", "object", "__object__", "id1", random.Random(0)
    )


def test_a_finished_record_fits_the_schema_and_marks_the_prompt() -> None:
    made = finished(GRAPH)
    check_record(made, "made")
    assert made["gt_scene_graph_seq"] == ["dog [SEP]", "red car [SEP]", "sign  [OCR]  stop [SEP]"]
    assert made["gt_scene_graph_mask"] == [1, 0, 0]
    assert (made["question"], made["answer"], made["answers"]) == ("what is it?", "dog", ["dog"] * 10)
    assert sorted(made["pred_scene_graph_seq"]) == sorted(made["gt_scene_graph_seq"])


def test_what_follows_the_last_separator_is_left_out_and_empty_items_are_kept() -> None:
    made = finished("[pad]__object__dog[SEP] [SEP]cat[SEP]half an it")
    check_record(made, "made")
    assert made["gt_scene_graph_seq"] == ["dog [SEP]", " [SEP]", "cat [SEP]"]
    assert made["gt_scene_graph_mask"] == [1, 0, 0]


def test_the_word_after_the_last_ocr_token_of_an_item_is_an_ocr_token() -> None:
    graph = "__object__red sign [OCR] stop now[SEP]dog[SEP]sign [OCR] a [OCR] b[SEP]sign [OCR][SEP]"
    assert finished(graph)["ocr_tokens"] == ["stop", "b", ""]
