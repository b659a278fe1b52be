"""Rows that come and go give what transformers' generate() gives for each prompt alone, under its length rule."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from SRM.rows import EncoderDecoderRows, RecomputedRows, Rows, rows_for
from SRM.search import Search, _slots

PAD, EOS, LONGEST = 48, 49, 60


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    """A model of large random weights, so that its choices are varied and clear, and that likes to end."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25)
    config.eos_token_id = config.bos_token_id = EOS
    made = GPT2LMHeadModel(config).eval()
    made.generation_config.pad_token_id = PAD
    made.transformer.wte.weight.data[EOS] *= 1.5
    return made


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 14, (40,), generator=generator).tolist()
    return sorted((torch.randint(0, PAD, (n,), generator=generator).tolist() for n in lengths), key=len)


def reference(model: GPT2LMHeadModel, prompt: list[int], beams: int, pairs: bool) -> list[int]:
    options = {"num_beams": beams, "early_stopping": True} if beams > 1 else {}
    options |= {"no_repeat_ngram_size": 2} if pairs else {}
    ids = torch.tensor([prompt])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_length=LONGEST, **options
    )
    made = made[0, 1 if model.config.is_encoder_decoder else len(prompt) :].tolist()
    return made[: made.index(EOS) + 1] if EOS in made else made


@pytest.mark.parametrize("capacity", [2, 7, 100])
@pytest.mark.parametrize(("beams", "pairs"), [(1, False), (3, False), (5, True)])
def test_search_agrees_with_generate(
    model: GPT2LMHeadModel, prompts: list[list[int]], beams: int, pairs: bool, capacity: int
) -> None:
    rows = Rows(model, capacity * beams, LONGEST, torch.float32)
    finished: list[int] = []
    found = Search(EOS, PAD, LONGEST, beams, pairs, length_rule="generated").run(rows, prompts, finished.append)
    assert found == [reference(model, prompt, beams, pairs) for prompt in prompts]
    lengths = {len(ids) for ids in found}
    assert len(lengths) > 5, "the prompts are to end at different lengths"
    assert sum(finished) == len(prompts)


def other_model(kind: str) -> tuple[OpenAIGPTLMHeadModel | T5ForConditionalGeneration, type]:
    """A small openai-gpt or T5 with large random weights, and the class of its rows."""
    torch.manual_seed(2)
    if kind == "openai-gpt":
        made = OpenAIGPTLMHeadModel(
            OpenAIGPTConfig(
                vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25
            )
        )
        made.transformer.tokens_embed.weight.data[EOS] *= 1.5
        rows: type = RecomputedRows
    else:
        sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        made = T5ForConditionalGeneration(T5Config(**sizes, initializer_factor=3.0, decoder_start_token_id=PAD))
        made.shared.weight.data[EOS] *= 1.2
        rows = EncoderDecoderRows
    made.generation_config.pad_token_id = made.config.pad_token_id = PAD
    made.generation_config.eos_token_id = made.config.eos_token_id = EOS
    return made.eval(), rows


@pytest.mark.parametrize("kind", ["openai-gpt", "t5"])
@pytest.mark.parametrize(("beams", "pairs", "capacity"), [(1, False, 7), (5, True, 7), (5, True, 100)])
def test_search_on_the_other_models_agrees_with_generate(
    prompts: list[list[int]], kind: str, beams: int, pairs: bool, capacity: int
) -> None:
    model, rows_class = other_model(kind)
    rows = rows_for(model, capacity * beams, LONGEST, torch.float32)
    assert isinstance(rows, rows_class)
    few = prompts[::2]
    found = Search(EOS, PAD, LONGEST, beams, pairs, length_rule="generated").run(rows, few)
    assert found == [reference(model, prompt, beams, pairs) for prompt in few]
    assert len({len(ids) for ids in found}) > 2, "the prompts are to end at different lengths"


def test_children_stay_where_their_parents_were() -> None:
    parent = torch.tensor([[0, 0, 2, 1, 2], [4, 4, 4, 4, 4], [1, 0, 3, 2, 4]])
    slot = _slots(parent)
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in slot.tolist())
    kept = (slot == parent).sum(1).tolist()
    assert kept == [3, 1, 5]
