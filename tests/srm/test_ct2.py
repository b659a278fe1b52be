"""``--generator ct2``: texts by CTranslate2, and what it cannot do."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from srm_runs import DEBUG, TRAINED, Runs

from mmclvqa.clove.records import load_records
from SRM.ct2 import CT2Search
from SRM.folder import RunFolder
from SRM.generate import BEAMS
from SRM.model import load_model
from SRM.rows import rows_for
from SRM.search import Search
from SRM.settings import LENGTH_RULES, parse
from SRM.tokens import Tokens

needs_ct2 = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None,
    reason="CTranslate2 is not installed (pip install -r ct2_requirements.txt)",
)
LONGEST = 40


@pytest.fixture(scope="module")
def model_and_tokens(trained: Path) -> tuple[torch.nn.Module, Tokens]:
    """A model that has learned to generate."""
    model, tokens = load_model(sorted((trained / "models").iterdir())[-1], "distilgpt2")
    return model.eval(), tokens


def prompts(tokens: Tokens, end: int) -> list[list[int]]:
    """Prompts of one and two items of each task, ordered by length."""
    starts = [token for token in tokens.tokenizer.get_added_vocab() if token.startswith("__")]
    items = [tokens.ids(f"{color} {thing}") for color in ("red", "blue", "green") for thing in ("cup", "dog", "tree")]
    texts = [[tokens.id(start), *item, end] for start in starts for item in items]
    texts += [[*text[:-1], tokens.sep, *items[0], end] for text in texts[::4]]
    return sorted(texts, key=len)


@needs_ct2
@pytest.mark.parametrize("rule", LENGTH_RULES)
@pytest.mark.parametrize("longest", [LONGEST, 16])
def test_texts_are_those_of_the_search(
    model_and_tokens: tuple[torch.nn.Module, Tokens], rule: str, longest: int
) -> None:
    model, tokens = model_and_tokens
    with_ct2 = CT2Search(model, tokens.eos, longest, rule, torch.float32)
    for beams, end in ((BEAMS, tokens.sep), (1, tokens.question)):
        inputs = prompts(tokens, end)
        rows = rows_for(model, 20 * beams, longest)
        completed: list[int] = []
        texts = with_ct2.run(inputs, beams, False, 8, completed.append)
        assert texts == Search(tokens.eos, tokens.pad, longest, beams, length_rule=rule).run(rows, inputs)
        assert sum(completed) == len(inputs)


@needs_ct2
def test_no_bigram_occurs_twice(model_and_tokens: tuple[torch.nn.Module, Tokens]) -> None:
    model, tokens = model_and_tokens
    inputs = prompts(tokens, tokens.sep)
    texts = CT2Search(model, tokens.eos, LONGEST, "published", torch.float32).run(inputs, BEAMS, True, 8)
    for prompt, text in zip(inputs, texts, strict=True):
        assert len(set(pairwise(prompt + text))) == len(set(pairwise(prompt))) + len(text)
    search = Search(tokens.eos, tokens.pad, LONGEST, BEAMS, unique_pairs=True)
    expected = search.run(rows_for(model, 20 * BEAMS, LONGEST), inputs)
    # This model, trained on few records, repeats itself more than others.
    assert sum(map(list.__eq__, texts, expected)) > 0.7 * len(inputs)


@needs_ct2
def test_a_run_generates_the_replays_of_the_search(srm: Runs, trained: Path) -> None:
    folder = srm(*TRAINED, "--generator", "ct2")
    names = sorted(path.name for path in trained.glob("*REPLAY*.npy"))
    assert sorted(path.name for path in folder.glob("*REPLAY*.npy")) == names
    accepted = [sum(len(load_records(run / name)) for name in names) for run in (folder, trained)]
    assert accepted[0] == pytest.approx(accepted[1], rel=0.1)


@needs_ct2
def test_a_llama(srm: Runs) -> None:
    folder = srm(*DEBUG, "--model_name", "tiny-llama", "--generator", "ct2", order="oarlks")
    assert len(list(folder.glob("*REPLAY*.npy"))) == 20  # 15 pairs of tasks and, before each task but the first, all


@needs_ct2
@pytest.mark.parametrize(
    ("model", "reason"), [("tiny-flan-t5", "have an encoder; only decoder-only"), ("openai-gpt", "cannot be used (")]
)
def test_other_models_are_refused_before_training(srm: Runs, model: str, reason: str) -> None:
    error = srm.error("--model_name", model, "--generator", "ct2")
    assert error.startswith("error: --generator ct2: models of type ") and reason in error
    assert not list(srm.root.glob("**/model.safetensors"))


def test_without_ctranslate2_one_line_names_the_command(srm: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ctranslate2" else found(name))
    error = srm.error("--generator", "ct2")
    assert error.endswith("CTranslate2 is not installed; install it: pip install -r ct2_requirements.txt")
    assert not srm.root.exists()


def test_the_generator_is_among_the_settings_of_a_run(srm: Runs) -> None:
    assert parse(srm.argv("--generator", "rows")).result_settings()["generator"] == "rows"
    assert RunFolder(parse(srm.argv())).path.name.endswith("functional_oarlks")
