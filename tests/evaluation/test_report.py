"""The report: one page that stands alone, readable without its images."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmclvqa.clove import experiments as places
from mmclvqa.clove.annotations import new_record, save_records
from mmclvqa.clove.files import write_json
from mmclvqa.evaluation.outcome import Sweep, read_sweep
from mmclvqa.evaluation.published import PUBLISHED, published_comparisons
from mmclvqa.evaluation.report import main

PNG = b"\x89PNG\r\n\x1a\n"
EVIL = "<script>alert('x')</script>"
FIGURES = {
    "prompts": 300,
    "accepted": 270,
    "acceptance": 0.9,
    "distinct_question_share": 0.375,
    "truth": {"true": 216, "false": 54, "not_a_question": 0, "share": 0.8},
}


class Page(HTMLParser):
    """What a browser would load and show of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {' '.join(data.split())}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def srm(published: Sweep, tmp_path: Path) -> Path:
    """``val_<exp>`` of a run with SRM's replays: sweep, a training's results, replays with a sidecar."""
    save = tmp_path / places.SAVE
    write_run(save, published)
    first, *_, last = published.tasks
    alone = Path(places.stand_alone_folder(published.setting, str(save)), places.task_folder(first))
    entries = [
        {"update": update, "split": "val", "weights": "training", "metrics": {"textvqa_accuracy": accuracy}}
        for update, accuracy in ((500, 0.25), (1000, 0.5))
    ]
    write_json(alone / "results.json", {"run": {"training": {"seconds": 9.5}}, "evaluations": entries})
    replays = tmp_path / places.srm_root(published.setting)
    folder = replays / places.srm_folder("distilgpt2", published.setting, published.order)
    file = folder / places.replay_file(published.order, first, last)
    record = new_record() | {
        "question": f"what is this {EVIL}?",
        "answer": "lamp",
        "answers": ["lamp"] * 10,
        "question_id": "1",
        "stage": "object_gen",
        "gt_scene_graph_seq": ["red lamp [SEP]", "lamp on table [SEP]"],
        "gt_scene_graph_mask": [1, 0],
        "pred_scene_graph_seq": ["red lamp [SEP]", "lamp on table [SEP]"],
    }
    save_records(file, [record])
    write_json(file.with_suffix(".json"), FIGURES)
    return folder_of(save, published)


def folder_of(save: Path, sweep: Sweep) -> Path:
    return Path(places.run_folder(sweep.setting, sweep.order, f"val_{sweep.experiment}", str(save)))


def write_run(save: Path, sweep: Sweep) -> Path:
    sweep.write(folder_of(save, sweep) / "sweep.json")
    return folder_of(save, sweep)


def fine_tuned(published: Sweep, save: Path) -> Path:
    accuracies = {key: value / 2 for key, value in published.accuracies.items()}
    return write_run(save, dataclasses.replace(published, experiment="ft", accuracies=accuracies))


def report(tmp_path: Path, *runs: Path) -> Page:
    assert main([*map(str, runs), "--out", str(tmp_path / "out")]) == 0
    return Page(tmp_path / "out" / "index.html")


def test_the_page_loads_nothing_and_every_figure_is_said_in_words(srm: Path, published: Sweep, tmp_path: Path) -> None:
    page = report(tmp_path, srm, fine_tuned(published, tmp_path / places.SAVE))
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


def test_the_images_are_written_beside_the_page_and_are_the_same_again(srm: Path, tmp_path: Path) -> None:
    report(tmp_path, srm)
    files = {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.png")}
    assert {name.rpartition("_")[2] for name in files} == {"matrix.png", "course.png", "training.png"}
    assert all(content.startswith(PNG) for content in files.values())
    report(tmp_path, srm)
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "out").glob("*.png")}


def test_the_numbers_stand_in_tables(srm: Path, tmp_path: Path) -> None:
    text = report(tmp_path, srm).text
    assert "SRM (distilgpt2, 1.5 replays per real record), oarlks" in text
    for number in ("46.0", "12.0", "-12.0", "60.0"):
        assert f" {number} " in text
    assert "No evaluations made during training were found of: attribute" in text


def test_replays_are_shown_with_acceptance_and_truth(srm: Path, tmp_path: Path) -> None:
    text = report(tmp_path, srm).text
    assert "SRM was prompted 300 times; 270 replays were accepted (90.0 %)" in text
    assert "follows from the prompt's items in 80.0 %" in text
    assert "Figures of 1 of 15 replay files were found." in text
    assert " red lamp " in text and " red lamp; lamp on table " in text and " lamp " in text


