"""The data set `clvqa`, on clove-mini's files."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from mmf.common.registry import registry
from mmf.common.sample import SampleList
from mmf.utils.distributed import byte_tensor_to_object

from mmclvqa.clove.errors import CloveError, ConfigError
from mmclvqa.clove.records import load_records, save_records
from mmclvqa.datasets.prepared import scene_graph_text
from mmclvqa.datasets.processors import dense_targets
from mmclvqa.models import UniVQANetwork
from mmclvqa.models.inputs import UniVQAInputs
from mmclvqa.training.loading import Split
from tests.plugin.dataset_builds import REGIONS, SLOTS, STEPS, WIDTH, Build


def with_records(clove_mini: Path, folder: Path, task: str, change: Callable[[list[dict]], None]) -> Path:
    """A copy of the data root in which the task's train records are changed."""
    root = folder / "root"
    shutil.copytree(clove_mini, root, dirs_exist_ok=True)
    path = root / "functional" / f"fcl_mmf_{task}_train.npy"
    records = load_records(path)
    change(records)
    save_records(path, records)
    return root


def test_a_sample_has_the_fields_and_shapes_of_the_spec(build: Build) -> None:
    data = build("scenetext", "train")
    answers = data.answer_processor.get_true_vocab_size()
    sample = data[0]
    wanted = {
        "text": (20,),
        "text_len": (),
        "sg_text": (480,) if data.scene_graph_processor._max_seq_length == 480 else None,
        "sg_text_len": (),
        "knowledge_text": (20,),
        "knowledge_text_len": (),
        "image_feature_0": (REGIONS, WIDTH),
        "obj_bbox_coordinates": (REGIONS, 4),
        "image_feature_1": (REGIONS, WIDTH),
        "ocr_bbox_coordinates": (SLOTS, 4),
        "context_feature_0": (SLOTS, 300),
        "context_feature_1": (SLOTS, 604),
        "order_vectors": (SLOTS, SLOTS),
        "train_prev_inds": (STEPS,),
        "train_loss_mask": (STEPS,),
        "target_inds": (200 + STEPS - 1,),
        "target_scores": (200 + STEPS - 1,),
    }
    shapes = {field: tuple(sample[field].shape) for field in wanted}
    assert shapes == {field: shape or shapes[field] for field, shape in wanted.items()}
    assert sample.image_info_0.max_features.shape == sample.context_info_0.max_features.shape == ()
    assert data.answer_processor.get_vocab_size() == answers + SLOTS
    assert registry.get("clvqa_num_final_outputs") == answers + SLOTS


def test_targets_equal_those_of_mmfs_own_answer_processor(build: Build) -> None:
    from mmf.datasets.processors.processors import M4CAnswerProcessor

    data = build("scenetext", "train")
    config = data.config.processors.answer_processor.params.copy()
    config.vocab_file = str(Path(data.config.data_dir).absolute() / config.vocab_file)
    oracle = M4CAnswerProcessor(config)
    copied = 0
    for index in range(len(data)):
        record, sample = data.records[index], data[index]
        tokens = byte_tensor_to_object(sample.context_tokens)
        wanted = oracle({"answers": record["answers"], "tokens": tokens})
        batch = SampleList([sample])
        targets = dense_targets(batch.target_inds, batch.target_scores, STEPS, data.answer_processor.get_vocab_size())
        torch.testing.assert_close(targets[0, 0], wanted["answers_scores"][0])
        torch.testing.assert_close(sample.train_loss_mask, wanted["train_loss_mask"])
        if torch.equal(sample.train_prev_inds, wanted["train_prev_inds"]):
            torch.testing.assert_close(targets[0], wanted["answers_scores"])
        copied += int((sample.target_inds >= data.answer_processor.get_true_vocab_size()).any())
    assert copied, "no answer of the scenetext task is copied from OCR tokens"


def test_prepare_batch_builds_dense_targets(build: Build) -> None:
    data = build("object", "train")
    batch = data.prepare_batch(data.load_batch(range(4)))
    outputs = data.answer_processor.get_vocab_size()
    assert batch.targets.shape == (4, STEPS, outputs)
    assert torch.all(batch.targets.flatten(1).sum(1) >= 1)


def test_texts_end_with_separators_and_count_real_tokens(build: Build) -> None:
    data = build("object", "train")
    tokenizer = data.text_processor._tokenizer
    sample, record = data[0], data.records[0]
    length = int(sample.text_len)
    words = [tokenizer.id_to_token(index) for index in sample.text[:length].tolist()]
    assert (words[0], words[-1]) == ("[CLS]", "[SEP]")
    assert words[1:-1] == tokenizer.encode(record["question"], add_special_tokens=False).tokens[: len(words) - 2]
    assert not sample.text[length:].any()


