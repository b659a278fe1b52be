"""The published prompts of the scene setting, 20000 per task, are read, sampled and generated from at full size."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from srm_runs import Runs, read_json

from mmclvqa.clove.records import load_records
from mmclvqa.clove.tasks import tasks
from SRM.data import choose_prompts, read_prompts
from SRM.settings import parse

PUBLISHED = "stage_sg_scene_setting_50u-50c.json"


def test_15000_of_the_20000_are_drawn_anew_for_each_file(shared_data: Path, srm: Runs) -> None:
    shutil.copy(shared_data / PUBLISHED, srm.data / "scene_graph_prompts" / "scene.json")
    settings = parse(
        ["--cl_setting", "scene", "--task_seq", "abcdef", "--model_dir_root", str(srm.root)]
        + ["--data_dir", str(srm.data)]
    )
    a, b, c = list(tasks("scene").values())[:3]
    prompts = read_prompts(settings, a, [])
    assert len(prompts.items) == 20000
    chosen = choose_prompts(settings, prompts, a, b)
    assert len(chosen) == 15000 and all(len(prompt) == 1 for prompt in chosen)
    assert chosen == choose_prompts(settings, prompts, a, b) != choose_prompts(settings, prompts, a, c)


@pytest.mark.long
def test_all_replay_files_are_written_at_full_size(shared_data: Path, srm: Runs) -> None:
    shutil.copy(shared_data / PUBLISHED, srm.data / "scene_graph_prompts" / "scene.json")
    flags = ("--n_train_epochs", "40", "--n_prompts", "15000", "--n_replay", "50")
    folder = srm(*flags, setting="scene", order="abcdef")
    for path in folder.glob("*_REPLAY[[]*.json"):
        figures = read_json(path)
        assert figures["prompts"] == 15000
        assert len(load_records(path.with_suffix(".npy"))) == figures["accepted"]
