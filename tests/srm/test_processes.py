"""Several processes share every batch and have the results of one process."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from srm_runs import Runs

from tests.forked_runs import RUN, many_runs


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(srm: Runs) -> None:
    flags = ("--debug", "--dropout", "0", "--n_prompts", "2", "--min_batch_size", "5", "--n_replay", "0")
    alone = load_file(srm(*flags) / "models" / "object" / "model.safetensors")
    srm.root = srm.root.with_name("two")
    assert many_runs("SRM", 1, srm.argv(*flags)) == [(0, 0)]
    folder = next(srm.root.glob("*/*"))
    together = load_file(folder / "models" / "object" / "model.safetensors")
    for name, weights in alone.items():
        torch.testing.assert_close(together[name], weights, rtol=1e-3, atol=1e-4)
    assert len(list(folder.glob("*.npy"))) == 20


@pytest.mark.long
@pytest.mark.parametrize("busy", [False, True], ids=["alone", "on busy cores"])
def test_no_run_of_two_processes_hangs_or_aborts(srm: Runs, busy: bool) -> None:
    """Runs that train the last task; PROCESS_RUNS sets their number."""
    runs = int(os.environ.get("PROCESS_RUNS", "10"))
    flags = ("--debug", "--n_prompts", "2", "--n_replay", "0", "--n_train_epochs", "1")
    srm(*flags)
    shutil.rmtree(next(srm.root.glob("*/*/models/scenetext")))
    for run in range(runs):
        shutil.copytree(srm.root, srm.root.with_name(f"run{run}"))
    srm.root = srm.root.with_name(f"run{RUN}")
    assert many_runs("SRM", runs, srm.argv(*flags), busy) == [(0, 0)] * runs
    assert len(list(srm.root.parent.glob("run*/*/*/models/scenetext/model.safetensors"))) == runs
