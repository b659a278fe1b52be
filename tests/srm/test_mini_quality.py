"""Quality of the replays on clove-mini with the sizes of SRM/mini.args; every answer is verified."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from statistics import mean

import pytest

PROJECT = Path(__file__).resolve().parents[2]


FLAGS = {"abcdef": ("--n_train_epochs", "3"), "lkosra": ("--n_train_epochs", "4", "--tokens_weight", "2")}
"""Additional flags of task orders, as SRM/mini.args recommends."""


@pytest.fixture(scope="module")
def clove_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clove-mini")
    subprocess.run([sys.executable, "-m", "mmclvqa.clove", "mini", str(root)], cwd=PROJECT, check=True)
    return root


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "order"), [("functional", "oarlks"), ("functional", "lkosra"), ("scene", "abcdef")]
)
def test_replays_are_accepted_true_and_different(setting: str, order: str, clove_mini: Path, tmp_path: Path) -> None:
    command = [sys.executable, "SRM/train.py", "--cl_setting", setting, "--task_seq", order, "--add_task_tokens"]
    command += ["--model_dir_root", str(tmp_path), "--data_dir", str(clove_mini), "@SRM/mini.args"]
    command += FLAGS.get(order, ())
    subprocess.run(command, cwd=PROJECT, check=True)
    folder = tmp_path / "distilgpt2_replay" / f"distilgpt2_{setting}_{order}"
    quality = {}
    for past, current in combinations(order, 2):
        statistics = json.loads((folder / f"{order}_REPLAY[{past}]_AT[{current}].json").read_text())
        quality[past + current] = (
            statistics["acceptance"], statistics["truth"]["share"], statistics["distinct_question_share"],
        )  # fmt: skip
        assert (folder / f"{order}_REPLAY[{past}]_AT[{current}].npy").is_file()
    print(quality)
    assert len(quality) == 15
    acceptance, truth, distinct = (mean(values) for values in zip(*quality.values(), strict=True))
    assert acceptance >= 0.9 and truth >= 0.9, quality
    # A scene type has about 600 distinct prompts, and therefore few questions.
    assert distinct >= (0.25 if setting == "scene" else 0.3), quality
    # The first task's replays have been generated from replays most often.
    assert all(truth >= 0.7 for pair, (_, truth, _) in quality.items() if pair[0] == order[0]), quality
