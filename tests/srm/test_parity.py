"""Sequences, records, searches and optimizer steps equal the published ones, and the checks report differences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from srm_runs import FIXTURES

from tests.parity import check_srm, check_srm_search

SEARCH = FIXTURES / "srm_search_and_optimizer.json"


def test_sequences_decisions_and_records_equal_the_published_ones() -> None:
    assert not list(check_srm.check(FIXTURES))


@pytest.mark.parametrize("part", ["tokens", "example", "drawn", "decision", "record"])
def test_a_changed_sequence_decision_or_record_is_reported(tmp_path: Path, part: str) -> None:
    fixture = json.loads((FIXTURES / "srm.json").read_text())
    if part == "tokens":
        fixture["token_ids"]["ans_token"] += 1
    elif part == "example":
        next(e for e in fixture["examples"] if e["deterministic"])["expect"]["gen_Y"][3] += 1
    elif part == "drawn":
        next(e for e in fixture["examples"] if not e["deterministic"])["expect"]["gen_X"][1] += 1
    elif part == "decision":
        fixture["generations"][0]["accepted"] = False
    else:
        next(v for k, v in fixture["generations"][0].items() if k.startswith("record"))["answer"] = "blue"
    shutil.copytree(FIXTURES / "tiny_gpt2", tmp_path / "tiny_gpt2")
    (tmp_path / "srm.json").write_text(json.dumps(fixture))
    assert list(check_srm.check(tmp_path))


def test_searches_and_optimizer_steps_equal_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_srm_search, "PROMPTS_AT_A_TIME", (3, 64))
    assert not list(check_srm_search.check(SEARCH))


def test_changed_searches_and_steps_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_srm_search, "PROMPTS_AT_A_TIME", (64,))
    fixture = json.loads(SEARCH.read_text())
    cases = fixture["beam_search"]["cases"]
    cases[4]["published"], cases[7]["generated_length"][0] = cases[4]["generated_length"], 3
    fixture["beam_search"]["cases"] = cases[:8]
    fixture["adamw"]["after_step_10"][1][0] += 3e-7
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(fixture))
    *searches, step = check_srm_search.check(file)
    assert {line.partition(" prompts")[0].rpartition(",")[0] for line in searches} == {
        "case 4, published rule",
        "case 7, generated rule",
    }
    assert step == "optimizer, parameter 1 after step 10: differs by 2.98e-07"
