"""The BERT tokenizers of the data set, which are read without transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from mmclvqa.datasets.processors import SceneGraphBertTokenizer, _is_plain_bert


@pytest.mark.parametrize("plain", [True, False])
def test_the_tokenizer_gives_the_ids_of_transformers(clove_mini: Path, tmp_path: Path, plain: bool) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(clove_mini / "pretrained" / "bert-base-uncased", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if not plain:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"strip_accents": False}))
    assert _is_plain_bert(folder) == plain
    processor = SceneGraphBertTokenizer(
        OmegaConf.create({
            "max_seq_length": 12, "tokenizer_config": {"type": str(folder), "params": {"do_lower_case": True}}
        })
    )  # fmt: skip
    reference = AutoTokenizer.from_pretrained(folder, do_lower_case=True)
    reference.add_special_tokens({"additional_special_tokens": ["[OCR]"]})
    texts = ["What is LEFT of the red-ish Zebra?", "red cup [SEP] bleu café [OCR] 日本 [SEP]", "", "a " * 30]
    for text in texts:
        expected = reference(text, max_length=12, truncation=True, padding="max_length")["input_ids"]
        assert processor({"text": text})["input_ids"].tolist() == expected
