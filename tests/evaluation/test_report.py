"""The report: one page without external resources, whose figures are also described in text."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from worlds import Page, report, write_run, write_trained_run, write_training

from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.errors import DataError
from mmclvqa.clove.files import write_json
from mmclvqa.clove.records import new_record, save_records
from mmclvqa.clove.tasks import find_setting
from mmclvqa.evaluation import figures
from mmclvqa.evaluation.matrix import Mean, sweep_pairs
from mmclvqa.evaluation.report import PUBLISHED, published_comparisons
from mmclvqa.evaluation.report import main as report_command
from mmclvqa.evaluation.results import MultitaskResult, SweepResult
from mmclvqa.evaluation.runs import TrainingCurve, grouped_by_seed, read_all
from mmclvqa.methods import base

PNG = b"\x89PNG\r\n\x1a\n"
MARKUP = "<script>alert('x')</script>"
STATISTICS = {
    "prompts": 300,
    "accepted": 270,
    "acceptance": 0.9,
    "distinct_question_share": 0.375,
    "truth": {"true": 216, "false": 54, "not_a_question": 0, "share": 0.8},
}
LONG = "SRM (distilgpt2, 1.5 replays per real record, true scene graphs, no task token), oarlks"


def write_srm_run(root: Path, published: SweepResult) -> Path:
    """Write a run with the training of the first task and one replay file; returns ``val_<experiment>``."""
    save = str(root / experiments.SAVE)
    first, *_, last = published.tasks
    write_training(f"{experiments.stand_alone_folder('functional', save)}/{experiments.task_folder(first)}", 9.5)
    srm = root / experiments.srm_root("functional")
    folder = srm / experiments.srm_folder("distilgpt2", "functional", published.order)
    file = folder / experiments.replay_file(published.order, first, last)
    record = new_record() | {
        "question": f"what is this {MARKUP}?",
        "answer": "lamp",
        "answers": ["lamp"] * 10,
        "question_id": "1",
        "stage": "object_gen",
        "gt_scene_graph_seq": ["red lamp [SEP]", "lamp on table [SEP]"],
        "gt_scene_graph_mask": [1, 0],
        "pred_scene_graph_seq": ["red lamp [SEP]", "lamp on table [SEP]"],
    }
    save_records(file, [record])
    write_json(file.with_suffix(".json"), STATISTICS)
    return write_run(root, published)


@pytest.fixture(scope="module")
def srm_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on a run of SRM and one of fine-tuning."""
    reference = json.loads(PUBLISHED.read_text())["sweeps"][0]
    sweep = SweepResult("functional", "oarlks", reference["exp"], reference["matrix"], (3000.0,) * 6, data="CLOVE")
    root = tmp_path_factory.mktemp("srm")
    halved = {key: value / 2 for key, value in sweep.accuracies.items()}
    fine_tuned = dataclasses.replace(sweep, experiment="ft", accuracies=halved)
    report(root / "report", write_srm_run(root, sweep), write_run(root, fine_tuned))
    return root / "report"


@pytest.fixture(scope="module")
def page(srm_report: Path) -> Page:
    return Page(srm_report / "index.html")


