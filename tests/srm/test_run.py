"""What a run writes, in which order, and what its switches do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file
from srm_runs import RECORDS, Runs, file_bytes, read_json

from mmclvqa.clove.annotations import load_records, save_records
from SRM.train import main

ORDER = "oarlks"
NAMES = {"o": "object", "a": "attribute", "r": "relation", "l": "logical", "k": "knowledge", "s": "scenetext"}
PAIRS = [(past, current) for at, current in enumerate(ORDER) for past in ORDER[:at]]


def replay(folder: Path, past: str, current: str) -> Path:
    return folder / f"{ORDER}_REPLAY[{past}]_AT[{current}].npy"


@pytest.mark.slow
def test_a_run_writes_all_replay_files_models_and_statistics(srm: Runs) -> None:
    folder = srm("--n_train_epochs", "40")
    assert folder == srm.root / "distilgpt2_replay" / "distilgpt2_functional_oarlks"
    expected = {replay(folder, *pair).name for pair in PAIRS} | {
        f"{ORDER}_REPLAY_AT[{c}].npy" for c in ORDER[1:]
    }
    assert {path.name for path in folder.glob("*.npy")} == expected
    assert {path.stem for path in folder.glob(f"{ORDER}*.json")} == {Path(name).stem for name in expected}
    for name in NAMES.values():
        files = {path.name for path in (folder / "models" / name).iterdir()}
        assert {"model.safetensors", "config.json", "vocab.json"} <= files or {"tokenizer.json"} <= files
    assert not (folder / "unfinished").exists()

    records = load_records(replay(folder, "o", "s"))
    figures = read_json(replay(folder, "o", "s").with_suffix(".json"))
    assert figures["accepted"] == len(records) > 0
    assert (
        figures["prompts"] == 8 == figures["accepted"] + sum(r["count"] for r in figures["refused"].values())
    )
    assert {"duplicates", "distinct_questions", "distinct_answers", "lengths", "answers"} <= set(figures)
    assert {"replay", "real"} < set(figures["answers"][0])
    assert {record["stage"] for record in records} == {"object_gen"}
    assert all(record["gt_scene_graph_mask"][0] == 1 for record in records)
    joined = load_records(folder / f"{ORDER}_REPLAY_AT[s].npy")
    assert joined == [record for past in ORDER[:-1] for record in load_records(replay(folder, past, "s"))]
    ids = [record["question_id"] for path in folder.glob("*REPLAY[[]*.npy") for record in load_records(path)]
    assert len(set(ids)) == len(ids)
    log = (folder / "log_train.txt").read_text()
    assert "loss" in log and "/ qa loss" in log and "/ lm loss" in log and "/ lr" in log


@pytest.mark.slow
def test_two_runs_with_one_seed_write_the_same_bytes(srm: Runs) -> None:
    first = file_bytes(srm("--seed", "3"))
    srm.root = srm.root.with_name("again")
    assert file_bytes(srm("--seed", "3")) == first
    srm.root = srm.root.with_name("other")
    assert file_bytes(srm("--seed", "4")) != first


def test_a_finished_run_is_not_done_again(srm: Runs) -> None:
    folder = srm()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("**/*.npy")}
    srm()
    assert {path: path.stat().st_mtime_ns for path in folder.glob("**/*.npy")} == before


def test_the_scene_setting_is_learned_under_its_own_names(srm: Runs) -> None:
    folder = srm("--debug", setting="scene", order="abcdef")
    assert folder.name == "distilgpt2_scene_abcdef"
    assert (folder / "abcdef_REPLAY[a]_AT[f].npy").exists()
    assert (folder / "models" / "f#Outdoors").is_dir()


def test_without_add_task_tokens_all_tasks_share_one_token(srm: Runs) -> None:
    argv = [word for word in srm.argv("--debug") if word != "--add_task_tokens"]
    assert main(argv) == 0
    folder = next(srm.root.glob("*/*"))
    assert "__gen__" in _tokenizer_text(folder) and "__object__" not in _tokenizer_text(folder)


def test_embeddings_grow_with_every_task(srm: Runs) -> None:
    folder = srm("--debug")
    rows = [
        load_file(folder / "models" / NAMES[letter] / "model.safetensors")["transformer.wte.weight"].shape[0]
        for letter in ORDER
    ]
    assert rows == list(range(rows[0], rows[0] + 6))


def test_train_perc_takes_that_share_of_each_task_and_of_the_replays_in_a_root_of_its_own(srm: Runs) -> None:
    root = srm.root
    srm.root = root.with_name(f"{root.name}_tr0.25")
    assert main(srm.argv("--train_perc", "0.25", "--n_train_epochs", "40", "--model_dir_root", str(root))) == 0
    assert not root.exists()
    folder = next(srm.root.glob("*_replay/*"))
    log = (folder / "log_train.txt").read_text()
    assert f"task object: {RECORDS // 4} records" in log
    accepted = sum(len(load_records(replay(folder, past, "s"))) for past in ORDER[:-1])
    joined = [int(count) for count in re.findall(r"task scenetext: (\d+) replays of", log)]
    assert len(joined) == 5 and sum(joined) == accepted // 4 > 0


def test_use_gt_prompts_with_the_related_items_of_real_records(srm: Runs) -> None:
    path = srm.data / "functional" / "fcl_mmf_object_train.npy"
    records = load_records(path)
    for record in records:
        record["gt_scene_graph_mask"] = [1, 0, 1]
    records[0]["gt_scene_graph_mask"] = [0, 0, 0]
    save_records(path, records)
    (srm.data / "scene_graph_prompts" / "functional.json").unlink()
    folder = srm("--use_gt", "--n_train_epochs", "20")
    real = {tuple(r["gt_scene_graph_seq"][0::2]) for r in records[1:]}
    replays = load_records(replay(folder, "o", "a"))
    prompts = {
        tuple(i for i, m in zip(r["gt_scene_graph_seq"], r["gt_scene_graph_mask"], strict=True) if m)
        for r in replays
    }
    assert prompts and prompts <= real
    assert read_json(replay(folder, "o", "a").with_suffix(".json"))["records_without_prompt"] == 1


def test_functional_two_item_tasks_are_prompted_with_two_items_and_others_with_one(srm: Runs) -> None:
    folder = srm("--n_train_epochs", "20")
    for past, items in (("o", 1), ("a", 1), ("r", 2), ("k", 2)):
        for record in load_records(replay(folder, past, "s")):
            assert sum(record["gt_scene_graph_mask"]) == items


def test_skip_tasks_goes_on_from_models_that_are_there(srm: Runs) -> None:
    folder = srm()
    models = file_bytes(folder, "models/object/*") | file_bytes(folder, "models/attribute/*")
    srm("--overwrite", "--skip_tasks", "o", "a", "--learning_rate", "1e-3")
    assert file_bytes(folder, "models/object/*") | file_bytes(folder, "models/attribute/*") == models
    assert not replay(folder, "o", "a").exists()
    assert replay(folder, "o", "r").exists() and (folder / "models" / "scenetext").is_dir()


def test_debug_takes_few_records_in_file_order_for_one_epoch_and_logs_every_update(srm: Runs) -> None:
    path = srm.data / "functional" / "fcl_mmf_object_train.npy"
    save_records(path, [dict(r, question_id=f"{n}") for n in range(6) for r in load_records(path)])
    log = (srm("--debug", "--n_train_epochs", "9") / "log_train.txt").read_text()
    assert "task object: 64 records" in log
    assert "task object epoch 1/1 update 1:" in log and "task object epoch 1/1 update 16:" in log


def test_gen_debug_takes_few_prompts_and_logs_every_text(srm: Runs) -> None:
    folder = srm("--gen_debug", "--n_prompts", "1000", "--debug")
    figures = read_json(replay(folder, "o", "a").with_suffix(".json"))
    assert figures["prompts"] == 32
    assert (folder / "log_train.txt").read_text().count("\n  graph __object__") == 32 * 5


def test_dynamic_epochs_gives_small_tasks_more_epochs(srm: Runs) -> None:
    path = srm.data / "functional" / "fcl_mmf_attribute_train.npy"
    save_records(path, load_records(path)[: RECORDS // 3])
    log = (srm("--dynamic_epochs", "--n_train_epochs", "2") / "log_train.txt").read_text()
    assert "task object: 2 epochs" in log and "task attribute: 6 epochs" in log


def test_dynamic_epochs_are_rounded_down_and_capped(srm: Runs) -> None:
    for name, count in (("attribute", 5), ("relation", 1)):
        path = srm.data / "functional" / f"fcl_mmf_{name}_train.npy"
        save_records(path, load_records(path)[:count])
    log = (srm("--dynamic_epochs", "--n_train_epochs", "2", "--max_n_epochs", "12") / "log_train.txt").read_text()
    assert "task attribute: 9 epochs" in log and "task relation: 12 epochs" in log


def test_the_log_says_which_arithmetic_is_used_and_which_flags_have_no_effect(srm: Runs) -> None:
    log = (srm("--debug", "--use_sep", "--qp_margin", "0.5") / "log_train.txt").read_text()
    assert "training and generation compute in fp32 (--precision auto)" in log
    assert "without effect: --use_sep --qp_margin" in log


def test_encoder_decoder_models_without_task_tokens_share_one_question_token(srm: Runs) -> None:
    argv = srm.argv("--debug", "--model_name", "t5-small")
    assert main([word for word in argv if word != "--add_task_tokens"]) == 0
    folder = next(srm.root.glob("*/*"))
    assert "__gen__" in _tokenizer_text(folder) and "[que_" not in _tokenizer_text(folder)


def test_at_most_n_replay_replays_join_a_task(srm: Runs) -> None:
    log = (srm("--n_replay", "3", "--n_train_epochs", "20") / "log_train.txt").read_text()
    assert "task scenetext: 3 replays of object join its 24 records" in log


def test_tensorboard_is_written_when_asked(srm: Runs) -> None:
    assert any((srm("--tensorboard", "--debug") / "tensorboard").iterdir())


def _tokenizer_text(folder: Path) -> str:
    return "".join(
        path.read_text(encoding="utf-8") for path in (folder / "models" / "scenetext").glob("*token*.json")
    )


def test_a_prompt_that_was_drawn_again_is_not_generated_again(srm: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from SRM.generate import Generator

    real, given = Generator.texts, []

    def texts(self: Generator, prompts: list, *args: object) -> object:
        given.append(prompts)
        return real(self, prompts, *args)

    monkeypatch.setattr(Generator, "texts", texts)
    folder = srm("--debug", "--n_prompts", "40")
    figures = [read_json(replay(folder, *pair).with_suffix(".json")) for pair in PAIRS]
    assert [each["prompts"] for each in figures] == [40] * 15
    assert all(len(set(prompts)) == len(prompts) < 40 for prompts in given)
