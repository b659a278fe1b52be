"""What the demo shows, in its own sizes: replay keeps what fine-tuning forgets. Each takes a quarter of an hour."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clove-mini of the demo, made by the first that needs it."""
    return tmp_path_factory.mktemp("demo") / "clove-mini"


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "order", "seed"),
    [
        ("functional", "oarlks", ""),
        ("functional", "oarlks", "1"),
        ("functional", "oarlks", "2"),
        ("functional", "lkosra", ""),
        ("scene", "abcdef", ""),
    ],
)
def test_replay_keeps_what_fine_tuning_forgets(
    project: Path, programs: dict[str, str], world: Path, tmp_path: Path, setting: str, order: str, seed: str
) -> None:
    told = {"DEMO_SETTING": setting, "DEMO_ORDER": order, "SEED": seed}
    places = {"ROOT": str(tmp_path / "experiments"), "CLOVE_ROOT": str(world)}
    environment = {key: value for key, value in programs.items() if key != "OMP_NUM_THREADS"} | told | places
    done = subprocess.run(["bash", project / "run_scripts/demo.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    page = tmp_path / "experiments" / "report" / f"{setting}_{order}"
    fine_tuning, srm = json.loads((page / "comparison.json").read_text())
    assert srm["accuracy"] >= fine_tuning["accuracy"] + 0.15
    assert srm["forgetting"] <= fine_tuning["forgetting"] / 2
