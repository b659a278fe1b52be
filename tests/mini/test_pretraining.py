"""The pretrained language models of clove-mini: their text, their training, and what the committed weights know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmclvqa.clove.data_root import DISTILGPT2
from mmclvqa.clove.errors import DataError
from mmclvqa.mini import pretraining
from mmclvqa.mini.pretrained import write_pretrained
from mmclvqa.mini.scenes import Scene, named_random, sample_scenes, sample_text_scene


def test_the_text_has_no_question_and_differs_from_the_scenes_of_the_data() -> None:
    texts = list(pretraining.documents(pretraining.SEED, 400))
    assert len(set(texts)) > 380 and not any("?" in text for text in texts)
    shown = {", ".join(scene.items) for scene in sample_scenes(0, "train", 2000)}
    assert not shown & {text.partition(". ")[0] for text in texts}


@pytest.mark.parametrize("text", [False, True])
def test_statements_repeat_what_the_item_says(text: bool) -> None:
    scene: Scene = sample_text_scene(named_random(0, "x"), "0", "a") if text else sample_scenes(0, "x", 1)[0]
    for item in scene.items:
        words = set(item.replace("with [OCR] ", "").split())
        told = [set(said.rstrip(".").split()) for said in pretraining._statements_of(item, scene)]
        names = {thing.name for thing in scene.things}
        # A value may be given with the category of the object, which then is the subject.
        assert told and all(len(words - said) == 0 for said in told), (item, told)
        assert not any(name in said for said in told for name in names - words)


def test_the_committed_weights_are_small_and_know_what_follows_from_items(tmp_path: Path) -> None:
    assert pretraining.GPT2_WEIGHTS.stat().st_size <= 4 * 2**20
    loss = {}
    for pretrained in (False, True):
        root = tmp_path / str(pretrained)
        write_pretrained(root, seed=5, feature_dim=8, pretrained=pretrained)
        tokenizer = AutoTokenizer.from_pretrained(root / DISTILGPT2)
        model = AutoModelForCausalLM.from_pretrained(root / DISTILGPT2).eval()
        ids = tokenizer("red cup, kitchen, lemon left of chair. the color of the cup is", return_tensors="pt").input_ids
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0, -1].log_softmax(-1)
        loss[pretrained] = -scores[tokenizer(" red").input_ids[0]].item()
    assert loss[False] > 4 and loss[True] < 0.2


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "DOCUMENTS", 64)
    for name in ("a", "b"):
        pretraining.write_weights(tmp_path / name, updates=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(DataError, match=r"different vocabulary; run `python -m mmclvqa\.mini\.pretraining`"):
        pretraining.pretrained_weights(pretraining.GPT2_WEIGHTS, ["[PAD]", "red"])


def test_gpt2_has_the_committed_weights(tmp_path: Path) -> None:
    write_pretrained(tmp_path, seed=0, feature_dim=8)
    committed = load_file(pretraining.GPT2_WEIGHTS)
    written = load_file(tmp_path / DISTILGPT2 / "model.safetensors")
    assert committed and all(torch.equal(value.float(), written[name]) for name, value in committed.items())
