"""A method whose run is killed, in training or at its end, ends as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from method_runs import KILLER, Methods

IMPORTANCES = "models/reg_params.safetensors"
RESULTS = {
    "ewc": IMPORTANCES,
    "mas": IMPORTANCES,
    "gem": "stored.json",
    "agem": "stored.json",
    "random": "stored.json",
    "kmeans": "kmeans_replay.npy",
    "derpp": "models/dark_scores.safetensors",
}
"""Method -> what it leaves for the next task, or for the table."""
ALWAYS = ("ewc", "kmeans")
SHARED = ("training.CL.use_replay=True", "training.CL.replay_rate=0.25")


def method_words(name: str, before: Path) -> list[str]:
    """Overrides of the second task."""
    if RESULTS[name] == IMPORTANCES:
        words = ["training.trainer=CL", f"training.CL.reg_type={name}", "optimizer.type=weight_reg_adamw"]
        return [*words, f"training.CL.reg_params_pth={before / IMPORTANCES}"]
    if name == "random":
        return ["training.CL.replay_method=random", *SHARED]
    if name == "kmeans":
        words = ["model_config.unicl.use_cls=True", "training.CL.replay_method=kmeans", *SHARED]
        return [*words, f"training.CL.replay_dir={before}"]
    if name == "derpp":
        return ["training.CL.method=derpp", "training.CL.derpp.replay_rate=0.25", f"training.CL.previous_dir={before}"]
    words = ["training.trainer=GEM", "training.CL.replay_method=gem", *SHARED]
    return [*words, f"training.CL.gem_variant={name}", "training.CL.gem_memory_batch=8"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in ALWAYS else pytest.param(n, marks=pytest.mark.long) for n in RESULTS])
def test_a_killed_method_ends_the_same(methods: Methods, name: str, tmp_path: Path) -> None:
    before = methods.save_dir("object")
    words = method_words(name, before)
    of_later_tasks = ("reg_params_pth", "replay_dir", "previous_dir")
    first = [word for word in words if not any(key in word for key in of_later_tasks)]
    starts_alone = name in ("gem", "agem", "random")
    methods.learn("object", *([] if starts_alone else first))
    words += [methods.resume_file("object"), f"env.user_dir={KILLER}"]
    words += ["training.max_updates=9", "training.checkpoint_interval=2"]
    methods.learn("attribute", *words, name="straight")

    marker = tmp_path / "marker"
    killing = f"training.callbacks=[{{'type':'kill_at','params':{{'update':5,'marker':'{marker}'}}}}]"
    assert methods.process("attribute", *words, killing, name="killed") == -signal.SIGKILL
    folder = methods.save_dir("attribute", "killed")
    assert not (folder / RESULTS[name]).exists()
    assert methods.process("attribute", *words, killing, name="killed") == 0
    straight, killed = (methods.weights("attribute", run) for run in ("straight", "killed"))
    assert all(torch.equal(straight[key], killed[key]) for key in straight)
    expected = (methods.save_dir("attribute", "straight") / RESULTS[name]).read_bytes()
    assert (folder / RESULTS[name]).read_bytes() == expected

    # Killed after training, before the final weights: what the method leaves is made then.
    (folder / "unicl_final.pth").unlink()
    (folder / RESULTS[name]).unlink()
    methods.learn("attribute", *words, killing, name="killed")
    assert (folder / RESULTS[name]).read_bytes() == expected
