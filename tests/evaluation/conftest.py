"""Six tiny models along an order, and the published sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from worlds import CONFIG, ORDER, SETTING, World, write_blurred

from mmclvqa.clove import experiments as places
from mmclvqa.clove.tasks import parse_order
from mmclvqa.evaluation.outcome import Sweep
from mmclvqa.evaluation.setup import Setup
from tests.plugin.conftest import Runner

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "reference_results.json").read_text())


@pytest.fixture(scope="session")
def swept_once(project: Path, clove_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A model that has learned a little, five blurred copies of it, and the sweep over them."""
    root = tmp_path_factory.mktemp("experiments")
    runner = Runner(project, clove_mini, root)
    words = ["run_type=train", "training.max_updates=60", "training.evaluation_interval=60", "training.num_workers=0"]
    words += ["training.warmup_iterations=1", "training.batch_size=16"]
    first = parse_order(SETTING, ORDER)[0]
    done = runner(*words, config=f"{CONFIG}/{SETTING}/cl_{first.name}_unicl_standalone.yaml", tiny=False)
    assert done.returncode == 0, done.stderr
    setup = Setup(project / CONFIG, ("training.num_workers=0", f"env.clove_root={clove_mini}"), "cpu")
    world = World(root, runner, setup)
    weights = torch.load(world.checkpoint(first.letter), weights_only=True)
    for seed, letter in enumerate(ORDER[1:]):
        write_blurred(weights, world.checkpoint(letter), seed)
    write_blurred(weights, Path(places.final_weights(places.multitask_folder(SETTING, world.save))), 99)
    world.sweep()
    return world


@pytest.fixture
def world(swept_once: World, tmp_path: Path) -> World:
    """A copy of it all, to be changed."""
    shutil.copytree(swept_once.root, tmp_path / "root")
    return World(tmp_path / "root", swept_once.runner, swept_once.setup)


@pytest.fixture
def published() -> Sweep:
    """The published sweep as if it were ours."""
    weights = (3000.0,) * 6
    return Sweep("functional", "oarlks", REFERENCE["exp"], REFERENCE["matrix"], weights, data="CLOVE")
