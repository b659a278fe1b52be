"""Reading runs and bounds: what a method stores, how long it trained, and files that are not results."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from worlds import write_run, write_trained_run, write_training

from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import write_json
from mmclvqa.evaluation.report import comparison_row, main
from mmclvqa.evaluation.results import MultitaskResult, SweepResult, read_sweep
from mmclvqa.evaluation.runs import Cost, method_label, read_bound, read_run, srm_seconds

LOG = """\
2026-11-24 10:00:00,000 SRM --cl_setting functional
2026-11-24 10:00:01,500 cpu, 1 process(es), no
Traceback of something
2026-11-24 10:01:00,500 task object: learned
2026-11-24 12:00:00,000 SRM --cl_setting functional
2026-11-24 12:00:30,250 done
"""


def test_fine_tuning_stores_nothing_and_its_time_is_that_of_all_tasks(published: SweepResult, tmp_path: Path) -> None:
    assert read_run(write_trained_run(tmp_path, published, "ft")).cost == Cost(0, 0, 150.0)


def test_a_method_stores_what_its_last_training_reports(published: SweepResult, tmp_path: Path) -> None:
    folder = write_trained_run(tmp_path, published, "rnd_replay_0.1", records=2000, bytes=123_456_789, what="records")
    row = comparison_row(read_run(folder))
    assert row.cost == Cost(2000, 123_456_789, 150.0)
    assert row.cells()[-3:] == ["2000", "123.46", "0:02:30"]


def test_the_time_of_a_method_that_trains_the_first_task_itself_includes_that_training(
    published: SweepResult, tmp_path: Path
) -> None:
    folder = write_trained_run(tmp_path, published, "ewc", own_first=True, records=0, bytes=5, what="importances")
    save = str(tmp_path / experiments.SAVE)
    write_training(f"{experiments.stand_alone_folder('functional', save)}/unicl_object", 1e6)
    assert read_run(folder).cost == Cost(0, 5, 150.0)


def test_srm_stores_its_language_model_and_prompts_and_its_own_time_counts(
    published: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_trained_run(tmp_path, published, published.experiment)
    srm_root = tmp_path / experiments.srm_root("functional")
    srm = srm_root / experiments.srm_folder("distilgpt2", "functional", published.order)
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


def test_the_time_of_srm_is_the_sum_over_its_starts(tmp_path: Path) -> None:
    assert srm_seconds(tmp_path / "log_train.txt") is None
    (tmp_path / "log_train.txt").write_text("nothing with a time\n")
    assert srm_seconds(tmp_path / "log_train.txt") is None
    (tmp_path / "log_train.txt").write_text(LOG)
    assert srm_seconds(tmp_path / "log_train.txt") == 60.5 + 30.25


def test_a_cost_that_is_not_available_is_a_dash(published: SweepResult, tmp_path: Path) -> None:
    row = comparison_row(read_run(write_run(tmp_path, dataclasses.replace(published, experiment="mas"))))
    assert row.cost == Cost(None, None, None)
    assert row.cells()[-3:] == ["–", "–", "–"]


def test_bounds_have_no_transfer_or_forgetting(tmp_path: Path) -> None:
    by_task = [{"name": name, "answer": "lamp", "accuracy": 0.1} for name in ("object", "attribute")]
    content = {"kind": "chance", "cl_setting": "functional", "tasks": by_task, "weighted_average_accuracy": 0.1}
    write_json(tmp_path / "chance.json", content)
    folder = Path(experiments.multitask_folder("functional", str(tmp_path / experiments.SAVE)))
    write_training(folder, 250.0)
    file = folder.with_name(f"val_{folder.name}") / "sweep.json"
    MultitaskResult("functional", (0.8,) * 6, (3000.0,) * 6).write(file)
    assert read_bound(file.parent) == read_bound(file)
    rows = [comparison_row(read_bound(path)).cells() for path in (tmp_path / "chance.json", file)]
    assert rows[0] == ["chance, functional setting", "10.0", "–", "–", "0", "0.00", "0:00:00"]
    assert rows[1] == ["multitask, functional setting", "80.0", "–", "–", "all", "all", "0:04:10"]


def test_single_task_models_have_no_transfer(published: SweepResult, tmp_path: Path) -> None:
    dataclasses.replace(published, experiment="stand_alone", stand_alone=True).write(tmp_path / "alone.json")
    row = comparison_row(read_run(tmp_path / "alone.json"))
    assert math.isnan(row.forgetting.value) and row.by_task["object"].value == published.accuracies["o2o"]


@pytest.mark.parametrize(
    ("experiment", "label", "short"),
    [
        ("ewc", "EWC", "EWC"),
        ("rnd_replay_0.1", "random replay (0.1)", "random replay (0.1)"),
        ("kmeans_replay_0.02", "k-means replay (0.02)", "k-means replay (0.02)"),
        (
            "distilgpt2_replay_qag_seq_not_use_gt_task_token_1.5",
            "SRM (distilgpt2, 1.5 replays per real record)",
            "SRM 1.5",
        ),
        ("my_own", "my_own", "my_own"),
    ],
)
def test_methods_have_labels(experiment: str, label: str, short: str) -> None:
    assert (method_label(experiment), method_label(experiment, short=True)) == (label, short)


def test_a_sweep_is_read_back_as_it_was(published: SweepResult, tmp_path: Path) -> None:
    published.write(tmp_path / "sweep.json")
    assert read_sweep(tmp_path) == published


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("ft", "order/ft/sweep.json: no such file; did you mean val_ft?"),
        ("val_fft", "order/val_fft: no such file or folder; did you mean val_ft?"),
        ("val_ftt/sweep.json", "order/val_ftt/sweep.json: no such file; did you mean val_ft?"),
        ("", "order/sweep.json: no such file; did you mean val_ewc_1e5 or val_ft?"),
        ("srm", "order/srm: no such file or folder; `python eval_os.py sweep` writes one"),
    ],
)
def test_a_mistyped_result_is_named(published: SweepResult, tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "order/ft").mkdir(parents=True)
    for experiment in ("ft", "ewc_1e5"):
        published.write(tmp_path / f"order/val_{experiment}/sweep.json")
    with pytest.raises(DataError) as error:
        read_sweep(tmp_path / "order" / path)
    assert str(error.value) == f"{tmp_path}/{message}"


@pytest.mark.parametrize("content", ["", '{"run": {', "[]"])
def test_damaged_results_of_a_training_are_named(
    published: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    folder = write_trained_run(tmp_path, published, "ft")
    damaged = folder.with_name("ft") / "unicl_logical/results.json"
    damaged.write_text(content)
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {damaged}: is empty or damaged (") and line.endswith("restore it or train again")
    assert f"{damaged}: is empty or damaged" in (tmp_path / "out/index.html").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "is empty; delete it and run `python eval_os.py`, which writes it again"),
        ("{", "; correct the path, or delete it and run `python eval_os.py`, which writes it again"),
        ("[1]", "not a valid result of a sweep"),
        ('{"cl_setting": "functional"}', "it has no 'task_order'"),
        ({"matrix": {"x2y": 0.5}}, "'x2y' is not a pair"),
        ({"matrix": {"o2o": 7}}, "not a number from 0 to 1"),
        ({"weights": [1, 2]}, "'weights'"),
        ({"task_order": "oar"}, "l, k, s are missing"),
        ({"kind": "chance"}, "not a valid result of `eval_os.py chance`"),
        ({"kind": "multitask"}, "not a valid result of `eval_os.py multitask`"),
    ],
)
def test_a_file_that_is_not_a_result_is_one_line(
    published: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, message: str
) -> None:
    path = tmp_path / "sweep.json"
    if isinstance(content, dict):
        content = json.dumps(published.as_json() | content)
    if content is not None:
        path.write_text(content)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert str(path) in error
    assert not (tmp_path / "out").exists()
