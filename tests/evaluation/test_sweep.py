"""The sweep over all checkpoints and val sets, on real tiny models."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import CONFIG, ORDER, SETTING, World, write_blurred

import mmclvqa.evaluation.sweep as sweep_module
from mmclvqa.clove.errors import CloveError, DataError
from mmclvqa.clove.manifest import sizes
from mmclvqa.clove.tasks import parse_order, task
from mmclvqa.evaluation.matrix import sweep_pairs
from mmclvqa.evaluation.outcome import read_sweep
from mmclvqa.evaluation.pairs import METRIC, Pair
from mmclvqa.evaluation.setup import Setup
from mmclvqa.evaluation.sweep import UnfinishedError, checkpoints, evaluate_pairs


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def entry(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())["evaluations"][-1]


def test_every_pair_is_evaluated_on_all_val_records(swept_once: World, clove_mini: Path) -> None:
    result = read_sweep(swept_once.results)
    assert list(result.accuracies) == [key for key, _, _ in sweep_pairs(SETTING, ORDER)]
    assert any(result.accuracies.values()) and not result.missing
    assert result.data == "clove-mini"
    val = sizes(clove_mini, SETTING, "logical")["val"]
    assert entry(swept_once.results / "k2l")["records"] == val
    assert result.weights == (val,) * 6


def test_a_pair_is_what_mmf_run_says_of_it(swept_once: World, tmp_path: Path) -> None:
    accuracies = read_sweep(swept_once.results).accuracies
    key = max(accuracies, key=accuracies.__getitem__)
    done = swept_once.runner(
        "run_type=val",
        "training.num_workers=0",
        f"checkpoint.resume_file={swept_once.checkpoint(key[0])}",
        f"env.save_dir={tmp_path / 'val'}",
        config=f"{CONFIG}/{SETTING}/cl_{task(SETTING, key[2]).name}_unicl_standalone.yaml",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    (wanted,) = swept_once.runner.results(tmp_path / "val")
    found = entry(swept_once.results / key)
    assert found["metrics"] == wanted["metrics"] and wanted["metrics"][METRIC] > 0
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert found["records"] == wanted["records"]


def test_checkpoints_are_read_once_and_splits_built_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmclvqa.evaluation.engine as engine

    calls: Counter[Any] = Counter()

    def counted(function: Any, of: Any) -> Any:
        def call(*args: Any) -> Any:
            calls[of(*args)] += 1
            return function(*args)

        return call

    monkeypatch.setattr(engine, "read_checkpoint", counted(engine.read_checkpoint, str))
    of_split = counted(engine.build_split, lambda name, config, seed: config.training.CL.cur_task)
    monkeypatch.setattr(engine, "build_split", of_split)
    before = world.sweep()[0].accuracies
    for folder in world.results.glob("*2*"):
        (folder / "results.json").unlink()
    result, _ = world.sweep()
    learned = {str(world.checkpoint(letter)) for letter in ORDER}
    assert calls == dict.fromkeys([*learned, *(known.name for known in parse_order(SETTING, ORDER))], 1)
    assert result.accuracies == before


def test_what_is_kept_is_not_evaluated_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "_engine", lambda setup: pytest.fail("something is evaluated"))
    result, told = world.sweep()
    assert len(result.accuracies) == 36 and told == ["0 pairs to evaluate, 36 kept from before"]


def test_a_changed_checkpoint_is_evaluated_again(world: World) -> None:
    before = entry(world.results / "o2l")
    path = world.checkpoint("o")
    write_blurred(torch.load(path, weights_only=True), path, seed=77)
    _, told = world.sweep()
    assert told[0] == "6 pairs to evaluate, 30 kept from before"
    assert entry(world.results / "o2l")["loss"] != before["loss"]


def test_a_result_that_is_half_written_or_strange_is_made_again(world: World) -> None:
    for key, text in {"o2l": '{"run": {', "o2k": "[]", "o2o": '{"run": {}, "evaluations": []}'}.items():
        (world.results / key / "results.json").write_text(text)
    result, told = world.sweep()
    assert told[0] == "3 pairs to evaluate, 33 kept from before" and not result.missing


def test_what_an_evaluation_depends_on_is_in_its_identity(world: World, tmp_path: Path) -> None:
    pair = Pair("o2l", "object", world.checkpoint("o"), task(SETTING, "l"), tmp_path)
    first = pair.identity(world.setup)
    assert first == pair.identity(Setup(world.setup.config, world.setup.words, "cuda"))
    other = Setup(world.setup.config, (*world.setup.words, "training.precision=bf16"))
    assert first != pair.identity(other)


def test_an_unfinished_run_says_which_steps_are_missing(world: World) -> None:
    for letter in "sa":
        world.checkpoint(letter).unlink()
    with pytest.raises(UnfinishedError, match=r"missing steps 4 scenetext, 6 attribute .*--partial") as error:
        world.sweep()
    assert "\n" not in str(error.value)


def test_partial_evaluates_what_there_is(world: World) -> None:
    for letter in "sra":
        world.checkpoint(letter).unlink()
    result, told = world.sweep(partial=True)
    assert len(result.missing) == 18 and sum("left out" in line for line in told) == 3
    assert result.summary is not None and result.summary.learned == 3
    assert "after 3 of 6 tasks:" in result.lines()


def test_partial_of_nothing_is_an_error(world: World) -> None:
    with pytest.raises(UnfinishedError, match="no step finished"):
        sweep_module.sweep("functional", "oarlks", "nothing", str(world.root), world.setup, partial=True)


def test_the_first_checkpoint_is_the_stand_alone_one_unless_regularised() -> None:
    plain = checkpoints("scene", "bdfcae", "ewc", "save")
    assert plain["b"] == Path("save/stand_alone/scene/unicl_b#Workplace/unicl_final.pth")
    assert plain["d"] == Path("save/scene/setting_189_bdfcae/ewc/unicl_d#Transportation/unicl_final.pth")
    own = checkpoints("scene", "bdfcae", "ewc", "save", regularised=True)
    assert own["b"] == Path("save/scene/setting_189_bdfcae/ewc/unicl_b#Workplace/unicl_final.pth")
    alone = checkpoints("scene", "bdfcae", "stand_alone", "save", stand_alone=True)
    assert {path.parents[2] for path in alone.values()} == {Path("save/stand_alone")}
    assert checkpoints("scene", "bdfcae", "ewc", "save", stand_alone=True, regularised=True) == own


def test_stand_alone_models_leave_the_results_of_a_method_alone(world: World) -> None:
    first = world.checkpoint("l")
    for letter in ORDER[1:]:
        path = Path(str(first).replace("unicl_logical", f"unicl_{task(SETTING, letter).name}"))
        path.parent.mkdir()
        path.write_bytes(first.read_bytes())
    before = (world.results / "sweep.json").read_bytes()
    result, told = world.sweep(stand_alone=True)
    assert told[0] == "36 pairs to evaluate, 0 kept from before" and result.stand_alone
    assert read_sweep(world.results.with_name("val_stand_alone")) == result
    assert (world.results / "sweep.json").read_bytes() == before


@pytest.mark.parametrize("words", [("max_updates",), ("config=a.yaml",), ("training.device=cpu",)])
def test_a_word_that_cannot_be_given_is_named(words: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=words[0].partition("=")[0]):
        Setup.of("cpu", words)


def test_devices_are_said_in_several_ways() -> None:
    assert [Setup.of(device).device for device in (None, 0, "1", "CPU", "cuda:2")] == [
        "auto",
        "cuda:0",
        "cuda:1",
        "cpu",
        "cuda:2",
    ]
    with pytest.raises(DataError, match="tpu"):
        Setup.of("tpu")


def test_a_gpu_is_numbered_as_the_environment_that_chose_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [Setup.of(device).device for device in (5, "3", "5,3", 0, "cuda:1")] == [
        "cuda:1",
        "cuda:0",
        "cuda:1",
        "cuda:0",
        "cuda:1",
    ]


def test_a_checkpoint_that_cannot_be_used_names_the_file(world: World, tmp_path: Path) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(b"nothing")
    pair = Pair("o2l", "object", path, task(SETTING, "l"), tmp_path / "o2l")
    with pytest.raises(CloveError, match=r"broken\.pth"):
        evaluate_pairs([pair], world.setup, lambda line: None)
    assert not (tmp_path / "o2l").exists()
