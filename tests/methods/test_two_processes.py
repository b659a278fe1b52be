"""Methods on two processes end as on one, up to the order in which numbers are added."""

from __future__ import annotations

import subprocess
import sys

import pytest
import safetensors.torch
import torch
from method_runs import Methods

from mmclvqa.clove.records import load_records
from mmclvqa.methods.importances import FILE as IMPORTANCES

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
WORDS = {
    "ewc": ("training.trainer=CL", "training.CL.reg_type=ewc", "optimizer.type=weight_reg_adamw"),
    "gem": ("training.trainer=GEM", "training.CL.use_replay=True", "training.CL.replay_method=gem",
            "training.CL.replay_rate=0.25"),
    "kmeans": ("model_config.unicl.use_cls=True", "training.CL.use_replay=True", "training.CL.replay_method=kmeans",
               "training.CL.replay_rate=0.25"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", WORDS)
def test_two_processes_equal_one(methods: Methods, name: str) -> None:
    first = () if name == "gem" else WORDS[name]
    methods.learn("object", *first)
    before = methods.save_dir("object")
    carried = {
        "ewc": (f"training.CL.reg_params_pth={before / IMPORTANCES}",),
        "kmeans": (f"training.CL.replay_dir={before}",),
    }
    # Adam divides by the size of gradients; with its usual ε, rounding would change weights whose gradient is zero.
    words = (*WORDS[name], *carried.get(name, ()), methods.resume_file("object"), "optimizer.params.eps=1e-2")
    methods.learn("attribute", *words, name="one")
    command = [sys.executable, *TORCHRUN, "-m", "mmclvqa.cli", *methods.words("attribute", *words, name="two")]
    subprocess.run(command, check=True, timeout=600, capture_output=True)
    one, two = methods.weights("attribute", "one"), methods.weights("attribute", "two")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=5e-4)
    folders = [methods.save_dir("attribute", run) for run in ("one", "two")]
    assert ", 2 processes, precision" in (folders[1] / "train.log").read_text()
    if name == "ewc":
        parts = [safetensors.torch.load_file(folder / IMPORTANCES) for folder in folders]
        for key, value in parts[0].items():
            torch.testing.assert_close(parts[1][key], value, rtol=2e-2, atol=1e-2 * float(value.abs().max()) + 1e-9)
    if name == "kmeans":
        kept = [{r["question_id"] for r in load_records(folder / "kmeans_replay.npy")} for folder in folders]
        assert len(kept[0] & kept[1]) >= 0.8 * len(kept[0])
