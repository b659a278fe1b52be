"""Initial weights come from the named files, or the log says that they are random; nothing in between."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmclvqa.clove.errors import CloveError, DataError, UnsafePickleError
from mmclvqa.models import build_univqa
from tests.models.batches import small_config

NO_FC7 = {"weights_file": None, "bias_file": None}


def config(tmp_path, **changes):
    return {**small_config(), "model_data_dir": str(tmp_path), "text_bert_source": None, "fc7": NO_FC7, **changes}


@pytest.fixture
def bert():
    """Tensors of a BERT of three layers, named as BERT-base's own file names them."""
    torch.manual_seed(3)
    settings = small_config(text_bert__num_hidden_layers=3, text_bert_resize_token_ocr=False)
    state = build_univqa({**settings, "text_bert_source": None}, 5).text_bert.state_dict()
    former = {}
    for name, tensor in state.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        former[f"bert.{name}"] = tensor
    return {**former, "cls.predictions.bias": torch.zeros(50)}


def test_fc7_is_found_where_mmf_keeps_it(tmp_path):
    folder = tmp_path / "models" / "detectron.defaults"
    folder.mkdir(parents=True)
    plain = build_univqa(config(tmp_path), 5).obj_faster_rcnn_fc7.lc
    for name, parameter in (("fc7_w", plain.weight), ("fc7_b", plain.bias)):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(np.full(tuple(parameter.shape), 0.5, dtype=np.float32)))
    files = {"weights_file": "pretrained/detectron/fc7_w.pkl", "bias_file": "pretrained/detectron/fc7_b.pkl"}
    network = build_univqa(config(tmp_path, fc7=files), 5)
    assert bool((network.obj_faster_rcnn_fc7.lc.weight == 0.5).all())