def test_the_page_loads_nothing_and_describes_every_figure(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 7 == len(page.all("figcaption"))  # three of each run, and the comparison
    for image in images:
        head, _, data = image["src"].partition(",")
        assert head == "data:image/png;base64" and base64.b64decode(data).startswith(PNG)
        assert len(image["alt"]) > 40
    assert not page.all("script")
    assert all(tag["href"].startswith(("#", "data:")) for tag in [*page.all("link"), *page.all("a")])
    assert page.all("meta")[1] == {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert "@media print" in page.text


def test_the_images_are_also_written_beside_the_page(srm_report: Path, page: Page) -> None:
    files = [file.read_bytes() for file in srm_report.glob("*.png")]
    embedded = [base64.b64decode(image["src"].partition(",")[2]) for image in page.all("img")]
    assert sorted(files) == sorted(embedded)
    kinds = {file.stem.rpartition("_")[2] for file in srm_report.glob("*.png")}
    assert kinds == {"matrix", "course", "training", "comparison"}


def test_equal_numbers_give_equal_images(published: SweepResult) -> None:
    assert figures.course_figure("name", "label", published) == figures.course_figure("name", "label", published)


def test_the_numbers_are_in_tables(page: Page) -> None:
    assert "SRM (distilgpt2, 1.5 replays per real record), oarlks" in page.text
    for number in ("46.0", "12.0", "-12.0", "60.0"):
        assert f" {number} " in page.text
    assert "No validation results from training were found for: attribute" in page.text


def test_replays_are_shown_with_acceptance_and_truth(page: Page) -> None:
    assert "SRM was prompted 300 times; 270 replays were accepted (90.0 %)" in page.text
    assert "follows from the prompt's items in 80.0 %" in page.text
    assert "Statistics of 1 of 15 replay files were found." in page.text
    assert " red lamp " in page.text and " red lamp; lamp on table " in page.text and " lamp " in page.text


def test_markup_in_records_and_runs_is_escaped(page: Page, tmp_path: Path, published: SweepResult) -> None:
    assert not page.all("script") and "alert('x')" in page.text
    dataclasses.replace(published, experiment=MARKUP, data=MARKUP).write(tmp_path / "strange.json")
    strange = report(tmp_path / "out", tmp_path / "strange.json")
    assert not strange.all("script") and strange.text.count("alert('x')") >= 2
    assert all("<" not in file.name for file in (tmp_path / "out").iterdir())


def test_published_numbers_are_shown_beside_runs_of_the_same_order(published: SweepResult) -> None:
    other = dataclasses.replace(published, order="lkosra", weights=(1.0,) * 6)
    (comparison,) = published_comparisons([[published], [other]])
    assert len(comparison["columns"]) == 2 and "on CLOVE" in comparison["columns"][0]
    numbers = {what: [mean.value for mean in means] for what, means in comparison["rows"]}
    assert numbers["average accuracy"] == pytest.approx([0.45966666666666667] * 2)
    assert numbers["legacy forgetting"] == pytest.approx([0.27392] * 2)
    assert published_comparisons([[other]]) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "not published results"), ({"matrix": {"o2x": 0.5}}, "'o2x' is not a pair of tasks")],
)
def test_published_results_that_cannot_be_used_name_their_file(
    published: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str
) -> None:
    file = tmp_path / "own.json"
    if isinstance(content, dict):
        reference = json.loads(PUBLISHED.read_text())
        content = json.dumps(reference | {"sweeps": [reference["sweeps"][0] | content]})
    file.write_text(content)
    monkeypatch.setattr("mmclvqa.evaluation.report.PUBLISHED", file)
    with pytest.raises(DataError) as error:
        published_comparisons([[published]])
    assert str(error.value).startswith(f"{file}: ") and message in str(error.value)


def test_the_published_numbers_are_those_of_the_parity_fixture() -> None:
    reference = json.loads((Path(__file__).parents[1] / "fixtures" / "reference_results.json").read_text())
    (kept,) = json.loads(PUBLISHED.read_text())["sweeps"]
    assert kept == {key: reference[key] for key in kept}


def test_the_report_shows_the_metric_that_is_asked_for(
    published: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    halves = {key: value / 2 for key, value in published.accuracies.items()}
    run = write_run(tmp_path, dataclasses.replace(published, further={"half": halves}))
    bound = tmp_path / "multitask.json"
    MultitaskResult("functional", (0.8,) * 6, (3000.0,) * 6, further={"half": (0.4,) * 6}).write(bound)
    folders = [str(run), str(bound)]
    assert report_command([*folders, "--metric", "half", "--out", str(tmp_path / "half")]) == 0
    assert report_command([*folders, "--out", str(tmp_path / "whole")]) == 0
    half, whole = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("half", "whole"))
    for row, reference in zip(half, whole, strict=True):
        assert row["accuracy"] == pytest.approx(reference["accuracy"] / 2)
    assert half[0]["forgetting"] == pytest.approx(whole[0]["forgetting"] / 2)
    assert "Accuracy is half on val records" in Page(tmp_path / "half" / "index.html").text
    capsys.readouterr()
    assert report_command([*folders, "--metric", "halv", "--out", str(tmp_path / "none")]) == 1
    assert "has no metric halv, only textvqa_accuracy, half; did you mean half?" in capsys.readouterr().err


def test_an_incomplete_run_is_marked(published: SweepResult, tmp_path: Path) -> None:
    accuracies = {key: value for key, value in published.accuracies.items() if key[0] in "oa"}
    dataclasses.replace(published, accuracies=accuracies).write(tmp_path / "part.json")
    dataclasses.replace(published, accuracies={}).write(tmp_path / "none.json")
    page = report(tmp_path / "out", tmp_path / "part.json", tmp_path / "none.json")
    assert "This run is not complete" in page.text and "24 of 36 pairs were not evaluated" in page.text
    assert "Its metrics are those after 2 tasks." in page.text
    assert "36 of 36 pairs" in page.text
    for numbers in ("those after 2 of 6 tasks.", "not available."):
        assert f"this run is not complete; its numbers are {numbers}" in page.text
    assert not [image["alt"] for image in page.all("img") if " ," in image["alt"] or " ." in image["alt"]]


