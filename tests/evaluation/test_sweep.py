"""The sweep over all checkpoints and val splits, on real tiny models."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmf.common.registry import registry
from mmf.modules.metrics import BaseMetric
from mmf.utils.m4c_evaluators import TextVQAAccuracyEvaluator
from worlds import LIMIT, ORDER, SETTING, World, write_noisy

from mmclvqa.clove.data_root import split_size
from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.experiment_paths import SAVE
from mmclvqa.clove.records import load_records, new_record
from mmclvqa.clove.tasks import parse_order, task
from mmclvqa.evaluation import sweep as sweep_module
from mmclvqa.evaluation.engine import Engine
from mmclvqa.evaluation.matrix import sweep_pairs
from mmclvqa.evaluation.results import METRIC, read_sweep
from mmclvqa.evaluation.sweep import (
    EvaluationConfig,
    Pair,
    changed_checkpoints,
    checkpoints,
    evaluate_pairs,
    evaluate_sweep,
)
from mmclvqa.methods.base import registered_methods


def entry(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())["evaluations"][-1]


def test_every_pair_is_evaluated_on_all_val_records(swept_once: World, clove_mini: Path) -> None:
    result = read_sweep(swept_once.results)
    assert list(result.accuracies) == [key for key, _, _ in sweep_pairs(SETTING, ORDER)]
    assert any(result.accuracies.values()) and not result.missing
    assert result.data == "clove-mini"
    val = split_size(clove_mini, task(SETTING, "logical"), "val")
    assert entry(swept_once.results / "k2l")["records"] == val
    assert result.weights == (val,) * 6


def test_a_pair_equals_mmf_run_in_a_process_of_its_own(swept_once: World, project: Path, tmp_path: Path) -> None:
    accuracies = read_sweep(swept_once.results).accuracies
    key = max(accuracies, key=accuracies.__getitem__)
    command = [
        *(sys.executable, "-m", "mmclvqa.cli"),
        f"config={swept_once.config.config_file(task(SETTING, key[2]))}",
        *("model=unicl", "dataset=clvqa", "run_type=val", *swept_once.config.overrides),
        f"checkpoint.resume_file={swept_once.checkpoint(key[0])}",
        f"env.save_dir={tmp_path / 'val'}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    expected, evaluated = entry(tmp_path / "val"), entry(swept_once.results / key)
    assert evaluated["metrics"] == expected["metrics"] and expected["metrics"][METRIC] > 0
    assert evaluated["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert evaluated["records"] == expected["records"]


def test_metrics_without_that_of_the_matrix_are_refused_before_the_evaluation(world: World) -> None:
    config = replace(world.config, overrides=(*world.config.overrides, "evaluation.metrics=[textvqa_accuracy_cls]"))
    with pytest.raises(DataError, match=r"set evaluation.metrics=\[textvqa_accuracy,textvqa_accuracy_cls\]"):
        replace(world, config=config).sweep()


def test_every_metric_with_values_from_0_to_1_gets_a_matrix(world: World) -> None:
    @registry.register_metric("mean_question_id")
    class MeanQuestionId(BaseMetric):
        def __init__(self) -> None:
            super().__init__("mean_question_id")

        def calculate(self, sample_list: Any, model_output: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            return 1000 + torch.zeros(1)

    metrics = "evaluation.metrics=[textvqa_accuracy,textvqa_accuracy_cls,mean_question_id]"
    config = replace(world.config, overrides=(*world.config.overrides, metrics))
    before = read_sweep(world.results)
    result, progress = replace(world, config=config).sweep()
    assert result.accuracies == before.accuracies
    assert progress[-1] == "mean_question_id gets no matrix: some of its values are not numbers from 0 to 1"
    name = "textvqa_accuracy_cls/unique_acc"
    unique = {key: entry(world.results / key)["metrics"][name] for key in result.accuracies}
    assert result.further[name] == unique != result.accuracies
    other = read_sweep(world.results, name)
    assert other.metric == name and other.accuracies == unique
    assert json.loads((world.results / "sweep.json").read_text())["further"][name] == {
        "matrix": unique,
        "summary": other.as_json()["summary"],
    }
    lines = result.lines()
    assert lines[-3:] == before.lines()[-3:] and lines[: len(before.lines()) - 3] == before.lines()[:-3]
    assert sum(line.startswith(f"==> {name} | ") for line in lines) == 3
    with pytest.raises(DataError, match=r"no metric textvqa_accuracy_cls/unique, .*; did you mean .*unique_acc"):
        read_sweep(world.results, "textvqa_accuracy_cls/unique")


def test_answers_in_python_are_those_of_the_sweep(swept_once: World, clove_mini: Path) -> None:
    accuracies = read_sweep(swept_once.results).accuracies
    key = max(accuracies, key=accuracies.__getitem__)
    tested = task(SETTING, key[2])
    records = load_records(clove_mini / tested.annotation_path("val"))
    questions = [record | {"answer": "", "answers": [""] * 10} for record in records]
    entries = Engine(swept_once.config).answers(tested, swept_once.checkpoint(key[0]), questions)
    assert [entry["question_id"] for entry in entries] == [record["question_id"] for record in records]
    predictions = [
        {"pred_answer": entry["answer"], "gt_answers": record["answers"]}
        for entry, record in zip(entries, records, strict=True)
    ]
    assert TextVQAAccuracyEvaluator().eval_pred_list(predictions) == pytest.approx(accuracies[key])
    with pytest.raises(CloveError, match=r"record 0 .*: field question is int"):
        Engine(swept_once.config).answers(tested, swept_once.checkpoint(key[0]), [new_record(question=3)])


def test_checkpoints_are_read_once_and_splits_built_once(swept_once: World) -> None:
    checkpoint_paths = [str(swept_once.checkpoint(letter)) for letter in ORDER]
    assert swept_once.reads == dict.fromkeys([*checkpoint_paths, *(t.name for t in parse_order(SETTING, ORDER))], 1)


def test_kept_results_are_not_evaluated_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "prepare_libraries", lambda: pytest.fail("something is evaluated"))
    result, lines = world.sweep()
    assert len(result.accuracies) == 36 and lines == ["0 pairs to evaluate, 36 reused from an earlier run"]


def test_a_changed_checkpoint_is_evaluated_again(world: World) -> None:
    before = entry(world.results / "l2o")
    path = world.checkpoint("l")
    write_noisy(torch.load(path, weights_only=True), path, seed=77)
    _, lines = world.sweep()
    assert lines[0] == "6 pairs to evaluate, 30 reused from an earlier run"
    assert entry(world.results / "l2o")["loss"] != before["loss"]


def test_invalid_results_are_evaluated_again_and_come_out_the_same(world: World) -> None:
    before = read_sweep(world.results)
    for key, text in {"o2l": '{"run": {', "a2l": "[]", "k2l": '{"run": {}, "evaluations": []}'}.items():
        file = world.results / key / "results.json"
        file.unlink()
        file.write_text(text)
    result, lines = world.sweep()
    assert lines[0] == "3 pairs to evaluate, 33 reused from an earlier run" and result == before


def test_the_identity_of_a_pair_covers_overrides_but_not_the_device(world: World, tmp_path: Path) -> None:
    pair = Pair("o2l", "object", world.checkpoint("o"), task(SETTING, "l"), tmp_path)
    first, config = pair.identity(world.config), world.config
    assert first == pair.identity(EvaluationConfig(config.config_dir, config.overrides, "cuda"))
    assert first != pair.identity(EvaluationConfig(config.config_dir, (*config.overrides, "training.precision=bf16")))
    without_effect = ("training.CL.restore_dir=/nowhere", "env.clove_root=" + config.overrides[0].partition("=")[2])
    assert first == pair.identity(EvaluationConfig(config.config_dir, (*config.overrides, *without_effect)))


def test_a_configuration_that_includes_itself_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / SETTING).mkdir()
    for file in (world.config.config_dir / SETTING).iterdir():
        (tmp_path / SETTING / file.name).write_text(f"includes: [../{SETTING}/{file.name}]\n")
    with pytest.raises(CloveError, match="cl_object_unicl_standalone.yaml includes itself"):
        replace(world, config=replace(world.config, config_dir=tmp_path)).sweep()


def test_a_checkpoint_below_a_relative_folder_is_known_to_have_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.checkpoint("l")
    for file in world.results.glob("l2*/results.json"):
        content = re.sub(r'"[^"]+/(save/[^"]+[.]pth)"', r'"\1"', file.read_text())
        file.unlink()
        file.write_text(content)
    assert changed_checkpoints(world.results / "sweep.json") == []
    write_noisy(torch.load(path, weights_only=True), path, seed=77)
    assert changed_checkpoints(world.results / "sweep.json") == [path]


def test_an_unfinished_run_names_the_missing_steps(world: World) -> None:
    for letter in "sa":
        world.checkpoint(letter).unlink()
    with pytest.raises(DataError, match=r"missing steps 2 attribute, 6 scenetext .*--partial") as error:
        world.sweep()
    assert "\n" not in str(error.value)


def test_partial_evaluates_the_existing_checkpoints(world: World) -> None:
    for letter in "lks":
        world.checkpoint(letter).unlink()
    result, lines = world.sweep(partial=True)
    assert len(result.missing) == 18 and sum("is not trained" in line for line in lines) == 3
    assert result.summary is not None and result.summary.learned == 3
    assert "after 3 of 6 tasks:" in result.lines()
    # A workflow takes sweep.json for the output of a finished evaluation.
    partial = world.results / "partial.json"
    assert read_sweep(partial) == result


def test_partial_needs_one_checkpoint(world: World) -> None:
    with pytest.raises(DataError, match="has no checkpoint yet"):
        evaluate_sweep("functional", "lkosra", "nothing", str(world.root), world.config, partial=True)


def test_the_first_checkpoint_is_the_single_task_model_unless_regularised() -> None:
    plain = checkpoints("scene", "bdfcae", "ewc", "save")
    assert plain["b"] == Path("save/stand_alone/scene/unicl_b#Workplace/unicl_final.pth")
    assert plain["d"] == Path("save/scene/setting_189_bdfcae/ewc/unicl_d#Transportation/unicl_final.pth")
    own = checkpoints("scene", "bdfcae", "ewc", "save", regularised=True)
    assert own["b"] == Path("save/scene/setting_189_bdfcae/ewc/unicl_b#Workplace/unicl_final.pth")
    alone = checkpoints("scene", "bdfcae", "stand_alone", "save", stand_alone=True)
    assert {path.parents[2] for path in alone.values()} == {Path("save/stand_alone")}
    assert checkpoints("scene", "bdfcae", "ewc", "save", stand_alone=True, regularised=True) == own


def test_single_task_models_leave_the_results_of_a_method_alone(world: World) -> None:
    before = (world.results / "sweep.json").read_bytes()
    result, lines = world.sweep(stand_alone=True, partial=True)  # of these models there is only the first
    assert "6 pairs to evaluate, 0 reused from an earlier run" in lines and result.stand_alone
    assert read_sweep(world.results.with_name("val_stand_alone")) == result
    assert (world.results / "sweep.json").read_bytes() == before


@pytest.mark.parametrize("override", ["max_updates", "config=a.yaml", "training.device=cpu"])
def test_an_illegal_override_is_named(override: str) -> None:
    with pytest.raises(DataError, match=override.partition("=")[0]):
        EvaluationConfig.from_environment("cpu", (override,))


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, None, "auto"),
        (None, 0, "cuda:0"),
        (None, "1", "cuda:1"),
        (None, "CPU", "cpu"),
        (None, "cuda:2", "cuda:2"),
        ("3,5", 5, "cuda:1"),
        ("3,5", "3", "cuda:0"),
        ("3,5", "5,3", "cuda:1"),
        ("3,5", 0, "cuda:0"),
        ("3,5", "cuda:1", "cuda:1"),
        ("", "", "auto"),
        ("GPU-1f,GPU-2e", "GPU-2e", "cuda:1"),
        ("cpu", "cpu", "cpu"),  # DEVICE=cpu of a run script sets both
        ("-1", "-1", "cpu"),
    ],
)
def test_a_gpu_is_numbered_as_cuda_visible_devices_numbers_it(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str | int | None, expected: str
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert EvaluationConfig.from_environment(device).device == expected


def test_a_checkpoint_that_cannot_be_used_names_the_file(world: World, tmp_path: Path) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(b"nothing")
    pair = Pair("o2l", "object", path, task(SETTING, "l"), tmp_path / "o2l")
    with pytest.raises(CloveError, match=r"broken\.pth"):
        evaluate_pairs([pair], world.config, lambda line: None)
    assert not (tmp_path / "o2l").exists()


@pytest.mark.parametrize("regularised", [True, False])
def test_k_means_replay_is_evaluated_with_its_own_first_task(world: World, tmp_path: Path, regularised: bool) -> None:
    """Its models have a parameter that the single-task model lacks; the published call asks for that model."""
    save = str(tmp_path / SAVE)
    with pytest.raises(DataError, match="no checkpoint yet .*setting_1_oarlks/kmeans_replay_0.02/unicl_object/"):
        evaluate_sweep("functional", "oarlks", "kmeans_replay_0.02", save, world.config, regularised=regularised)


POOLED = """
from mmclvqa.methods.base import Method, register_method


@register_method
class Pooled(Method):
    name = label = "pooled"

    @classmethod
    def evaluation_overrides(cls, settings, model):
        return ["model_config.unicl.use_cls=True"]
"""


def test_a_method_of_the_user_is_evaluated_with_its_own_overrides(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmclvqa.methods.base._registered", dict(registered_methods()))
    code = tmp_path / "pooled_method.py"
    code.write_text(POOLED)
    config = replace(world.config, overrides=(*world.config.overrides, f"env.user_dir={code}"))
    # With other overrides than the single-task model's, it has a first task of its own.
    with pytest.raises(DataError, match="no checkpoint yet .*setting_1_oarlks/pooled/unicl_object/"):
        evaluate_sweep("functional", "oarlks", "pooled", str(tmp_path / SAVE), config)
