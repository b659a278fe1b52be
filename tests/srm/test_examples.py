"""From records to token sequences: which items and answers are drawn, and what is cut."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from srm_runs import FIXTURES
from transformers import GPT2Tokenizer

from mmclvqa.clove.records import new_record
from SRM.generate import Generator
from SRM.model import grow, load_model
from SRM.settings import parse
from SRM.tokens import Tokens, bare, cut_tokens, decoder_sequences, draw_example, read_sources, seq2seq_sequences


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    made = Tokens(GPT2Tokenizer.from_pretrained(FIXTURES / "tiny_gpt2"))
    made.add("__object__", "[que_object]")
    return made


def source(tokens: Tokens, related: int, others: int, **fields: object):
    items = [f"man near tree{n} [SEP]" for n in range(related + others)]
    mask = [1] * related + [0] * others
    record = new_record(
        gt_scene_graph_seq=items, gt_scene_graph_mask=mask, question="who is it?", answer="man", answers=["man"] * 10
    )
    [made] = read_sources([record | fields], tokens, tokens.id("__object__"), tokens.id("[que_object]"))
    return made


def items_of(ids: list[int], sep: int) -> int:
    return ids.count(sep) + 1 if ids else 0


@pytest.mark.parametrize(
    ("related", "others", "context", "graph"),
    [(2, 3, 2, 5), (0, 4, 0, 4), (12, 4, 10, 14), (10, 4, 10, 14), (4, 20, 4, 10)],
)
def test_related_items_are_cut_first_and_others_fill_up(
    tokens: Tokens, related: int, others: int, context: int, graph: int
) -> None:
    drawn = draw_example(source(tokens, related, others), np.random.default_rng(0), 10, 1000, tokens.sep)
    assert (items_of(drawn.context, tokens.sep), items_of(drawn.graph, tokens.sep)) == (context, graph)
    assert not drawn.cut


def test_items_are_drawn_by_seed(tokens: Tokens) -> None:
    one = source(tokens, 2, 40)
    draws = [draw_example(one, np.random.default_rng(seed), 10, 1000, tokens.sep).graph for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_answers_are_drawn_by_their_frequency(tokens: Tokens) -> None:
    one = source(tokens, 1, 0, answers=["man"] * 7 + ["lady"] * 3)
    rng = np.random.default_rng(0)
    drawn = Counter(tokens.text(draw_example(one, rng, 10, 1000, tokens.sep).answer) for _ in range(1000))
    assert drawn["man"] == pytest.approx(700, abs=60) and sum(drawn.values()) == 1000


def test_the_context_of_an_example_longer_than_the_model_is_cut(tokens: Tokens) -> None:
    drawn = draw_example(source(tokens, 20, 20), np.random.default_rng(0), 30, 60, tokens.sep)
    sequences = decoder_sequences(drawn, tokens)
    assert drawn.cut
    assert {name: len(sequences[name]) for name in ("cqa", "gen_X", "gen_Y")} == {"cqa": 60, "gen_X": 60, "gen_Y": 60}
    assert tokens.text(sequences["cqa"]).endswith("[que]who is it?[ans]man")
    assert all(item.startswith("man near tree") for item in tokens.text(drawn.context).split("[SEP]")[:-1])


def test_what_does_not_fit_is_cut_after_a_token() -> None:
    assert cut_tokens([[1, 2, 3, 4], [5]], 3, sep=0) == ([1, 2, 3], True)
    assert cut_tokens([[1], [2, 3], [4]], 5, sep=0) == ([1, 0, 2, 3, 0], True)
    assert cut_tokens([[1], [], [4]], 4, sep=0) == ([1, 0, 0, 4], False) and cut_tokens([], 4, sep=0) == ([], False)


def test_encoder_decoder_graph_is_split_at_a_separator(tokens: Tokens) -> None:
    drawn = draw_example(source(tokens, 2, 3), np.random.default_rng(0), 30, 1000, tokens.sep)
    (question_source, question_target), (graph_source, graph_target) = seq2seq_sequences(drawn, tokens)
    assert tokens.text(question_source) == "[que_object]man near tree0[SEP]man near tree1[que_object]"
    assert tokens.text(question_target) == "who is it?[ans]man<|endoftext|>"
    assert graph_source[-1] == tokens.sep and graph_target[-1] == tokens.eos
    whole = "[SEP]".join(f"man near tree{n}" for n in range(5))
    assert tokens.text(graph_source) + tokens.text(graph_target) == f"__object__{whole}<|endoftext|>"


def test_an_item_is_read_up_to_its_separator_however_it_is_spaced() -> None:
    assert [bare(item) for item in ("man [SEP]", "man[SEP]", "man  [SEP] ", "man", " [SEP]")] == ["man"] * 4 + [""]


def test_a_batch_size_of_zero_is_the_default() -> None:
    words = ["--cl_setting", "functional", "--task_seq", "oarlks", "--model_dir_root", "runs", "--data_dir", "."]
    assert parse([*words, "--train_batch_size", "0"]).train_batch_size == parse(words).train_batch_size == 16384


def test_a_prompt_is_cut_only_to_leave_room_for_one_token(shared_world: Path) -> None:
    folder = shared_world / "pretrained/distilgpt2"
    model, tokens = load_model(folder, "distilgpt2")
    tokens.add("__gen__")
    grow(model, tokens, seed=0)
    words = ["--cl_setting", "functional", "--task_seq", "oarlks", "--model_dir_root", "runs"]
    settings = parse([*words, "--data_dir", str(shared_world), "--max_length", "20"])
    length = len(tokens.ids("red cup"))
    fitting = (20 - 3 + 1) // (length + 1)
    prompts = [("red cup",) * number for number in (fitting, fitting + 1)]
    texts, cut = Generator(settings, model, tokens, torch.float32).texts(prompts, settings.order[0])
    assert cut == [False, True]
    assert texts[0][0].count("red cup[SEP]") == fitting
