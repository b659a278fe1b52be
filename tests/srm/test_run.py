"""The files of a run and the effect of its flags."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from srm_runs import DEBUG, RECORDS, Runs, file_bytes, read_json

from mmclvqa.clove.data_root import existing_annotation_file
from mmclvqa.clove.records import load_records, save_records
from SRM.data import read_prompts, replay_records, training_records
from SRM.generate import Generator
from SRM.settings import parse
from SRM.train import main

ORDER = "oarlks"
NAMES = {"o": "object", "a": "attribute", "r": "relation", "l": "logical", "k": "knowledge", "s": "scenetext"}
PAIRS = [(past, current) for at, current in enumerate(ORDER) for past in ORDER[:at]]


def replay(folder: Path, past: str, current: str) -> Path:
    return folder / f"{ORDER}_REPLAY[{past}]_AT[{current}].npy"


@pytest.mark.slow
def test_a_run_writes_all_replay_files_models_and_statistics(trained: Path) -> None:
    folder = trained
    assert folder.parts[-2:] == ("distilgpt2_replay", "distilgpt2_functional_oarlks")
    expected = {replay(folder, *pair).name for pair in PAIRS} | {f"{ORDER}_REPLAY_AT[{c}].npy" for c in ORDER[1:]}
    assert {path.name for path in folder.glob("*.npy")} == expected
    assert {path.stem for path in folder.glob(f"{ORDER}*.json")} == {Path(name).stem for name in expected}
    for name in NAMES.values():
        files = {path.name for path in (folder / "models" / name).iterdir()}
        assert {"model.safetensors", "config.json", "vocab.json"} <= files or {"tokenizer.json"} <= files
    assert not (folder / "unfinished").exists()

    records = load_records(replay(folder, "o", "s"))
    statistics = read_json(replay(folder, "o", "s").with_suffix(".json"))
    assert statistics["accepted"] == len(records) > 0
    assert (
        statistics["prompts"] == 8 == statistics["accepted"] + sum(r["count"] for r in statistics["refused"].values())
    )
    assert {"duplicates", "distinct_questions", "distinct_answers", "lengths", "answers"} <= set(statistics)
    assert {"replay", "real"} < set(statistics["answers"][0])
    assert {record["stage"] for record in records} == {"object_gen"}
    assert all(record["gt_scene_graph_mask"][0] == 1 for record in records)
    joined = load_records(folder / f"{ORDER}_REPLAY_AT[s].npy")
    assert joined == [record for past in ORDER[:-1] for record in load_records(replay(folder, past, "s"))]
    ids = [record["question_id"] for path in folder.glob("*REPLAY[[]*.npy") for record in load_records(path)]
    assert len(set(ids)) == len(ids)
    log = (folder / "log_train.txt").read_text()
    assert "loss" in log and "/ qa loss" in log and "/ lm loss" in log and "/ lr" in log


def test_the_scene_setting_has_its_own_names(scene_run: Path) -> None:
    folder = scene_run
    assert folder.name == "distilgpt2_scene_abcdef"
    assert (folder / "abcdef_REPLAY[a]_AT[f].npy").exists()
    assert (folder / "models" / "f#Outdoors").is_dir()


@pytest.mark.parametrize("name", ["distilgpt2", "t5-small"])
def test_without_add_task_tokens_all_tasks_share_their_tokens(srm: Runs, name: str) -> None:
    argv = srm.argv(*DEBUG, "--model_name", name)
    assert main([argument for argument in argv if argument != "--add_task_tokens"]) == 0
    folder = next(srm.root.glob("*/*"))
    files = (folder / "models" / "scenetext").glob("*token*.json")
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert "__gen__" in text and "__object__" not in text and "[que_" not in text


def test_embeddings_grow_with_every_task(trained: Path) -> None:
    rows = [
        load_file(trained / "models" / NAMES[letter] / "model.safetensors")["transformer.wte.weight"].shape[0]
        for letter in ORDER
    ]
    assert rows == list(range(rows[0], rows[0] + 6))


def test_train_perc_keeps_that_share_of_the_records_and_of_all_replays(shared_world: Path, tmp_path: Path) -> None:
    settings = parse(Runs(shared_world, tmp_path).argv("--train_perc", "0.25", "--n_replay", "7"))
    *earlier, current = settings.order
    records = load_records(existing_annotation_file(shared_world, current, "train"))
    assert len(training_records(settings, current)) == RECORDS // 4
    files = {past: tmp_path / f"{past.name}.npy" for past in earlier}
    for path in files.values():
        save_records(path, records)
    replays = replay_records(settings, files, current)
    assert list(replays) == earlier and sum(map(len, replays.values())) == 5 * 7 // 4


def test_use_gt_prompts_with_the_related_items_of_real_records(srm: Runs) -> None:
    path = srm.data / "functional" / "fcl_mmf_object_train.npy"
    records = load_records(path)
    for record in records:
        record["gt_scene_graph_mask"] = [1, 0, 1]
    records[0]["gt_scene_graph_mask"] = [0, 0, 0]
    save_records(path, records)
    (srm.data / "scene_graph_prompts" / "functional.json").unlink()
    settings = parse(srm.argv("--use_gt"))
    prompts = read_prompts(settings, settings.order[0], records)
    items = [record["gt_scene_graph_seq"] for record in records[1:]]
    assert [tuple(f"{item} [SEP]" for item in prompt) for prompt in prompts.items] == [(a, c) for a, _, c in items]
    statistics = read_json(replay(srm("--use_gt", *DEBUG), "o", "a").with_suffix(".json"))
    assert statistics["records_without_prompt"] == 1


def test_functional_prompts_have_two_items_in_some_tasks_and_one_in_others(trained: Path) -> None:
    for past, items in (("o", 1), ("a", 1), ("r", 2), ("k", 2)):
        prompted = {sum(record["gt_scene_graph_mask"]) for record in load_records(replay(trained, past, "s"))}
        assert prompted == {items}


def test_skip_tasks_continues_from_existing_models(srm: Runs) -> None:
    folder = srm(*DEBUG)
    models = file_bytes(folder, "models/object/*") | file_bytes(folder, "models/attribute/*")
    srm(*DEBUG, "--overwrite", "--skip_tasks", "o", "a", "--learning_rate", "1e-3")
    assert file_bytes(folder, "models/object/*") | file_bytes(folder, "models/attribute/*") == models
    assert not replay(folder, "o", "a").exists()
    assert replay(folder, "o", "r").exists() and (folder / "models" / "scenetext").is_dir()


def test_the_last_task_is_trained_only_without_skip_last_training(srm: Runs) -> None:
    folder = srm(*DEBUG, "--n_prompts", "2", "--skip_last_training")
    replays = file_bytes(folder, "*.npy")
    assert replay(folder, "k", "s").exists() and not (folder / "models" / "scenetext").exists()
    assert not (folder / "unfinished").exists()
    srm(*DEBUG, "--n_prompts", "2", "--skip_last_training")
    assert "all tasks are already complete" in (folder / "log_train.txt").read_text()
    srm(*DEBUG, "--n_prompts", "2")
    assert (folder / "models" / "scenetext").is_dir() and file_bytes(folder, "*.npy") == replays


def test_debug_trains_one_epoch_on_few_records_and_logs_every_update(srm: Runs) -> None:
    path = srm.data / "functional" / "fcl_mmf_object_train.npy"
    save_records(path, [dict(r, question_id=f"{n}") for n in range(6) for r in load_records(path)])
    log = (srm(*DEBUG, "--n_train_epochs", "9") / "log_train.txt").read_text()
    assert "task object: 64 records" in log
    assert "task object epoch 1/1 update 1:" in log and "task object epoch 1/1 update 16:" in log


def test_gen_debug_logs_every_text_and_repeated_prompts_are_generated_from_once(
    srm: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, calls = Generator.texts, []

    def recorded(self: Generator, prompts: list, *args: object) -> object:
        calls.append(prompts)
        return texts(self, prompts, *args)

    monkeypatch.setattr(Generator, "texts", recorded)
    folder = srm(*DEBUG, "--gen_debug", "--n_prompts", "1000")
    statistics = [read_json(replay(folder, *pair).with_suffix(".json")) for pair in PAIRS]
    assert [each["prompts"] for each in statistics] == [32] * 15
    assert (folder / "log_train.txt").read_text().count("\n  graph __object__") == 32 * 5
    assert all(len(set(prompts)) == len(prompts) for prompts in calls)
    assert len(calls[0]) < 32, "prompts of one item are drawn repeatedly"


def test_dynamic_epochs_are_rounded_down_and_limited(srm: Runs) -> None:
    for name, count in (("attribute", RECORDS // 3), ("relation", 5), ("logical", 1)):
        path = srm.data / "functional" / f"fcl_mmf_{name}_train.npy"
        save_records(path, load_records(path)[:count])
    flags = ("--dynamic_epochs", "--n_train_epochs", "2", "--max_n_epochs", "12", "--n_prompts", "2")
    log = (srm(*flags, "--max_length", "20") / "log_train.txt").read_text()
    epochs = {"object": 2, "attribute": 6, "relation": 9, "logical": 12}
    assert all(f"task {name}: {number} epochs" in log for name, number in epochs.items())


@pytest.fixture(scope="module")
def scene_run(shared_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the scene setting with TensorBoard and two flags without effect."""
    flags = (*DEBUG, "--tensorboard", "--use_sep", "--qp_margin", "0.5")
    return Runs(shared_world, tmp_path_factory.mktemp("scene"))(*flags, setting="scene", order="abcdef")


def test_the_log_names_the_precision_and_the_flags_without_effect(scene_run: Path) -> None:
    log = (scene_run / "log_train.txt").read_text()
    assert "training and generation compute in fp32 (--precision auto)" in log
    assert "ignored flags (no effect in the published code): --use_sep --qp_margin" in log


def test_tensorboard_files_are_written_on_request(scene_run: Path) -> None:
    assert any((scene_run / "tensorboard").iterdir())


def test_at_most_n_replay_replays_join_a_task(trained: Path) -> None:
    assert "task scenetext: 3 replays of object are added to its 24 records" in (trained / "log_train.txt").read_text()
