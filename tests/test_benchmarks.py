"""The benchmarks run on the CPU with tiny sizes and report failures."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import gpu, suite
from tests.run_fixtures import one_thread  # noqa: F401


def run_gpu(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words)])
    return gpu.main()


@pytest.mark.slow
def test_the_gpu_benchmark_runs_every_section_on_the_cpu_with_tiny_sizes(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    assert run_gpu(monkeypatch, "--out", out, "--device", "cpu", "--size", "tiny") == 0
    results = json.loads(out.read_text())
    assert results["failed"] == []
    assert all(results[name]["ok"] for name in gpu.SECTIONS if "parity" in name)
    for name in gpu.AIMS:
        assert results[name]["ratio"] == pytest.approx(results[name]["ours"] / results[name]["plain"])
        assert results[name]["activity"]["operators"] > 0
    assert results["univqa_training"]["share_of_matrix_rate"] > 0


def test_a_section_that_fails_is_recorded_and_the_others_still_run(tmp_path, monkeypatch, capsys):
    def broken(device, scale):
        raise ValueError("no kernel")

    monkeypatch.setitem(gpu.SECTIONS, "srm_training", broken)
    out = tmp_path / "gpu.json"
    only = ["--only", "srm_training", "matrices"]
    assert run_gpu(monkeypatch, "--out", out, "--device", "cpu", "--size", "tiny", *only) == 1
    results = json.loads(out.read_text())
    assert results["failed"] == ["srm_training"]
    assert results["srm_training"]["error"] == "ValueError: no kernel"
    assert results["matrices"]["bf16_tflops"] > 0
    assert "error: ValueError: no kernel" in capsys.readouterr().out


def test_a_section_that_would_start_too_late_counts_as_failed(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--size", "tiny", "--only", "matrices", "--limit", "-1"]
    assert run_gpu(monkeypatch, "--out", out, *words) == 1
    assert json.loads(out.read_text())["matrices"]["error"].startswith("not run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path, monkeypatch, capsys):
    assert run_gpu(monkeypatch, "--out", tmp_path / "gpu.json") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "gpu.json").exists()


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    def run(size):
        if size > 3:
            raise torch.OutOfMemoryError("too large")

    assert gpu.fitting(run, 16) == 2


@pytest.mark.parametrize(("references", "code"), [((1e6, 1e6), 1), ((0.01, 1e6), 1), ((0.01, 0.01), 0)])
def test_a_ratio_far_below_its_reference_fails(tmp_path, monkeypatch, capsys, references, code):
    reference = tmp_path / "reference.json"
    names = ("UniVQA greedy decoding", "UniVQA training step")
    reference.write_text(json.dumps(dict(zip(names, references, strict=True))))
    monkeypatch.setattr(suite, "REPEATS", 1)
    assert suite.main(["--only", "univqa", "--size", "tiny", "--reference", str(reference)]) == code
    assert capsys.readouterr().out.count("fell by 100%") == references.count(1e6)


@pytest.mark.parametrize(
    ("ratio", "reference", "message"),
    [(2.0, 3.0, None), (1.9, 3.0, "fell by 37%"), (9.0, 3.0, None), (1.0, None, "no reference; --update adds it")],
)
def test_a_ratio_may_fall_by_a_third(ratio, reference, message):
    assert suite.problem(ratio, reference) == message


def test_a_benchmark_that_fails_is_named_and_the_others_still_run(tmp_path, monkeypatch, capsys):
    def broken(size):
        raise RuntimeError("out of order")

    monkeypatch.setattr(suite, "BENCHMARKS", {"srm": broken, "sweep": lambda size: {"sweep": 2.0}})
    reference = tmp_path / "reference.json"
    reference.write_text('{"sweep": 2.0}')
    assert suite.main(["--only", "srm", "sweep", "--reference", str(reference)]) == 1
    out = capsys.readouterr().out
    assert "error: RuntimeError: out of order" in out
    assert "sweep                       2.0×" in out


def test_references_can_be_updated(tmp_path, monkeypatch):
    reference = tmp_path / "reference.json"
    reference.write_text('{"sweep": 9.0, "other": 1.0}')
    monkeypatch.setattr(suite, "BENCHMARKS", {"sweep": lambda size: {"sweep": 2.346}})
    assert suite.main(["--only", "sweep", "--reference", str(reference), "--update"]) == 0
    assert json.loads(reference.read_text()) == {"sweep": 2.35, "other": 1.0}


def test_an_unreadable_reference_is_one_line(tmp_path, capsys):
    assert suite.main(["--reference", str(tmp_path / "none.json")]) == 1
    assert "none.json: there is no such file" in capsys.readouterr().err


def test_the_committed_references_are_those_of_the_comparisons():
    references = json.loads(suite.REFERENCE.read_text())
    assert {name.split()[0] for name in references} == {"UniVQA", "SRM", "data", "sweep"}
    assert all(ratio > 1 for ratio in references.values())