def test_single_task_models_have_one_figure(published: SweepResult, tmp_path: Path) -> None:
    dataclasses.replace(published, experiment="stand_alone", stand_alone=True).write(tmp_path / "alone.json")
    page = report(tmp_path / "out", tmp_path / "alone.json")
    assert len(page.all("img")) == 1 and "each model on its own task" in page.text


def test_the_scene_setting_has_a_page(tmp_path: Path) -> None:
    keys = [f"{a}#2{b}#" for a in "abcdef" for b in "abcdef"]
    scene = SweepResult("scene", "abcdef", "ft", dict.fromkeys(keys, 0.25), (30.0,) * 6)
    page = report(tmp_path / "out", write_run(tmp_path, scene))
    assert "a#ShopAndDining" in page.text and len(page.all("img")) == 2


def test_runs_and_bounds_share_one_table(
    published: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"kind": "chance", "cl_setting": "functional", "weighted_average_accuracy": 0.1}
    write_json(tmp_path / "chance.json", content | {"tasks": [{"name": "object", "accuracy": 0.1}]})
    fine_tuned = write_trained_run(tmp_path, published, "ft")
    ewc = write_trained_run(tmp_path, published, "ewc", own_first=True, records=0, bytes=9)
    out = tmp_path / "out"
    page = report(out, tmp_path / "chance.json", fine_tuned, ewc / "sweep.json")
    table = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in table[2:5]] == ["chance", "fine-tuning", "EWC"]
    assert " 46.0 " in table[3] and " -12.0 " in table[3] and table[-1] == f"report: {out / 'index.html'}"
    assert "Final accuracy on each task of the functional setting" in page.text
    assert [tag["href"] for tag in page.all("a")] == ["#functional_oarlks_ft", "#functional_oarlks_ewc"]
    comparison = next(image for image in page.all("img") if image["alt"].startswith("Bars"))
    assert "chance: accuracy 10.0, forgetting none" in comparison["alt"]
    rows = json.loads((out / "comparison.json").read_text())
    assert [row["accuracy"] for row in rows] == pytest.approx([0.1, 0.45966666, 0.45966666])
    assert rows[0]["forgetting"] is None and rows[1]["by_task"]["object"] == pytest.approx(0.2963)
    assert rows[2]["cost"] == {"records": 0, "bytes": 9, "seconds": 150.0, "everything": False}


def write_seeds(root: Path, published: SweepResult, experiment: str, **shifts: float) -> list[Path]:
    """Write a run for each seed, whose accuracies are the published ones times a factor; return their folders."""
    folders = []
    for seed, factor in shifts.items():
        accuracies = {key: value * factor for key, value in published.accuracies.items()}
        shifted = dataclasses.replace(published, accuracies=accuracies)
        folders.append(write_trained_run(root / seed, shifted, experiment))
    return folders


def test_runs_of_several_seeds_are_compared_by_mean_and_deviation(
    published: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    fine_tuned = write_seeds(root, published, "ft", seed_0=0.9, seed_1=1.0, seed_2=1.1)
    ewc = write_seeds(root, published, "ewc", seed_0=1.0)
    page = report(out, *fine_tuned, *ewc)
    rows = json.loads((out / "comparison.json").read_text())
    assert [(row["label"].split(", ", 1)[1], row["seeds"]) for row in rows] == [
        ("oarlks, 3 seeds", [0, 1, 2]),
        ("oarlks, seed 0", [0]),
    ]
    average, objects = 0.4596666666, published.accuracies["s2o"]
    assert rows[0]["accuracy"] == pytest.approx(average)
    assert rows[0]["by_task"]["object"] == pytest.approx(objects)
    assert rows[0]["deviations"]["accuracy"] == pytest.approx(0.1 * average)
    assert rows[0]["deviations"]["by_task"]["object"] == pytest.approx(0.1 * objects)
    assert rows[1]["deviations"]["accuracy"] is None
    assert rows[0]["cost"]["seconds"] == 150
    assert "46.0 ± 4.6" in capsys.readouterr().out
    assert page.text.count("46.0 ± 4.6") == 3, "in the summary, beside the published numbers and below the figure"
    assert page.text.count(f"{100 * objects:.1f} ± {10 * objects:.1f}") == 2
    assert "fine-tuning, oarlks, seed 2" in page.text and len(page.all("section")) == 4
    bars = next(image for image in page.all("img") if image["alt"].startswith("Bars"))
    assert "accuracy 46.0 ± 4.6" in bars["alt"] and "Error bars: standard deviation over seeds." in bars["alt"]


def test_error_bars_are_drawn() -> None:
    images = [
        matplotlib.image.imread(io.BytesIO(figures.comparison_figure(["a", "b"], [mean] * 2, [mean] * 2).png))
        for mean in (Mean(0.5), Mean(0.5, 0.0), Mean(0.5, 0.1))
    ]
    black = [int((image[:, :, :3] == 0).all(axis=2).sum()) for image in images]
    assert black[2] > black[1] > black[0]


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(published: SweepResult, tmp_path: Path) -> None:
    part = {key: value for key, value in published.accuracies.items() if key[0] in "oa"}
    one = write_seeds(tmp_path / "one", published, "ft", seed_0=1.0, seed_1=1.0)
    two = write_seeds(tmp_path / "two", published, "ft", seed_0=1.0)
    incomplete = dataclasses.replace(published, accuracies=part, experiment="ft")
    report(tmp_path / "out", *one, *two, write_run(tmp_path / "one/seed_2", incomplete), write_run(tmp_path, published))
    rows = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [row["seeds"] for row in rows] == [[0, 1], [0], [2], []]


def test_a_file_that_is_given_twice_is_not_another_seed(published: SweepResult, tmp_path: Path) -> None:
    (folder,) = write_seeds(tmp_path, published, "ft", seed_1=1.0)
    report(tmp_path / "out", folder, folder / "sweep.json")
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["seeds"] for row in rows] == [[1]]


