"""Checkpoint files: what they hold, how many there are, what is loaded from them and what is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from tiny_runs import MakeTiny, same_weights

from mmclvqa.clove.errors import DataError
from mmclvqa.random_state import random_state_kept, set_random_state, take_random_state
from mmclvqa.training.checkpoints import CheckpointFiles, git_details, load_mapped_weights, read_checkpoint


def plain(value) -> bool:
    if isinstance(value, dict):
        return all(map(plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or isinstance(value, torch.Tensor | str | int | float | bool)


def test_checkpoints_hold_tensors_and_plain_values(tiny: MakeTiny) -> None:
    run = tiny().run("training.max_updates=10")
    state = run.load("current.ckpt")
    assert plain(state)
    assert {"model", "optimizer", "scheduler", "num_updates", "current_epoch", "random_state", "config"} <= set(state)
    assert state["config"]["training"]["batch_size"] == 8


def test_final_weights_are_a_plain_state_dict_of_contiguous_cpu_tensors(tiny: MakeTiny) -> None:
    weights = tiny().run("training.max_updates=10").weights
    assert set(weights) == {"body.0.weight", "body.0.bias", "head.weight", "head.bias"}
    assert all(t.is_contiguous() and t.device.type == "cpu" and not t.requires_grad for t in weights.values())


def test_numbered_checkpoints_are_kept_as_told(tiny: MakeTiny) -> None:
    words = ("training.checkpoint_interval=5", "training.max_updates=20")
    two = tiny("two").run(*words)
    assert sorted(f.name for f in (two.save_dir / "models").iterdir()) == ["model_15.ckpt", "model_20.ckpt"]
    everything = tiny("all").run(*words, "checkpoint.max_to_keep=-1")
    assert len(list((everything.save_dir / "models").iterdir())) == 4


def test_older_checkpoints_go_first_whatever_their_number(tmp_path: Path) -> None:
    files = CheckpointFiles(tmp_path, "tiny", max_to_keep=1)
    for update in (900, 10):
        files.write({"num_updates": update}, numbered=True)
    assert [f.name for f in (tmp_path / "models").iterdir()] == ["model_10.ckpt"]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    files = CheckpointFiles(tmp_path, "tiny")
    files.write({"num_updates": 1})
    with pytest.raises(TypeError, match=r"checkpoint.callbacks\[0\].state is a object"):
        files.write({"num_updates": 2, "callbacks": [{"state": object()}]})
    assert read_state(files.current) == {"num_updates": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["current.ckpt"]


def test_what_a_killed_writer_left_is_removed(tiny: MakeTiny) -> None:
    run = tiny().run("training.max_updates=5")
    left = [run.save_dir / ".current.ckpt.a1b2_c3.tmp", run.save_dir / "models" / ".model_5.ckpt.x.tmp"]
    left[1].parent.mkdir(exist_ok=True)
    (run.save_dir / ".mine.tmp").touch()
    for file in left:
        file.touch()
    run.run("training.max_updates=5")
    assert not any(file.exists() for file in left) and (run.save_dir / ".mine.tmp").exists()


def test_no_numbered_checkpoints_are_written_where_none_are_kept(tiny: MakeTiny) -> None:
    run = tiny().run("training.max_updates=10", "checkpoint.max_to_keep=0")
    assert not (run.save_dir / "models").exists()


def test_git_details_are_stored_when_asked_for(tiny: MakeTiny) -> None:
    state = tiny().run("training.max_updates=5", "checkpoint.save_git_details=true").load("current.ckpt")
    assert set(state) & {"git/commit_hash", "git/diff"} in (set(), {"git/commit_hash", "git/diff"})


def test_uncommitted_changes_that_are_not_utf8_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(key, raising=False)
    file = tmp_path / "notes.txt"
    file.write_text("plain\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "notes"]):
        subprocess.run(["git", *arguments], check=True)
    file.write_bytes("caf\u00e9\n".encode("latin-1"))
    assert "+caf\ufffd" in git_details()["git/diff"]


def read_state(path):
    return torch.load(path, weights_only=True)


# ------------------------------------------------------------------------------- resume_file


def test_a_plain_state_dict_gives_the_starting_weights_only(tiny: MakeTiny) -> None:
    first = tiny("first").run()
    start = first.save_dir / "tiny_final.pth"
    run = tiny("second").run(f"checkpoint.resume_file={start}", "training.max_updates=0")
    assert same_weights(run.weights, first.weights)


def test_a_full_checkpoint_brings_optimizer_and_counts(tiny: MakeTiny) -> None:
    straight = tiny("straight").run("training.evaluation_interval=30")
    part = tiny("part").run("training.evaluation_interval=30", "training.max_updates=10")
    file = part.save_dir / "current.ckpt"
    run = tiny("run").run("training.evaluation_interval=30", f"checkpoint.resume_file={file}")
    assert same_weights(run.weights, straight.weights)


@pytest.mark.parametrize(
    ("reset", "updates", "fresh_optimizer"),
    [("optimizer", 1, True), ("counts", 11, False), ("all", 11, True)],
)
def test_reset_leaves_parts_of_a_checkpoint_out(
    tiny: MakeTiny, reset: str, updates: int, fresh_optimizer: bool
) -> None:
    part = tiny("part").run("training.max_updates=10")
    run = tiny("run").run(
        f"checkpoint.resume_file={part.save_dir / 'current.ckpt'}",
        f"checkpoint.reset.{reset}=true",
        "training.max_updates=11",
    )
    state = run.load("current.ckpt")
    assert state["num_updates"] == 11
    steps = {int(s["step"]) for s in state["optimizer"]["state"].values()}
    assert steps == {updates if fresh_optimizer else 10 + updates}


def test_a_schedule_goes_on_where_a_fresh_optimizer_starts(tiny: MakeTiny) -> None:
    part = tiny("part").run("training.max_updates=25")
    run = tiny("run").run(
        f"checkpoint.resume_file={part.save_dir / 'current.ckpt'}", "checkpoint.reset.optimizer=true"
    )
    assert run.load("current.ckpt")["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)


def test_weights_saved_from_several_processes_load(tiny: MakeTiny, tmp_path: Path) -> None:
    weights = tiny("first").run("training.max_updates=5").weights
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, tmp_path / "wrapped.pth")
    run = tiny().run(f"checkpoint.resume_file={tmp_path / 'wrapped.pth'}", "training.max_updates=0")
    assert same_weights(run.weights, weights)


def test_pretrained_state_mapping_takes_one_module(tiny: MakeTiny) -> None:
    first = tiny("first").run("training.max_updates=5")
    words = ("checkpoint.resume_pretrained=true", f"checkpoint.resume_file={first.save_dir / 'tiny_final.pth'}")
    run = tiny("run", {"checkpoint": {"pretrained_state_mapping": {"head": "head"}}})
    run.run(*words, "training.max_updates=0", "training.seed=6")
    assert torch.equal(run.weights["head.weight"], first.weights["head.weight"])
    assert not torch.equal(run.weights["body.0.weight"], first.weights["body.0.weight"])
    wrong = tiny("wrong", {"checkpoint": {"pretrained_state_mapping": {"head": "tail"}}})
    assert "head: tail matches no tensor" in wrong.error(*words)


def test_a_mapped_tensor_of_another_shape_is_refused() -> None:
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 3)})
    with pytest.raises(DataError, match=r"x.pth does not fit the model: tail.weight \(3, 4\) for head.weight"):
        load_mapped_weights(model, {"tail.weight": torch.zeros(3, 4)}, {"head": "tail"}, "x.pth")


# ----------------------------------------------------------------------------- what is refused


class Code:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


def test_bad_files_are_refused_in_one_line(tiny: MakeTiny, tmp_path: Path) -> None:
    good = tiny("good").run("training.max_updates=5").save_dir / "current.ckpt"
    content = good.read_bytes()
    bad = {
        "missing.ckpt": (None, "does not exist"),
        "empty.ckpt": (b"", "damaged"),
        "half.ckpt": (content[: len(content) // 2], "damaged"),
        "text.ckpt": (b"hello world", "damaged"),
        "code.ckpt": (pickle.dumps(Code(), 2), "system"),
        "newer_code.ckpt": (pickle.dumps(Code()), "damaged"),
    }
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({0: {"omega": torch.ones(2)}}, tmp_path / "numbers.ckpt")
    torch.save({"model": {"a": 1}}, tmp_path / "no_tensors.ckpt")
    torch.save({"head.weight": Code()}, tmp_path / "code_in_zip.ckpt")
    for name, (data, _) in bad.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    expected = {name: words for name, (_, words) in bad.items()}
    expected |= {"list.ckpt": "contains a list", "no_tensors.ckpt": "no tensors", "numbers.ckpt": "no tensors"}
    expected |= {"code_in_zip.ckpt": "system"}
    for name, words in expected.items():
        with pytest.raises(DataError) as refused:
            read_checkpoint(tmp_path / name)
        line = str(refused.value)
        assert str(tmp_path / name) in line and words in line and "\n" not in line, line
    assert not os.path.exists("/tmp/never")


def test_a_missing_resume_file_ends_the_run_before_anything_is_made(tiny: MakeTiny) -> None:
    run = tiny()
    assert "nowhere.pth does not exist" in run.error("checkpoint.resume_file=/nowhere.pth")
    assert not (run.save_dir / "results.json").exists()


def test_a_folder_as_resume_file_names_the_files_in_it(tiny: MakeTiny) -> None:
    folder = tiny("first").run("training.max_updates=5").save_dir
    line = tiny().error(f"checkpoint.resume_file={folder}")
    assert f"{folder} is a folder; did you mean" in line and str(folder / "tiny_final.pth") in line


def test_a_checkpoint_of_another_shape_is_refused_with_what_differs(tiny: MakeTiny) -> None:
    first = tiny("first").run("training.max_updates=5")
    line = tiny().error(
        f"checkpoint.resume_file={first.save_dir / 'tiny_final.pth'}", "model_config.tiny.width=8"
    )
    assert str(first.save_dir / "tiny_final.pth") in line and "head.weight" in line


def test_an_optimizer_state_that_does_not_fit_says_what_to_do(tiny: MakeTiny) -> None:
    first = tiny("first").run("training.max_updates=5")
    path = first.save_dir / "current.ckpt"
    state = torch.load(path, weights_only=True)
    state["optimizer"]["param_groups"].append(state["optimizer"]["param_groups"][0])
    torch.save(state, path)
    assert "reset.optimizer=true" in tiny().error(f"checkpoint.resume_file={path}")


def test_resume_zoo_says_what_to_do_instead(tiny: MakeTiny) -> None:
    assert "resume_file" in tiny().error("checkpoint.resume_zoo=m4c.textvqa.defaults")


# -------------------------------------------------------------------------------- random state


def test_random_state_comes_back() -> None:
    import random

    import numpy as np

    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(())), random.gauss(0, 1)

    state = take_random_state()
    first = draw()
    set_random_state(state)
    with random_state_kept():
        draw()
    assert draw() == first
