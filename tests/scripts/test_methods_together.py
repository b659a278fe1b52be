"""Methods by their scripts, really run, in sizes that take minutes: issue 4."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

TRAINING = {"max_updates": 2, "evaluation_interval": 2, "batch_size": 8, "num_workers": 0}
METHODS = "chance ft ewc agem maskimg_rnd_replay_0.02 rnd_replay_0.1 kmeans_replay_0.02 multitask"
TRAIN = 300


@pytest.mark.long
def test_methods_of_every_kind_land_in_one_table(project: Path, programs: dict[str, str], tmp_path: Path) -> None:
    told = {
        "CONFIG": "EXP_CONFIG/mini",
        "METHODS": METHODS,
        "MINI_ARGS": f"--train {TRAIN} --val 16",
        "MMF_ARGS": " ".join(f"training.{key}={value}" for key, value in TRAINING.items()),
        "ROOT": str(tmp_path / "experiments"),
        "CLOVE_ROOT": str(tmp_path / "clove-mini"),
    }
    script = ["bash", str(project / "run_scripts/compare.sh")]
    done = subprocess.run(script, env=programs | told, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads((tmp_path / "experiments/report/functional_oarlks/comparison.json").read_text())
    assert len(rows) == len(METHODS.split())
    chance, ft, ewc, agem, masked, replay, kmeans, multitask = (row["cost"] for row in rows)
    assert all(row["cost"]["seconds"] is not None for row in rows)
    assert (chance["records"], chance["bytes"], ft["records"], ft["bytes"]) == (0, 0, 0, 0)
    assert ewc["records"] == 0 < ewc["bytes"]
    # The ceiling rule: before the last task each of the five before it has ceil(rate * n / 5) records.
    assert agem["records"] == replay["records"] == 5 * -(-TRAIN // 50)
    assert masked["records"] == 5 * -(-TRAIN // 250)
    assert kmeans["records"] <= TRAIN * 2 // 100
    assert 0 < masked["bytes"] < replay["bytes"]
    assert multitask["everything"]
