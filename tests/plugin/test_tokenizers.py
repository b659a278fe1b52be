"""BERT's files: tokenizers are read without transformers, and a missing file is reported without delay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from mmclvqa.datasets.processors import SceneGraphBertTokenizer, _is_plain_bert
from mmclvqa.hub import hub_answers
from tests.plugin.conftest import OBJECT_TASK
from tests.run_fixtures import fresh_logging, one_line_error  # noqa: F401


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


TOKENIZER = "dataset_config.clvqa.processors.text_processor.params.tokenizer_config.type"


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize(
    ("key", "source", "parts"),
    [
        (TOKENIZER, "nobody/bert", ("processors.*.params.tokenizer_config.type=nobody/bert", "{root}/nobody/bert")),
        (TOKENIZER, "/nowhere/bert", ("tokenizer_config.type=/nowhere/bert: no folder /nowhere/bert exists",)),
        ("model_config.unicl.text_bert_source", "nobody/bert", ("text_bert_source: nobody/bert", "{root}")),
        ("model_config.unicl.text_bert_source", "/nowhere/bert", ("text_bert_source: /nowhere/bert",)),
    ],
)
def test_a_bert_that_cannot_be_had_is_named_without_waiting_for_a_connection(
    clove_mini: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool, key: str,
    source: str, parts: tuple[str, ...],
) -> None:  # fmt: skip
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    hub_answers.cache_clear()
    words = (f"env.clove_root={clove_mini}", f"env.save_dir={tmp_path}", "training.num_workers=0", f"{key}={source}")
    line = one_line_error([f"config={project / OBJECT_TASK}", "model=unicl", "dataset=clvqa", *words])
    for part in parts:
        assert part.format(root=clove_mini / "pretrained") in line
    assert not waits