@pytest.fixture
def fc7(tmp_path):
    """Pickled fc7 arrays at their place in the data root; gives the configuration section."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pretrained" / "detectron"
    folder.mkdir(parents=True)
    for name, shape in (("fc7_w.pkl", (20, 16)), ("fc7_b.pkl", (20,))):
        (folder / name).write_bytes(pickle.dumps(rng.random(shape, dtype=np.float32)))
    return {"weights_file": "pretrained/detectron/fc7_w.pkl", "bias_file": "pretrained/detectron/fc7_b.pkl"}


def write_bert(tensors, folder, file="model.safetensors"):
    folder.mkdir(parents=True)
    if file.endswith(".bin"):
        torch.save(tensors, folder / file)
    else:
        save_file(tensors, folder / file)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("place", ["name", "folder"])
def test_text_bert_starts_from_berts_embeddings_and_first_layers(tmp_path, bert, file, place, caplog):
    folder = tmp_path / "pretrained" / "tiny-bert"
    write_bert(bert, folder, file)
    with caplog.at_level(logging.INFO, logger="mmf.univqa"):
        source = "tiny-bert" if place == "name" else str(folder)
        net = build_univqa(config(tmp_path, text_bert_source=source), 5)
    state = net.text_bert.state_dict()
    assert torch.equal(state["embeddings.word_embeddings.weight"][:50], bert["bert.embeddings.word_embeddings.weight"])
    assert state["embeddings.word_embeddings.weight"][50].any()  # [OCR]
    for name in ("encoder.layer.1.output.LayerNorm.weight", "encoder.layer.0.attention.self.query.weight"):
        assert torch.equal(state[name], bert["bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma")])
    assert f"first 2 layers from {folder / file}" in caplog.text


@pytest.mark.parametrize(
    "change", [{"text_bert_source": None}, {"text_bert_source": "x", "text_bert_init_from_bert_base": False}]
)
def test_random_weights_are_said_in_the_log(tmp_path, caplog, change):
    with caplog.at_level(logging.INFO, logger="mmf.univqa"):
        build_univqa(config(tmp_path, **change), 5)
    for part in ("text_bert", "obj_faster_rcnn_fc7", "ocr_faster_rcnn_fc7"):
        assert f"{part}: initialized at random" in caplog.text


def test_both_region_encoders_start_from_fc7(tmp_path, fc7, caplog):
    with caplog.at_level(logging.INFO, logger="mmf.univqa"):
        net = build_univqa(config(tmp_path, fc7=fc7), 5)
    weight = torch.from_numpy(pickle.loads((tmp_path / fc7["weights_file"]).read_bytes()))
    assert torch.equal(net.obj_faster_rcnn_fc7.lc.weight, weight)
    assert torch.equal(net.ocr_faster_rcnn_fc7.lc.weight, weight)
    assert "obj_faster_rcnn_fc7: weights from" in caplog.text


def refusal(error, **changes):
    with pytest.raises(error) as caught:
        build_univqa(changes, 5)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_absent_fc7_file_says_what_to_get(tmp_path):
    section = {"weights_file": "fc7_w.pkl", "bias_file": "fc7_b.pkl"}
    message = refusal(DataError, **config(tmp_path, fc7=section))
    assert str(tmp_path / "fc7_w.pkl") in message
    assert "vmb_weights.tar.gz" in message
    assert "null" in message


def test_fc7_of_another_width_is_refused(tmp_path, fc7):
    message = refusal(DataError, **config(tmp_path, fc7=fc7, obj={"in_dim": 8, "mmt_in_dim": 20}))
    assert "fc7_w.pkl: contains (20, 16), but obj_faster_rcnn_fc7 needs (20, 8)" in message


def test_half_a_pair_of_fc7_files_is_refused(tmp_path, fc7):
    message = refusal(CloveError, **config(tmp_path, fc7={**fc7, "bias_file": None}))
    assert "fc7.bias_file" in message


def test_code_in_an_fc7_pickle_is_refused(tmp_path, fc7):
    (tmp_path / fc7["weights_file"]).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "system" in refusal(UnsafePickleError, **config(tmp_path, fc7=fc7))


def test_an_absent_bert_says_where_it_was_sought(tmp_path):
    message = refusal(DataError, **config(tmp_path, text_bert_source="no/such/bert"))
    assert "no/such/bert" in message
    assert str(tmp_path / "pretrained") in message


def test_a_bert_of_another_size_is_refused(tmp_path, bert):
    write_bert(bert, tmp_path / "bert")
    settings = config(tmp_path, text_bert_source=str(tmp_path / "bert"))
    settings["text_bert"] = {**settings["text_bert"], "vocab_size": 60}
    message = refusal(DataError, **settings)
    assert "embeddings.word_embeddings.weight is (50, 24)" in message
    assert "(60, 24)" in message


def test_a_bert_of_too_few_layers_is_refused(tmp_path, bert):
    write_bert({name: tensor for name, tensor in bert.items() if "layer.1." not in name}, tmp_path / "bert")
    assert "encoder.layer.1." in refusal(DataError, **config(tmp_path, text_bert_source=str(tmp_path / "bert")))


def test_a_truncated_bert_file_is_refused(tmp_path, bert):
    write_bert(bert, tmp_path / "bert")
    file = tmp_path / "bert" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    message = refusal(DataError, **config(tmp_path, text_bert_source=str(tmp_path / "bert")))
    assert str(file) in message


def test_a_bert_file_without_named_tensors_is_refused(tmp_path):
    write_bert([torch.zeros(2)], tmp_path / "bert", "pytorch_model.bin")
    message = refusal(DataError, **config(tmp_path, text_bert_source=str(tmp_path / "bert")))
    assert "pytorch_model.bin: cannot be read as BERT weights" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mmt": {"hiden_size": 32}}, "mmt.hiden_size: unknown key; did you mean hidden_size"),
        ({"mmt": {"hidden_size": 30}}, "hidden_size 30 is not a multiple of num_attention_heads 12"),
        ({"mmt": {"initializer_range": -1}}, "mmt.initializer_range=-1: it must be a number of at least 0"),
        ({"text_bert": {"layer_norm_eps": "tiny"}}, "text_bert.layer_norm_eps=tiny: it must be a number"),
        ({"ocr": {"mmt_in_dim": 3000}}, "ocr.mmt_in_dim: 3000 is given, but 3002 is needed"),
        ({"classifier": {"type": "mlp"}}, "classifier.type: mlp is given, but linear"),
    ],
)
def test_a_contradictory_configuration_is_refused(changes, words):
    assert words in refusal(CloveError, **changes)