def test_settings_with_the_same_task_order_are_not_averaged(published: SweepResult, tmp_path: Path) -> None:
    folders = []
    for name in ("first", "second"):
        file = tmp_path / f"{name}.yaml"
        file.write_text("tasks: [{name: a}, {name: b}]\n")
        values = dict.fromkeys((key for key, _, _ in sweep_pairs(find_setting(file).name, "ab")), 0.5)
        sweep = dataclasses.replace(published, setting=name, order="ab", accuracies=values, weights=(1.0, 1.0))
        folders += write_seeds(tmp_path, sweep, "ft", seed_0=1.0, seed_1=1.0)
    groups = grouped_by_seed(read_all(folders))
    assert [[entry.sweep.setting for entry in group] for group in groups] == [["first"] * 2, ["second"] * 2]


@pytest.mark.parametrize("label", ["SRM 1.5", LONG])
def test_nothing_is_cut_off_at_the_sides_of_a_figure(label: str, published: SweepResult) -> None:
    drawn = [
        figures.matrix_figure("name", label, published),
        figures.course_figure("name", label, published),
        figures.training_figure("name", label, [TrainingCurve("object", (100, 200), (0.5, 1.0), None)]),
        figures.training_figure("name", label, [TrainingCurve("object", (200,), (1.0,), None, {100: 3.0, 200: 0.1})]),
        figures.comparison_figure([label, "chance"], [Mean(0.9, 0.1), Mean(0.1)], [Mean(0.5, 0.2), Mean(math.nan)]),
    ]
    for figure in drawn:
        image = matplotlib.image.imread(io.BytesIO(figure.png))
        assert np.min(image[:, [0, 1, -2, -1], :3]) == 1, figure.title  # the outermost pixels are white


def test_the_module_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "--help"])
    monkeypatch.delitem(sys.modules, "mmclvqa.evaluation.report")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("mmclvqa.evaluation.report", run_name="__main__")
    assert stopped.value.code == 0 and "python -m mmclvqa.evaluation.report" in capsys.readouterr().out


def test_a_method_of_user_code_has_its_label(
    published: SweepResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_registered", dict(base._registered))
    page = Path(__file__).resolve().parents[2] / "docs/new_method.md"
    code = tmp_path / "labelled_l2.py"
    code.write_text(re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[1])
    run = write_run(tmp_path, dataclasses.replace(published, experiment="l2_weight_0.1"))
    assert report_command([str(run), "--out", str(tmp_path / "page"), "--user_dir", str(code)]) == 0
    assert "L2 (weight 0.1), oarlks" in capsys.readouterr().out


@pytest.mark.slow
def test_a_browser_shows_it_without_a_complaint(srm_report: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    image = tmp_path / "phone.png"
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=390,2000"]
    words += [f"--user-data-dir={tmp_path / 'browser'}", f"--screenshot={image}"]
    page = (srm_report / "index.html").as_uri()
    done = subprocess.run([browser, *words, page], capture_output=True, text=True, timeout=120, check=False)
    assert image.read_bytes().startswith(PNG)
    assert "CONSOLE" not in done.stderr