@pytest.mark.parametrize("name", ["text_processor", "scene_graph_processor"])
def test_the_quick_tokenizer_gives_the_ids_of_mmfs(build: Build, name: str) -> None:
    from mmf.datasets.processors.bert_processors import BertTokenizer

    data = build("scenetext", "train")
    processor = getattr(data, name).processor
    oracle = BertTokenizer(data.config.processors[name].params)
    if name == "scene_graph_processor":
        oracle._tokenizer.add_special_tokens({"additional_special_tokens": ["[OCR]"]})
    for index in range(len(data)):
        for text in (data.records[index]["question"], scene_graph_text(data.records[index], False), ""):
            mine, wanted = processor({"text": text}), oracle({"text": text})
            assert torch.equal(mine["input_ids"], wanted["input_ids"])
            assert mine["length"] == len(wanted["tokens"])


def test_the_released_json_files_work_as_well(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    root = with_records(clove_mini, tmp_path, "object", lambda records: None)
    path = root / "functional" / "fcl_mmf_object_train.npy"
    path.with_suffix(".json").write_text(json.dumps(load_records(path)))
    path.unlink()
    assert torch.equal(build("object", "train", root=root)[0].sg_text, build("object", "train")[0].sg_text)


def test_knowledge_is_the_first_facts_triplet_or_nothing(build: Build) -> None:
    without = build("object", "train")[0]
    assert int(without.knowledge_text_len) == 2
    data = build("knowledge", "train")
    with_fact = next(i for i in range(len(data)) if data.records[i]["supporting_fact"])
    assert int(data[with_fact].knowledge_text_len) > 2


def test_the_scene_graph_tokenizer_has_one_special_token_more(build: Build) -> None:
    data = build("object", "train")
    graph, text = data.scene_graph_processor._tokenizer, data.text_processor._tokenizer
    assert graph.get_vocab_size() == text.get_vocab_size() + 1
    assert graph.encode("sign with [OCR] stop", add_special_tokens=False).tokens[2] == "[OCR]"


def test_scene_graph_text_joins_items_and_drops_the_last_separator() -> None:
    record = {
        "stage": "object_replay",
        "pred_scene_graph_seq": ["cup [SEP]", "cup on table [SEP]"],
        "gt_scene_graph_seq": ["plate [SEP]"],
    }
    assert scene_graph_text(record, use_gt_sg=False) == "cup [SEP] cup on table"
    assert scene_graph_text(record, use_gt_sg=True) == "plate"
    assert scene_graph_text({**record, "stage": "object"}, use_gt_sg=True) == "cup [SEP] cup on table"


def test_boxes_are_divided_by_the_image_size(build: Build) -> None:
    data = build("object", "train")
    boxes = data[0].obj_bbox_coordinates
    assert float(boxes.min()) >= 0 and 0.1 < float(boxes.max()) <= 1.0
    real = int(data[0].image_info_0.max_features)
    assert not boxes[real:].any() and not data[0].image_feature_0[real:].any()


@pytest.mark.parametrize("stage", ["object_gen", "object_replay_##"])
def test_a_replay_without_image_has_zero_regions_that_all_count(
    build: Build, clove_mini: Path, tmp_path: Path, stage: str
) -> None:
    def withhold(records: list[dict]) -> None:
        for record in records:
            record["stage"] = stage

    root = with_records(clove_mini, tmp_path, "object", withhold)
    sample = build("object", "train", root=root)[0]
    assert int(sample.image_info_0.max_features) == REGIONS
    assert not sample.image_feature_0.any() and not sample.obj_bbox_coordinates.any()


def test_images_are_withheld_with_the_given_probability_in_training_only(build: Build) -> None:
    words = ("dataset_config.clvqa.use_mask_img=True", "dataset_config.clvqa.mask_img_prob=0.5")
    train = build("object", "train", *words)
    withheld = [not train[i].image_feature_0.any() for i in range(len(train))]
    assert 0.25 < np.mean(withheld) < 0.75
    val = build("object", "val", *words)
    assert all(val[i].image_feature_0.any() for i in range(len(val)))


def test_boxes_of_objects_can_be_left_out(build: Build) -> None:
    data = build("scenetext", "train", "dataset_config.clvqa.use_obj_boxes=False")
    batch = data.load_batch(range(4))
    assert batch.image_feature_0.any() and not batch.obj_bbox_coordinates.any()
    assert batch.obj_bbox_coordinates.shape == (*batch.image_feature_0.shape[:2], 4)
    assert batch.ocr_bbox_coordinates.any()


def test_masking_zeroes_object_features_only(build: Build) -> None:
    sound = build("scenetext", "train")
    masked = build(
        "scenetext", "train", "dataset_config.clvqa.use_mask_img=True", "dataset_config.clvqa.mask_img_prob=1.0"
    )
    kept = ("image_feature_1", "obj_bbox_coordinates", "ocr_bbox_coordinates", "context_feature_0")
    for index in range(4):
        assert sound[index].image_feature_0.any() and not masked[index].image_feature_0.any()
        assert masked[index].image_info_0.max_features == sound[index].image_info_0.max_features
        for field in kept:
            assert masked[index][field].any(), field
            torch.testing.assert_close(masked[index][field], sound[index][field])


def test_draws_follow_from_seed_and_epoch_alone(build: Build) -> None:
    words = ("dataset_config.clvqa.use_mask_img=True", "dataset_config.clvqa.mask_img_prob=0.5")
    data = build("object", "train", *words)

    def withheld() -> list[bool]:
        return [not data[i].image_feature_0.any() for i in range(len(data))]

    first = withheld()
    np.random.seed(99)
    assert withheld() == first
    data.set_epoch(1)
    assert withheld() != first
    data.set_epoch(0)
    assert withheld() == first


def test_data_loading_leaves_the_callers_random_state_alone(build: Build) -> None:
    data = build("object", "train")
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    data[0]
    assert np.array_equal(before, np.random.get_state()[1])


def test_use_ocr_false_empties_the_ocr_side(build: Build) -> None:
    data = build("scenetext", "train", "dataset_config.clvqa.use_ocr=False")
    sample = data[0]
    assert int(sample.context_info_0.max_features) == 0
    for field in ("context_feature_0", "context_feature_1", "image_feature_1", "ocr_bbox_coordinates"):
        assert not sample[field].any(), field


def test_text_images_are_read_from_both_textvqa_databases(build: Build) -> None:
    data = build("scenetext", "train")
    index = next(i for i in range(len(data)) if data.records[i]["ocr_tokens"])
    sample = data[index]
    assert data.records[index]["image_source"] == "textvqa"
    assert sample.image_feature_0.any() and sample.image_feature_1.any()
    assert sample.context_feature_0.any() and sample.context_feature_1.any()


def test_a_batch_is_as_wide_as_its_records_need(build: Build) -> None:
    data = build("object", "train")
    samples = [data[i] for i in range(4)]
    most = max(int(s.image_info_0.max_features) for s in samples)
    batch = data.load_batch(range(4))
    assert batch.image_feature_0.shape == (4, most, WIDTH)
    assert batch.dataset_name == "clvqa" and batch.dataset_type == "train"


def test_a_folder_of_npy_features_works_too(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gqa"
    folder.mkdir()
    data = build("object", "train")
    for index in range(len(data)):
        name = data.records[index]["feature_path"]
        info = data.features.open("gqa")[0].read(name)
        np.save(folder / name, info.pop("features"))
        np.save(folder / f"{name.removesuffix('.npy')}_info.npy", np.array(info, dtype=object), allow_pickle=True)
    from_files = build("object", "train", f"dataset_config.clvqa.features.gqa={folder}")
    for field in ("image_feature_0", "obj_bbox_coordinates"):
        torch.testing.assert_close(from_files[0][field], data[0][field])


def test_predictions_are_words_with_their_source(build: Build) -> None:
    data = build("scenetext", "train")
    index = next(i for i in range(len(data)) if data.records[i]["ocr_tokens"])
    batch = data.load_batch([index])
    answers = data.answer_processor.get_true_vocab_size()
    scores = torch.zeros(1, STEPS, answers + SLOTS)
    scores[0, 0, 4] = scores[0, 1, answers] = scores[0, 2, data.answer_processor.EOS_IDX] = 1
    batch.scores = scores
    (entry,) = data.format_for_prediction(batch)
    word = data.answer_processor.answer_vocab.idx2word(4)
    assert entry["answer"] == f"{word} {data.records[index]['ocr_tokens'][0]}"
    assert entry["pred_source"] == ["VOCAB", "OCR"]
    assert entry["question_id"] == data.records[index]["question_id"]


def refuse(build: Build, message: str, *args: Any, read: bool = True, **kwargs: Any) -> None:
    with pytest.raises(CloveError, match=message) as caught:
        data = build(*args, **kwargs)
        if read:
            for index in range(len(data)):
                data[index]
    assert "\n" not in str(caught.value)


def test_a_missing_data_root_says_how_to_get_one(build: Build, tmp_path: Path) -> None:
    refuse(build, "set CLOVE_ROOT", "object", "train", root=tmp_path / "nowhere")


def test_a_truncated_annotation_file_is_named(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    root = with_records(clove_mini, tmp_path, "object", lambda records: None)
    path = root / "functional" / "fcl_mmf_object_train.npy"
    path.write_bytes(path.read_bytes()[:-100])
    refuse(build, "fcl_mmf_object_train.npy", "object", "train", root=root)


def test_a_record_without_a_field_is_named(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    def spoil(records: list[dict]) -> None:
        del records[3]["question"]

    root = tmp_path / "root"
    shutil.copytree(clove_mini, root)
    path = root / "functional" / "fcl_mmf_object_train.npy"
    records = load_records(path)
    spoil(records)
    np.save(path, np.array(records, dtype=object), allow_pickle=True)
    refuse(build, "question", "object", "train", root=root)


def test_code_in_a_feature_value_is_not_run(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    root = with_records(clove_mini, tmp_path, "object", lambda records: None)
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (mark,))

    path = root / "features" / "gqa" / "defaults" / "features" / "gqa.lmdb"
    env = lmdb.open(str(path), subdir=path.is_dir(), map_size=2**30)
    with env.begin(write=True) as transaction:
        for key in pickle.loads(transaction.get(b"keys")):
            transaction.put(key, pickle.dumps(Evil()))
    env.close()
    refuse(build, "gqa.lmdb", "object", "train", root=root)
    assert not mark.exists()


def test_a_missing_feature_names_the_record(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    def point_nowhere(records: list[dict]) -> None:
        records[0]["feature_path"] = "987654321.npy"

    root = with_records(clove_mini, tmp_path, "object", point_nowhere)
    refuse(build, "no entry for '987654321.npy' .question ", "object", "train", root=root)


def with_boxes(clove_mini: Path, folder: Path, change: Callable[[dict], None]) -> Path:
    """A copy of the data root in which every value of the GQA features is changed."""
    root = with_records(clove_mini, folder, "object", lambda records: None)
    path = root / "features" / "gqa" / "defaults" / "features" / "gqa.lmdb"
    with lmdb.open(str(path), subdir=path.is_dir(), map_size=2**30) as env, env.begin(write=True) as transaction:
        for key in pickle.loads(transaction.get(b"keys")):
            value = pickle.loads(transaction.get(key))
            change(value)
            transaction.put(key, pickle.dumps(value))
    return root


def test_features_without_boxes_get_zero_boxes_and_one_warning(
    build: Build, clove_mini: Path, tmp_path: Path, coercions_said: list[str]
) -> None:
    root = with_boxes(clove_mini, tmp_path, lambda value: value.pop("bbox"))
    data = build("object", "train", root=root)
    samples = [data[index] for index in range(4)]
    assert all(sample.image_feature_0.any() and not sample.obj_bbox_coordinates.any() for sample in samples)
    assert len(coercions_said) == 1 and "gqa.lmdb: features without bbox get zero boxes" in coercions_said[0]


def test_boxes_of_three_numbers_are_refused_with_their_entry(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    root = with_boxes(clove_mini, tmp_path, lambda value: value.update(bbox=value["bbox"][:, :3]))
    refuse(build, r"gqa.lmdb: its bbox has shape \d+ x 3 instead of .* \(question ", "object", "train", root=root)


def test_a_record_in_textvqas_own_form_gives_the_same_sample(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    def respell(records: list[dict]) -> None:
        for record in records:
            del record["ocr_normalized_boxes"]
            for word in record["ocr_info"]:
                box = word["bounding_box"]
                box["topLeftX"], box["topLeftY"] = box.pop("top_left_x"), box.pop("top_left_y")

    sound = build("scenetext", "train")
    respelled = build("scenetext", "train", root=with_records(clove_mini, tmp_path, "scenetext", respell))
    for index in range(4):
        assert sound[index].ocr_bbox_coordinates.any()
        torch.testing.assert_close(respelled[index].ocr_bbox_coordinates, sound[index].ocr_bbox_coordinates)


def test_a_truncated_database_is_named(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    root = with_records(clove_mini, tmp_path, "object", lambda records: None)
    path = root / "features" / "gqa" / "defaults" / "features" / "gqa.lmdb"
    data_file = path / "data.mdb" if path.is_dir() else path
    data_file.write_bytes(data_file.read_bytes()[:1000])
    refuse(build, "gqa.lmdb", "object", "train", root=root)


def test_features_of_another_width_name_the_key(build: Build) -> None:
    refuse(build, "feature_dim is 32", "object", "train", "dataset_config.clvqa.feature_dim=32")


def test_a_number_as_an_annotation_file_is_the_name_of_a_file(build: Build) -> None:
    refuse(build, "/7: ", "object", "train", "dataset_config.clvqa.annotations.train=[7]")


def test_a_processor_that_is_not_registered_is_named(build: Build) -> None:
    key = "dataset_config.clvqa.processors.text_processor.type"
    with pytest.raises(ConfigError, match=f"{key}: no processor named 'clvqa_bert'; did .* clvqa_bert_tokenizer"):
        build("object", "train", f"{key}=clvqa_bert")


def test_an_answer_vocabulary_without_specials_is_refused(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    root = with_records(clove_mini, tmp_path, "object", lambda records: None)
    path = root / "vocab" / "clvqa_answer_6k.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    refuse(build, "first lines must be", "object", "train", root=root)


def test_a_truncated_fasttext_model_is_refused(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(clove_mini, root)
    file = root / "pretrained" / "fasttext" / "wiki.en.bin"
    file.write_bytes(file.read_bytes()[:-1000])
    refuse(build, "wiki.en.bin: is truncated", "scenetext", "train", root=root)


def test_a_missing_fasttext_model_says_what_to_do(build: Build, clove_mini: Path, tmp_path: Path) -> None:
    root = with_records(clove_mini, tmp_path, "scenetext", lambda records: None)
    (root / "pretrained" / "fasttext" / "wiki.en.bin").unlink()
    refuse(build, "model_file to null", "scenetext", "train", root=root)
    null = build(
        "scenetext", "train", "dataset_config.clvqa.processors.context_processor.params.model_file=null", root=root
    )
    assert not null[0].context_feature_0.any()
    assert any("zero vectors" in line for line in null.writer.lines)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_network_packs_a_batch_without_reading_from_the_device(build: Build, split: str) -> None:
    """On the meta device, which has shapes and no values, every read raises an error."""
    data = build("scenetext", split)
    data._device = torch.device("meta")
    batch = data.prepare_batch(data.load_batch(range(6)))
    assert batch.text.device.type == batch.targets.device.type == "meta" and batch.text_len.device.type == "cpu"
    config = registry.get("config").model_config.unicl
    with torch.device("meta"):
        network = UniVQANetwork(config, data.answer_processor.get_true_vocab_size())
    for training in (True, False):
        scores = network.train(training).answer(UniVQAInputs.of(batch))["scores"]
        assert scores.shape == batch.targets.shape


def test_slots_in_use_are_those_that_the_dense_targets_refer_to(build: Build) -> None:
    data = build("scenetext", "train")
    batch = data.prepare_batch(data.load_batch(range(40)))
    inputs = UniVQAInputs.of(batch)
    num_answers = data.answer_processor.get_true_vocab_size()
    real = torch.arange(SLOTS) < inputs.ocr_num[:, None]
    assert torch.equal(batch.ocr_slots, real | inputs.referenced_slots(num_answers))
    assert batch.ocr_slots.any() and not batch.ocr_slots.all()


def test_threads_load_the_batches_of_one_thread(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmclvqa.clove.features.REOPEN_AFTER_BYTES", 10_000)  # a few records
    monkeypatch.setattr("mmclvqa.datasets.features.KEEP_BYTES", 0)

    def batches(threads: int) -> list[SampleList]:
        dataset = build("scenetext", "train", "dataset_config.clvqa.use_mask_img=true")
        training = registry.get("config").training
        training.update({"batch_size": 8, "num_workers": threads})
        split = Split("train", [dataset], training, seed=5)
        return [next(loaded)[0] for epoch in (1, 2) for _, loaded in split.updates(epoch)]

    for one, other in zip(batches(0), batches(4), strict=True):
        assert one.keys() == other.keys()
        for field, value in one.items():
            parts = value if isinstance(value, SampleList) else {field: value}
            others = other[field] if isinstance(value, SampleList) else other
            assert all(np.array_equal(part, others[key]) for key, part in parts.items()), field


def test_a_loop_that_ends_early_leaves_no_loading_thread(build: Build) -> None:
    dataset = build("object", "train")
    training = registry.get("config").training
    training.update({"batch_size": 2, "num_workers": 2})
    for _, loaded in Split("train", [dataset], training, seed=5).updates(1):
        next(loaded)
        break
    del loaded
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data loading")]
