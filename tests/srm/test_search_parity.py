"""Beam search and optimizer equal the published code's, and the check sees what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from srm_runs import FIXTURES

FILE = FIXTURES / "srm_search_and_optimizer.json"
CHECK = FIXTURES.parent / "parity" / "check_srm_search.py"


def run(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, file], capture_output=True, text=True, check=False, timeout=300)


def test_searches_and_optimizer_steps_equal_the_published_ones() -> None:
    done = run(FILE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_changed_cases_and_steps_are_named(tmp_path: Path) -> None:
    fixture = json.loads(FILE.read_text())
    cases = fixture["beam_search"]["cases"]
    cases[4]["published"], cases[7]["generated_length"][0] = cases[4]["generated_length"], 3
    fixture["beam_search"]["cases"] = cases[:8]
    fixture["adamw"]["after_step_10"][1][0] += 3e-7
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(fixture))
    done = run(file)
    assert done.returncode == 1
    named = [line.partition(" prompts")[0].rpartition(",")[0] for line in done.stdout.splitlines()]
    assert set(named[:-1]) == {"case 4, published rule", "case 7, generated rule"}
    assert "optimizer, parameter 1 after step 10: differs by 2.98e-07" in done.stdout
