"""The table of methods: what each keeps of the past, how long it trained, and the bounds beside them; issue 4."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_report import Page, write_run

from mmclvqa.clove import experiments as places
from mmclvqa.clove.files import write_json
from mmclvqa.evaluation.comparison import row_of
from mmclvqa.evaluation.cost import Cost, srm_seconds
from mmclvqa.evaluation.history import method_name, short_name
from mmclvqa.evaluation.outcome import Multitask, Sweep
from mmclvqa.evaluation.report import main
from mmclvqa.evaluation.runs import read_bound, read_run

LOG = """\
2026-11-24 10:00:00,000 SRM --cl_setting functional
2026-11-24 10:00:01,500 cpu, 1 process(es), no
Traceback of something
2026-11-24 10:01:00,500 task object: learned
2026-11-24 12:00:00,000 SRM --cl_setting functional
2026-11-24 12:00:30,250 done
"""


def train(folder: str, seconds: float, stored: dict[str, Any] | None = None) -> None:
    """What a training leaves in its folder."""
    entry = {"update": 9, "split": "val", "weights": "training", "metrics": {"textvqa_accuracy": 0.5}}
    write_json(Path(folder, "results.json"), {"run": {"training": {"seconds": seconds}}, "evaluations": [entry]})
    if stored:
        write_json(Path(folder, "stored.json"), stored)


def learned(root: Path, published: Sweep, experiment: str, own_first: bool = False, **stored: Any) -> Path:
    """A run whose first task took 100 s and the others 10 s each."""
    sweep = dataclasses.replace(published, experiment=experiment)
    save = str(root / places.SAVE)
    alone, run = (
        places.stand_alone_folder(sweep.setting, save),
        places.run_folder(sweep.setting, sweep.order, experiment, save),
    )
    for number, task in enumerate(sweep.tasks):
        where = run if number or own_first else alone
        train(f"{where}/{places.task_folder(task)}", 10.0 if number else 100.0, stored if number or own_first else None)
    return write_run(root / places.SAVE, sweep)


@pytest.fixture
def chance_file(tmp_path: Path) -> Path:
    path = tmp_path / "chance.json"
    by_task = [{"name": name, "answer": "lamp", "accuracy": 0.1} for name in ("object", "attribute")]
    content = {"kind": "chance", "cl_setting": "functional", "tasks": by_task, "weighted_average_accuracy": 0.1}
    write_json(path, content)
    return path


@pytest.fixture
def multitask_file(tmp_path: Path) -> Path:
    folder = places.multitask_folder("functional", str(tmp_path / places.SAVE))
    train(folder, 250.0)
    file = Path(folder).parent / f"val_{Path(folder).name}" / "sweep.json"
    Multitask("functional", (0.8,) * 6, (3000.0,) * 6).write(file)
    return file


def test_fine_tuning_keeps_nothing_and_its_time_is_that_of_all_tasks(published: Sweep, tmp_path: Path) -> None:
    assert read_run(learned(tmp_path, published, "ft")).cost == Cost(0, 0, 150.0)


def test_a_method_keeps_what_its_last_training_says(published: Sweep, tmp_path: Path) -> None:
    folder = learned(tmp_path, published, "rnd_replay_0.1", records=2000, bytes=123_456_789, what="records")
    row = row_of(read_run(folder))
    assert row.cost == Cost(2000, 123_456_789, 150.0)
    assert row.cells()[-3:] == ["2000", "123.46", "0:02:30"]


def test_a_method_that_trains_the_first_task_itself_counts_that_one(published: Sweep, tmp_path: Path) -> None:
    learned(tmp_path, published, "ft")
    folder = learned(tmp_path, published, "ewc", own_first=True, records=0, bytes=5, what="importances")
    alone = Path(places.stand_alone_folder("functional", str(tmp_path / places.SAVE)), "unicl_object")
    train(str(alone), 1e6)
    assert read_run(folder).cost == Cost(0, 5, 150.0)


def test_srm_keeps_its_language_model_and_prompts_and_its_time_counts(
    published: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = learned(tmp_path, published, published.experiment)
    srm = tmp_path / places.srm_root("functional") / places.srm_folder("distilgpt2", "functional", published.order)
    for task in ("knowledge", "scenetext"):
        model = srm / "models" / task
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(b"m" * 700)
        (model / "config.json").write_bytes(b"c" * 77)
    (srm / "log_train.txt").write_text(LOG)
    prompts = tmp_path / "data/scene_graph_prompts/functional.json"
    prompts.parent.mkdir(parents=True)
    prompts.write_bytes(b"p" * 3000)
    monkeypatch.setenv("CLOVE_ROOT", str(tmp_path / "data"))
    assert read_run(folder).cost == Cost(0, 3777, 150.0 + 90.75)
    monkeypatch.setenv("CLOVE_ROOT", str(tmp_path / "nowhere"))
    assert read_run(folder).cost.bytes is None


def test_srms_time_is_that_of_all_its_starts(tmp_path: Path) -> None:
    assert srm_seconds(tmp_path / "log_train.txt") is None
    (tmp_path / "log_train.txt").write_text("nothing with a time\n")
    assert srm_seconds(tmp_path / "log_train.txt") is None
    (tmp_path / "log_train.txt").write_text(LOG)
    assert srm_seconds(tmp_path / "log_train.txt") == 60.5 + 30.25


def test_what_is_not_known_is_not_guessed(published: Sweep, tmp_path: Path) -> None:
    sweep = dataclasses.replace(published, experiment="mas")
    row = row_of(read_run(write_run(tmp_path / places.SAVE, sweep)))
    assert row.cost == Cost(None, None, None)
    assert row.cells()[-3:] == ["–", "–", "–"]


def test_bounds_stand_in_the_table_without_transfer_or_forgetting(chance_file: Path, multitask_file: Path) -> None:
    chance, multitask = read_bound(chance_file), read_bound(multitask_file)
    assert chance is not None and multitask is not None
    cells = row_of(chance).cells()
    assert cells == ["chance, functional setting", "10.0", "–", "–", "0", "0.00", "0:00:00"]
    cells = row_of(multitask).cells()
    assert cells == ["multitask, functional setting", "80.0", "–", "–", "all", "all", "0:04:10"]


def test_all_land_in_one_table_and_one_page(
    published: Sweep, tmp_path: Path, chance_file: Path, multitask_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ft, ewc = (
        learned(tmp_path, published, "ft"),
        learned(tmp_path, published, "ewc", own_first=True, records=0, bytes=9),
    )
    out = tmp_path / "out"
    assert main([*map(str, (chance_file, ft, ewc / "sweep.json", multitask_file)), "--out", str(out)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in table[2:6]] == ["chance", "fine-tuning", "EWC", "multitask"]
    assert " 46.0 " in table[3] and " -12.0 " in table[3]
    page = Page(out / "index.html")
    assert "Final accuracy on each task of the functional setting" in page.text
    assert [tag["href"] for tag in page.all("a")] == ["#functional_oarlks_ft", "#functional_oarlks_ewc"]
    comparison = next(image for image in page.all("img") if image["alt"].startswith("Bars"))
    assert "chance: accuracy 10.0, forgetting none" in comparison["alt"]
    rows = json.loads((out / "comparison.json").read_text())
    assert [row["accuracy"] for row in rows] == pytest.approx([0.1, 0.45966666, 0.45966666, 0.8])
    assert rows[0]["forgetting"] is None and rows[1]["by_task"]["object"] == pytest.approx(0.2963)
    assert rows[2]["cost"] == {"records": 0, "bytes": 9, "seconds": 150.0, "everything": False}
    assert rows[3]["cost"]["everything"] is True


@pytest.mark.parametrize("kind", ["chance", "multitask"])
def test_a_damaged_bound_is_one_line(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bound.json"
    write_json(path, {"kind": kind, "cl_setting": "functional"})
    assert main([str(path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: is no result of `eval_os.py {kind}`") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("experiment", "name", "short"),
    [
        ("ewc", "EWC", "EWC"),
        ("agem", "A-GEM", "A-GEM"),
        ("rnd_replay_0.1", "random replay (0.1)", "random replay (0.1)"),
        ("maskimg_rnd_replay_0.02", "random replay (0.02, images withheld)", "random replay (0.02, images withheld)"),
        ("gtsg_rnd_replay_0.02", "random replay (0.02, true scene graphs)", "random replay (0.02, true scene graphs)"),
        ("kmeans_replay_0.02", "k-means replay (0.02)", "k-means replay (0.02)"),
        ("my_own", "my_own", "my_own"),
    ],
)
def test_methods_have_names_for_people(experiment: str, name: str, short: str) -> None:
    assert (method_name(experiment), short_name(experiment)) == (name, short)


def test_stand_alone_models_have_no_transfer(published: Sweep, tmp_path: Path) -> None:
    alone = dataclasses.replace(published, experiment="stand_alone", stand_alone=True)
    alone.write(tmp_path / "alone.json")
    row = row_of(read_run(tmp_path / "alone.json"))
    assert math.isnan(row.forgetting) and row.by_task["object"] == published.accuracies["o2o"]
