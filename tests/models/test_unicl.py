"""MMF's model `unicl`: published tensors, published sizes, optimizer groups, parity with the published code."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmf.common.registry import registry
from mmf.common.sample import SampleList
from omegaconf import OmegaConf

import mmclvqa  # noqa: F401
from mmclvqa.clove.errors import DataError
from mmclvqa.models import UniVQANetwork
from tests.models import batches, oracle
from tests.parity import check_unicl

FIXTURES = Path(__file__).parents[1] / "fixtures"
ANSWERS = 30


@pytest.fixture
def published_config():
    """``model_config.unicl`` of the shipped defaults, with no weight files."""
    path = registry.get_model_class("unicl").config_path()
    whole = OmegaConf.merge({"env": {"data_dir": "data"}}, OmegaConf.load(path))
    config = OmegaConf.create(OmegaConf.to_container(whole, resolve=True)["model_config"]["unicl"])
    config.text_bert_source = config.fc7.weights_file = config.fc7.bias_file = None
    return config


@pytest.fixture
def unicl(published_config):
    """MMF's model in a small size."""
    config = OmegaConf.merge(published_config, batches.small_config())
    return check_unicl.build_model(config, ANSWERS)


def test_has_the_tensors_of_the_published_checkpoints(published_config):
    with torch.device("meta"):
        model = check_unicl.build_model(published_config, 6182)
    published = json.loads((FIXTURES / "unicl_state_dict.json").read_text())["tensors"]
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == dict(published)
    assert len(model.state_dict()) == 151
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 91_759_910


def test_the_defaults_file_and_the_published_sizes_in_code_agree(published_config):
    with torch.device("meta"):
        assert UniVQANetwork({}, 6182).settings == UniVQANetwork(published_config, 6182).settings


def test_use_cls_adds_one_vector_of_ones(published_config):
    config = OmegaConf.merge(published_config, batches.small_config(use_cls=True))
    model = check_unicl.build_model(config, ANSWERS)
    assert torch.equal(model.state_dict()["cls_emb"], torch.ones(1, 32))


def test_reproduces_the_published_code():
    findings = check_unicl.compare(FIXTURES / "unicl_small.npz")
    assert [finding for finding in findings if not finding.ok] == []
    assert len(findings) == 7


def test_answers_a_sample_list_with_loss_and_cls_output(published_config):
    config = OmegaConf.merge(published_config, batches.small_config(use_cls=True))
    model = check_unicl.build_model(config, ANSWERS)
    inputs = batches.inputs(model)
    sample_list = SampleList()
    for name, value in batches.as_fields(inputs).items():
        sample_list.add_field(name, value)
    sample_list.add_field("train_loss_mask", torch.ones(4, 5))
    sample_list.dataset_name, sample_list.dataset_type = "clvqa", "train"
    output = model(sample_list)
    expected = oracle.scores(model, inputs)
    torch.testing.assert_close(output["scores"], expected["scores"], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(output["cls_output"], expected["cls_output"], atol=1e-3, rtol=1e-4)
    (name,) = output["losses"]
    assert name.endswith("m4c_decoding_bce_with_mask")
    bce = torch.nn.functional.binary_cross_entropy_with_logits(expected["scores"], inputs.targets, reduction="sum")
    torch.testing.assert_close(output["losses"][name].squeeze(), bce / 20)


def test_optimizer_groups_have_the_learning_rates_of_the_paper(unicl):
    groups = unicl.get_optimizer_parameters(SimpleNamespace(optimizer=SimpleNamespace(params=SimpleNamespace(lr=1e-4))))
    names = {id(parameter): name for name, parameter in unicl.named_parameters()}
    rates = {names[id(p)]: group.get("lr", 1e-4) for group in groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    assert sum(len(group["params"]) for group in groups) == len(names)
    for name, rate in rates.items():
        slow = name.startswith(("text_bert.", "obj_faster_rcnn_fc7.", "ocr_faster_rcnn_fc7."))
        assert rate == pytest.approx(1e-5 if slow else 1e-4), name
    assert "lr" not in groups[0]


def test_decoding_starts_from_the_answer_processors_bos(unicl):
    assert unicl.bos_index == check_unicl.BOS_INDEX


def test_loads_a_state_dict_and_ignores_position_ids(unicl):
    state = {name: torch.randn_like(tensor) for name, tensor in unicl.state_dict().items()}
    unicl.load_state_dict({**state, "text_bert.embeddings.position_ids": torch.arange(40)[None]})
    assert all(torch.equal(tensor, state[name]) for name, tensor in unicl.state_dict().items())


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_that_does_not_fit_changes_nothing(unicl, strict):
    before = {name: tensor.clone() for name, tensor in unicl.state_dict().items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    other["classifier.module.weight"] = torch.zeros(7, 32)
    with pytest.raises(DataError, match="classifier.module.weight 7×32"):
        unicl.load_state_dict(other, strict=strict)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unicl.state_dict().items())
