"""The search gives the texts of transformers' generate() for each prompt alone, under its length rule."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from SRM.rows import CachedRows, EncoderDecoderRows, RecomputedRows, rows_for
from SRM.search import Search

PAD, EOS, LONGEST = 48, 49, 60


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    """GPT-2 with large random weights, for varied choices without ties, and a preference for eos."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25)
    config.eos_token_id = config.bos_token_id = EOS
    network = GPT2LMHeadModel(config).eval()
    network.generation_config.pad_token_id = PAD
    network.transformer.wte.weight.data[EOS] *= 1.5
    return network


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 14, (40,), generator=generator).tolist()
    return sorted((torch.randint(0, PAD, (n,), generator=generator).tolist() for n in lengths), key=len)[::2]


def reference(model: GPT2LMHeadModel, prompt: list[int], beams: int, pairs: bool) -> list[int]:
    options = {"num_beams": beams, "early_stopping": True} if beams > 1 else {}
    options |= {"no_repeat_ngram_size": 2} if pairs else {}
    ids = torch.tensor([prompt])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_length=LONGEST, **options)
    text = output[0, 1 if model.config.is_encoder_decoder else len(prompt) :].tolist()
    return text[: text.index(EOS) + 1] if EOS in text else text


@pytest.mark.parametrize(("beams", "pairs"), [(1, False), (3, False), (5, True)])
def test_search_agrees_with_generate(model: GPT2LMHeadModel, prompts: list[list[int]], beams: int, pairs: bool) -> None:
    expected = [reference(model, prompt, beams, pairs) for prompt in prompts]
    assert len({len(ids) for ids in expected}) > 5, "the texts must have different lengths"
    for capacity in (2, 7, 100):
        rows = CachedRows(model, capacity * beams, LONGEST)
        completed: list[int] = []
        search = Search(EOS, PAD, LONGEST, beams, pairs, length_rule="generated")
        assert search.run(rows, prompts, completed.append) == expected
        assert sum(completed) == len(prompts)


def other_model(kind: str) -> tuple[PreTrainedModel, type]:
    """A small model of another family with large random weights, and the class of its rows."""
    torch.manual_seed(2)
    rows: type
    if kind == "openai-gpt":
        network = OpenAIGPTLMHeadModel(
            OpenAIGPTConfig(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25)
        )
        network.transformer.tokens_embed.weight.data[EOS] *= 1.5
        rows = RecomputedRows
    elif kind in ("llama", "mistral"):
        sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.25}
        # Layers that attend to the last 8 tokens only would need a cache that knows their positions.
        sizes |= {"sliding_window": 8} if kind == "mistral" else {}
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
        network.lm_head.weight.data[EOS] *= 1.5
        rows = RecomputedRows if kind == "mistral" else CachedRows
    else:
        sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        network = T5ForConditionalGeneration(T5Config(**sizes, initializer_factor=3.0, decoder_start_token_id=PAD))
        network.shared.weight.data[EOS] *= 1.2
        rows = EncoderDecoderRows
    network.generation_config.pad_token_id = network.config.pad_token_id = PAD
    network.generation_config.eos_token_id = network.config.eos_token_id = EOS
    return network.eval(), rows


@pytest.mark.parametrize("kind", ["openai-gpt", "t5", "llama", "mistral"])
@pytest.mark.parametrize(("beams", "pairs", "capacities"), [(1, False, (7,)), (5, True, (7, 100))])
def test_search_on_the_other_models_agrees_with_generate(
    prompts: list[list[int]], kind: str, beams: int, pairs: bool, capacities: tuple[int, ...]
) -> None:
    model, rows_class = other_model(kind)
    expected = [reference(model, prompt, beams, pairs) for prompt in prompts]
    assert len({len(ids) for ids in expected}) > 2, "the texts must have different lengths"
    for capacity in capacities:
        rows = rows_for(model, capacity * beams, LONGEST)
        assert isinstance(rows, rows_class)
        assert Search(EOS, PAD, LONGEST, beams, pairs, length_rule="generated").run(rows, prompts) == expected
