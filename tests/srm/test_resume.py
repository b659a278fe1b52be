"""A run that is killed and restarted has the files of an uninterrupted run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from srm_runs import DEBUG, TRAINED, Runs, file_bytes, kill_when

from SRM.generate import Generator


@pytest.mark.slow
def test_a_run_killed_in_training_and_in_generation_has_the_same_files(srm: Runs, trained: Path) -> None:
    kill_when(srm, TRAINED, lambda folder: (folder / "unfinished" / "training.safetensors").exists())
    kill_when(
        srm,
        TRAINED,
        lambda folder: any(folder.glob("unfinished/replay_a_at_r*")) or any(folder.glob("*[[]a]_AT[[]r]*")),
    )
    assert file_bytes(srm(*TRAINED)) == file_bytes(trained)


def test_a_complete_run_is_not_repeated_and_temporary_files_are_removed(srm: Runs) -> None:
    folder = srm(*DEBUG)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("**/*.npy")}
    (folder / ".oarlks_REPLAY[o]_AT[a].npy.x.tmp").write_text("half")
    (folder / "models" / ".scenetext.tmp").mkdir()
    (folder / "models" / ".scenetext.tmp" / ".answers.json.x.tmp").touch()
    srm(*DEBUG)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("**/*.npy")} == times
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_a_complete_run_that_is_started_again_leaves_no_unfinished_folder(srm: Runs) -> None:
    folder = srm(*DEBUG)
    # As after a kill between saving the last model and removing its checkpoint.
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "training.safetensors").touch()
    srm(*DEBUG)
    assert not (folder / "unfinished").exists()


def test_a_damaged_part_of_a_replay_file_is_named(srm: Runs) -> None:
    folder = srm(*DEBUG)
    for path in folder.glob("*REPLAY*"):
        path.unlink()
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "replay_o_at_a_0000.json").write_text("{")
    assert "unfinished/replay_o_at_a_0000.json: is not valid JSON" in srm.error(*DEBUG)


def test_complete_parts_of_a_replay_file_are_not_generated_again(srm: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (*DEBUG, "--n_prompts", "4")
    monkeypatch.setattr("SRM.replay.PART", 2)
    real, calls, stop_at = Generator.texts, [], 0

    def texts(self: Generator, *args: object) -> object:
        calls.append(args[0])
        if len(calls) == stop_at:
            raise OSError("stopped")
        return real(self, *args)

    monkeypatch.setattr(Generator, "texts", texts)
    undisturbed = file_bytes(srm(*flags))
    parts, stop_at = calls.copy(), 5
    assert len(parts) > 15
    calls.clear()
    srm.root = srm.root.with_name("stopped")
    assert "stopped" in srm.error(*flags)
    assert calls == parts[:5]
    stop_at = 0
    assert file_bytes(srm(*flags)) == undisturbed
    assert calls == parts[:5] + parts[4:]


def test_deleted_replays_are_generated_again_by_the_models_of_their_tasks(srm: Runs) -> None:
    folder = srm(*DEBUG)
    files = file_bytes(folder)
    for path in folder.glob("*REPLAY*"):
        if "[o]_AT[a]" not in path.name:
            path.unlink()
    # As after a kill between the replay file and the removal of its parts.
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "replay_o_at_a_0000.json").touch()
    assert file_bytes(srm(*DEBUG)) == files


def test_a_run_that_failed_before_its_first_result_does_not_block_another(srm: Runs) -> None:
    folder = srm(*DEBUG)
    for path in (*folder.glob("*REPLAY*"), *folder.glob("models/*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert srm(*DEBUG, "--seed", "5") == folder


@pytest.mark.parametrize("size", [0, 300])
def test_empty_and_truncated_results_are_not_taken_for_complete(srm: Runs, size: int) -> None:
    folder = srm(*DEBUG)
    files = file_bytes(folder)
    replay, joined = folder / "oarlks_REPLAY[o]_AT[r].npy", folder / "oarlks_REPLAY_AT[s].npy"
    for path in (replay, joined):
        path.write_bytes(files[path.name][: min(size, len(files[path.name]) - 3)])
        assert f"{path}: is empty or truncated; remove it" in srm.error(*DEBUG)
        path.unlink()
        assert file_bytes(srm(*DEBUG)) == files

    weights = folder / "models" / "attribute" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    error = srm.error(*DEBUG)
    assert f"{weights.parent}: model.safetensors is missing, empty or truncated; remove this folder" in error
    assert "model.safetensors" in srm.error(*DEBUG, "--overwrite", "--skip_tasks", "o", "a")
    shutil.rmtree(weights.parent)
    assert file_bytes(srm(*DEBUG)) == files
