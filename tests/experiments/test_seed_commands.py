"""The seed document's two whole ``mmf_run`` commands, run as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mmclvqa import cli
from mmclvqa.clove import experiment_paths as places
from mmclvqa.clove.records import load_records, save_records
from mmclvqa.clove.tasks import parse_order, task

ORDER = parse_order("functional", "oarlks")
LEARNED = ORDER[1:3]
EXPERIMENT = "distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5"
TINY = {
    "max_updates": 4,
    "evaluation_interval": 4,
    "batch_size": 8,
    "num_workers": 0,
}


def text_of_the_seed(project: Path) -> str:
    """From the line that sets ROOT to the end of the second block; the third block is cut off in the document."""
    text = (project / "tests/fixtures/seed.txt").read_text()
    match = re.search(r"^ROOT=/Users/stan\nDEVICE=0\n(?:if .+?^fi\n){2}", text, re.MULTILINE | re.DOTALL)
    assert match
    return match[0]


def write_small_configurations(project: Path, folder: Path) -> None:
    """``EXP_CONFIG`` with the names of the real one: clove-mini's sizes, and few updates."""
    for learned in ORDER[:3]:
        name = f"functional/cl_{learned.name}_unicl_standalone.yaml"
        path = folder / "EXP_CONFIG" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"includes": [str(project / "EXP_CONFIG/mini" / name)], "training": TINY}))


def write_replays(data: Path, root: Path) -> None:
    """Replay files as SRM leaves them, made of real records."""
    folder = root / places.srm_root("functional") / places.srm_folder("distilgpt2", "functional", "oarlks")
    for number, current in enumerate(LEARNED, start=1):
        for past in ORDER[:number]:
            records = load_records(data / past.annotation_path("train"))[:16]
            generated = [record | {"stage": f"{past.name}_gen", "feature_path": None} for record in records]
            save_records(folder / places.replay_file("oarlks", past, current), generated)


@pytest.mark.slow
def test_the_seeds_own_commands_run_with_only_root_changed(
    project: Path, clove_mini: Path, programs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "experiments"
    write_small_configurations(project, tmp_path)
    write_replays(clove_mini, root)
    environment = programs | {"CLOVE_ROOT": str(clove_mini)}
    first = Path(places.stand_alone_folder("functional", str(root / places.SAVE)), places.task_folder(ORDER[0]))
    words = ["config=EXP_CONFIG/functional/cl_object_unicl_standalone.yaml", "model=unicl", "dataset=clvqa"]
    words += ["run_type=train", f"env.save_dir={first}"]
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("CLOVE_ROOT", str(clove_mini))
        cli.run(words)

    text = text_of_the_seed(project).replace("/Users/stan", str(root))
    done = subprocess.run(["bash", "-euc", text], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = places.run_folder("functional", "oarlks", EXPERIMENT, str(root / places.SAVE))
    for learned, before in zip(LEARNED, ("object", "attribute"), strict=True):
        folder = Path(run, places.task_folder(learned))
        assert Path(places.final_weights(str(folder))).is_file()
        assert json.loads((folder / "results.json").read_text())["run"]["training"]["updates"] == TINY["max_updates"]
        log = next((folder / "logs").iterdir()).read_text()
        assert f"unicl_{before}/unicl_final.pth" in log
        assert f"replays are added to 64 real records of {learned.name}" in log
        assert f"16 of {task('functional', before).name}" in log

    again = subprocess.run(["bash", "-euc", text], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and not again.stdout + again.stderr
