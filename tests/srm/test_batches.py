"""Batches contain every example once, and both passes in one row have exactly the losses of separate sequences."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from srm_runs import FIXTURES, record
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from mmclvqa.clove.tasks import task
from SRM.batches import PairLayout, Seq2SeqLayout, TreeLayout, plan
from SRM.model import SRMLoss, layout_for
from SRM.tokens import Example, Tokens, decoder_sequences, draw_example, read_sources, seq2seq_sequences

GPT = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODERS = {
    "gpt2": (TreeLayout, GPT),
    "llama": (TreeLayout, LLAMA | {"num_key_value_heads": 2}),
    "qwen3": (TreeLayout, LLAMA | {"num_key_value_heads": 2, "head_dim": 16}),
    "openai-gpt": (PairLayout, GPT),
    "bloom": (PairLayout, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mistral": (PairLayout, LLAMA | {"num_key_value_heads": 2, "sliding_window": 8}),
}
"""The layout and the sizes of decoder-only models by ``model_type``."""


def test_every_example_is_in_exactly_one_batch_within_both_limits() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 1000).tolist() + [5000]
    batches = plan(lengths, 12, 1000, np.random.default_rng(1))
    assert sorted(i for batch in batches for i in batch) == list(range(1001))
    for batch in batches:
        assert len(batch) <= 12
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 1000


def test_examples_of_similar_length_are_together() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 1000).tolist()
    batches = plan(lengths, 10, 100000, np.random.default_rng(1))
    computed = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert computed < 1.1 * sum(lengths)


def test_without_a_generator_the_order_is_kept() -> None:
    assert plan([9, 1, 5, 7], 3, 1000, None) == [[0, 1, 2], [3]]


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    made = Tokens(GPT2Tokenizer.from_pretrained(FIXTURES / "tiny_gpt2"))
    made.add("__object__")
    return made


def examples(tokens: Tokens, longest: int) -> list[Example]:
    records = [record(random.Random(n), task("functional", "object"), n) for n in range(9)]
    for number, one in enumerate(records):
        one["gt_scene_graph_mask"] = [int(number % 4 > n) for n in range(3)]
        one["question"] += " please" * (number % 3)
    sources = read_sources(records, tokens, tokens.id("__object__"), tokens.question)
    return [draw_example(one, np.random.default_rng(0), 30, longest, tokens.sep) for one in sources]


def separate_loss(model: torch.nn.Module, tokens: Tokens, drawn: list[Example], weight: float) -> Tensor:
    """Compute the sums sequence by sequence, with logits at all positions."""
    sums = torch.zeros(4)
    for one in drawn:
        sequences = decoder_sequences(one, tokens)
        for side, (inputs, labels) in enumerate((("cqa", "Y"), ("gen_X", "gen_Y"))):
            scores = model(torch.tensor([sequences[inputs]])).logits[0]
            targets = torch.tensor(sequences[labels])
            weights = torch.where(torch.isin(targets, torch.tensor(tokens.weighted_ids())), weight, 1.0)
            weights = weights * (targets != -100)
            losses = F.cross_entropy(scores, targets.clamp(min=0), reduction="none")
            sums[2 * side] += (losses * weights).sum()
            sums[2 * side + 1] += weights.sum()
    return sums


@pytest.mark.parametrize("longest", [64, 28])
@pytest.mark.parametrize("kind", DECODERS)
def test_a_batch_gives_the_losses_of_each_sequence_alone(tokens: Tokens, kind: str, longest: int) -> None:
    torch.manual_seed(0)
    layout_class, sizes = DECODERS[kind]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=len(tokens), **sizes)).eval()
    drawn = examples(tokens, longest)
    loss = SRMLoss(model, tokens.weighted_ids(), 5.0)
    layout = layout_for(loss, tokens, drawn, longest)
    assert isinstance(layout, layout_class)
    batch = layout.batch(drawn)
    assert "position_ids" not in batch or batch["position_ids"].max() < longest
    sums = loss(batch)
    expected = separate_loss(model, tokens, drawn, 5.0)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-3)

    (sums[0] / sums[1] + 0.25 * sums[2] / sums[3]).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    (expected[0] / expected[1] + 0.25 * expected[2] / expected[3]).backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_model_that_ignores_the_mask_is_noticed(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), **GPT))
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: forward(**inputs | {"attention_mask": None}))
    assert isinstance(layout_for(SRMLoss(model, [], 1.0), tokens, examples(tokens, 64), 64), PairLayout)


def test_encoder_decoder_models_have_the_unweighted_loss_of_transformers(tokens: Tokens) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokens), "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    model = T5ForConditionalGeneration(
        T5Config(**sizes, pad_token_id=tokens.pad, decoder_start_token_id=tokens.pad)
    ).eval()
    drawn = examples(tokens, 64)[:1]
    sums = SRMLoss(model, tokens.weighted_ids(), 5.0)(Seq2SeqLayout(tokens).batch(drawn))
    for side, (source, target) in enumerate(seq2seq_sequences(drawn[0], tokens)):
        own = model(input_ids=torch.tensor([source]), labels=torch.tensor([target])).loss
        torch.testing.assert_close(sums[2 * side] / sums[2 * side + 1], own)


def test_a_batch_without_targets_has_no_loss_and_zero_gradients(tokens: Tokens) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), n_positions=64, n_embd=32, n_layer=1, n_head=2))
    batch = TreeLayout(tokens).batch(examples(tokens, 64)[:1])
    batch["targets"].fill_(-100)
    sums = SRMLoss(model, tokens.weighted_ids(), 5.0)(batch)
    assert sums.tolist() == [0, 0, 0, 0]
    sums.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_loss_reads_no_value_from_the_device(tokens: Tokens) -> None:
    """Tensors on the meta device have no values: reading one, as ``bool(x)`` or ``x.nonzero()`` do, is an error."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), **GPT)).to("meta")
    batch = {name: value.to("meta") for name, value in TreeLayout(tokens).batch(examples(tokens, 64)).items()}
    sums = SRMLoss(model, tokens.weighted_ids(), 5.0)(batch)
    sums.sum().backward()
    assert sums.shape == (4,) and all(p.grad is not None for p in model.parameters())
