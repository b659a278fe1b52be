"""The parity check passes on the shipped fixture and sees what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from srm_runs import FIXTURES

CHECK = FIXTURES.parent / "parity" / "check_srm.py"


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True, check=False)


def test_sequences_decisions_and_records_equal_the_published_ones() -> None:
    done = run(FIXTURES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("part", ["tokens", "example", "drawn", "decision", "record"])
def test_a_changed_fixture_is_seen(tmp_path: Path, part: str) -> None:
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
    assert run(tmp_path).returncode == 1