def test_texts_of_records_and_runs_are_escaped(srm: Path, tmp_path: Path, published: Sweep) -> None:
    strange = dataclasses.replace(published, experiment=EVIL, data=EVIL)
    strange.write(tmp_path / "strange.json")
    page = report(tmp_path, srm, tmp_path / "strange.json")
    assert not page.all("script") and page.text.count("alert('x')") >= 3
    assert all("<" not in file.name for file in (tmp_path / "out").iterdir())


def test_published_numbers_stand_beside_ours_where_the_order_is_theirs(srm: Path, published: Sweep) -> None:
    other = dataclasses.replace(published, order="lkosra", weights=(1.0,) * 6)
    runs = [read_sweep(srm), other]
    (comparison,) = published_comparisons(runs)
    assert len(comparison.columns) == 2 and "on CLOVE" in comparison.columns[0]
    numbers = dict(comparison.rows)
    assert numbers["average accuracy"] == pytest.approx([0.45966666666666667] * 2)
    assert numbers["legacy forgetting"] == pytest.approx([0.27392] * 2)
    assert published_comparisons(runs[1:]) == []


def test_the_published_numbers_are_the_reference() -> None:
    reference = json.loads((Path(__file__).parents[1] / "fixtures" / "reference_results.json").read_text())
    (kept,) = json.loads(PUBLISHED.read_text())["sweeps"]
    assert kept == {key: reference[key] for key in kept}


def test_a_run_that_is_not_complete_says_so(published: Sweep, tmp_path: Path) -> None:
    accuracies = {key: value for key, value in published.accuracies.items() if key[0] in "oa"}
    dataclasses.replace(published, accuracies=accuracies).write(tmp_path / "part.json")
    text = report(tmp_path, tmp_path / "part.json").text
    assert "This run is not complete" in text and "24 of 36 pairs were not evaluated" in text
    assert "Its numbers are those after 2 tasks." in text
    dataclasses.replace(published, accuracies={}).write(tmp_path / "part.json")
    assert "36 of 36 pairs" in report(tmp_path, tmp_path / "part.json").text


def test_stand_alone_models_have_no_forgetting(published: Sweep, tmp_path: Path) -> None:
    alone = dataclasses.replace(published, experiment="stand_alone", stand_alone=True)
    alone.write(tmp_path / "alone.json")
    page = report(tmp_path, tmp_path / "alone.json")
    assert len(page.all("img")) == 1 and "each model on its own task" in page.text


def test_the_scene_setting_has_a_page(published: Sweep, tmp_path: Path) -> None:
    keys = [f"{a}#2{b}#" for a in "abcdef" for b in "abcdef"]
    scene = Sweep("scene", "abcdef", "ft", dict.fromkeys(keys, 0.25), (30.0,) * 6)
    page = report(tmp_path, write_run(tmp_path / places.SAVE, scene))
    assert "a#ShopAndDining" in page.text and len(page.all("img")) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "no result of a sweep"),
        ("[1]", "no result of a sweep"),
        ('{"cl_setting": "functional"}', "it has no 'task_order'"),
        ({"matrix": {"x2y": 0.5}}, "'x2y' is no pair"),
        ({"matrix": {"o2o": 7}}, "no number from 0 to 1"),
        ({"weights": [1, 2]}, "'weights'"),
        ({"task_order": "oar"}, "is missing"),
    ],
)
def test_a_file_that_is_no_sweep_is_one_line(
    published: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, message: str
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


def test_a_sweep_is_read_back_as_it_was(published: Sweep, tmp_path: Path) -> None:
    published.write(tmp_path / "sweep.json")
    assert read_sweep(tmp_path) == published


def test_the_module_is_a_command(published: Sweep, tmp_path: Path, project: Path) -> None:
    published.write(tmp_path / "sweep.json")
    words = [sys.executable, "-m", "mmclvqa.evaluation.report", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=True)
    assert "46.0" in done.stdout and f"page: {tmp_path / 'out' / 'index.html'}" in done.stdout
    assert not done.stderr


@pytest.mark.slow
def test_a_browser_shows_it_without_a_complaint(srm: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    report(tmp_path, srm)
    image = tmp_path / "phone.png"
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=390,2000"]
    words += [f"--user-data-dir={tmp_path / 'browser'}", f"--screenshot={image}"]
    page = (tmp_path / "out" / "index.html").as_uri()
    done = subprocess.run([browser, *words, page], capture_output=True, text=True, timeout=120)
    assert image.read_bytes().startswith(PNG)
    assert "CONSOLE" not in done.stderr
