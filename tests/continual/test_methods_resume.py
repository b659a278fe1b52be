"""A method whose run is killed, in training or at its end, ends as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from method_runs import KILLER, Methods

RESULTS = {"ewc": "models/reg_params.safetensors", "agem": "stored.json", "kmeans": "kmeans_replay.npy"}
SHARED = ("training.CL.use_replay=True", "training.CL.replay_rate=0.25")


def method_words(name: str, before: Path) -> tuple[list[str], str]:
    """Words of the second task, and the callback that the method itself needs."""
    if name == "ewc":
        words = ["training.trainer=CL", "training.CL.reg_type=ewc", "optimizer.type=weight_reg_adamw"]
        return [*words, f"training.CL.reg_params_pth={before / RESULTS['ewc']}"], ""
    if name == "agem":
        return ["training.trainer=GEM", "training.CL.replay_method=gem", "training.CL.gem_variant=agem", *SHARED], ""
    words = ["model_config.unicl.use_cls=True", "training.CL.replay_method=kmeans", *SHARED]
    return [*words, f"training.CL.replay_dir={before}"], ",{'type':'kmeans_store'}"


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_a_killed_method_ends_the_same(methods: Methods, name: str, tmp_path: Path) -> None:
    before = methods.save_dir("object")
    words, own = method_words(name, before)
    first = [word for word in words if "reg_params_pth" not in word and "replay_dir" not in word]
    if name == "agem":
        methods.learn("object")
    else:
        methods.learn("object", *first, f"training.callbacks=[{own.lstrip(',')}]")
    words += [methods.resume_file("object"), f"env.user_dir={KILLER}", "training.max_updates=9"]
    methods.learn("attribute", *words, f"training.callbacks=[{own.lstrip(',')}]", name="straight")

    marker = tmp_path / "marker"
    killing = f"training.callbacks=[{{'type':'kill_at','params':{{'update':5,'marker':'{marker}'}}}}{own}]"
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
