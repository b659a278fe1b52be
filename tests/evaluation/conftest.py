"""Fixtures: six tiny models of a task order with their sweep, and the published sweep."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import ORDER, SETTING, World, write_noisy

from mmclvqa.clove import experiment_paths as experiments
from mmclvqa.clove.tasks import parse_order
from mmclvqa.evaluation.results import SweepResult
from mmclvqa.evaluation.sweep import EvaluationConfig

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "reference_results.json").read_text())
TINY = """\
includes: [{task}]
model_config: {{unicl: {{text_bert: {{num_hidden_layers: 1}}, mmt: {{num_hidden_layers: 1}}}}}}
training: {{batch_size: 16, num_workers: 0, max_updates: 90, evaluation_interval: null, warmup_iterations: 1}}
"""


@pytest.fixture(scope="session")
def tiny_config(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a configuration folder for ``$CONFIG``: the files of clove-mini with a smaller model."""
    folder = tmp_path_factory.mktemp("config")
    (folder / SETTING).mkdir()
    for file in (project / "EXP_CONFIG/mini" / SETTING).glob("*_standalone.yaml"):
        (folder / SETTING / file.name).write_text(TINY.format(task=file))
    return folder


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Use one thread, with which tiny models are faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def swept_once(
    tiny_config: Path, clove_mini: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Iterator[World]:
    """Return a model trained on the first task, noisy copies of it as the other checkpoints, and their sweep."""
    from mmf.common.registry import registry

    from mmclvqa import cli
    from mmclvqa.evaluation import engine

    root = tmp_path_factory.mktemp("experiments")
    config = EvaluationConfig(tiny_config, (f"env.clove_root={clove_mini}",), "cpu")
    world = World(root, config, Counter())
    registered = dict(registry.mapping["state"])
    first = parse_order(SETTING, ORDER)[0]
    path = world.checkpoint(first.letter)
    words = [f"config={config.config_file(first)}", "model=unicl", "dataset=clvqa", "run_type=train"]
    cli.run([*words, *config.overrides, "training.device=cpu", f"env.save_dir={path.parent}"])
    for key in set(registry.mapping["state"]) - set(registered):
        if key.startswith("clvqa_") or key in ("writer", "config", "configuration", "seed"):
            registry.unregister(key)
    weights = torch.load(path, weights_only=True)
    multitask = Path(experiments.final_weights(experiments.multitask_folder(SETTING, world.save)))
    for seed, copy in enumerate([*(world.checkpoint(letter) for letter in ORDER[1:]), multitask]):
        write_noisy(weights, copy, seed)

    def counted(function: Callable[..., Any], key: Callable[..., str]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            world.reads[key(*arguments)] += 1
            return function(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "read_checkpoint", counted(engine.read_checkpoint, str))
        patch.setattr(
            engine, "build_split", counted(engine.build_split, lambda name, config, seed: config.training.CL.cur_task)
        )
        world.sweep()
    yield world


@pytest.fixture
def world(swept_once: World, tmp_path: Path) -> World:
    """Return a copy that a test may change; its files must be replaced and not written in place."""
    shutil.copytree(swept_once.root, tmp_path / "root", copy_function=os.link)
    return World(tmp_path / "root", swept_once.config, Counter())


@pytest.fixture
def published() -> SweepResult:
    """Return the published sweep in this project's form."""
    weights = (3000.0,) * 6
    return SweepResult("functional", "oarlks", REFERENCE["exp"], REFERENCE["matrix"], weights, data="CLOVE")
