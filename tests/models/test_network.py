"""UniVQA returns the same as a plain implementation, for all lengths, and never reads padding."""

from __future__ import annotations

import copy

import pytest
import torch

from mmclvqa.models import UniVQAInputs
from mmclvqa.models.network import MASKED_SCORE
from tests.models import batches, oracle

TOLERANCE = {"atol": 1e-3, "rtol": 1e-4}

LENGTHS = {
    "random": {},
    "longest": {"text_len": 7, "scene_graph_len": 30, "knowledge_len": 5, "object_num": 9, "ocr_num": 6},
    "shortest": {"text_len": 2, "scene_graph_len": 2, "knowledge_len": 2, "object_num": 1, "ocr_num": 0},
    "no knowledge tokens": {"knowledge_len": 0},
    "one empty record": {"text_len": [0, 3, 4, 5], "scene_graph_len": [0, 9, 2, 3], "knowledge_len": [0, 2, 2, 3],
                         "object_num": [0, 3, 9, 1], "ocr_num": [0, 6, 0, 1]},
    "one record with OCR": {"ocr_num": [0, 0, 5, 0]},
}  # fmt: skip

CONFIGS = {
    "plain": {},
    "use_cls": {"use_cls": True},
    "same widths": {"text_bert__hidden_size": 32, "text_bert__num_attention_heads": 4},
    "one layer each": {"text_bert__num_hidden_layers": 1, "mmt__num_hidden_layers": 1},
    "three layers, cls": {"mmt__num_hidden_layers": 3, "use_cls": True},
    "no resize": {"text_bert_resize_token_ocr": False},
    "pointer width": {"classifier__ocr_ptr_net": {"query_key_size": 8}},
    "one slot": {"classifier__ocr_max_num": 1},
}


def assert_same(net, inputs):
    ours, theirs = net.answer(inputs), oracle.scores(net, inputs)
    assert ours.keys() == theirs.keys()
    assert ours["scores"].shape == theirs["scores"].shape
    real = theirs["scores"] > -9000
    assert torch.equal(real, ours["scores"] > -9000)
    torch.testing.assert_close(ours["scores"][real], theirs["scores"][real], **TOLERANCE)
    if "cls_output" in theirs:
        torch.testing.assert_close(ours["cls_output"], theirs["cls_output"], **TOLERANCE)
    return ours, theirs


@pytest.mark.parametrize("mode", ["teacher forcing", "greedy"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("use_cls", [False, True], ids=["", "cls"])
def test_equals_the_oracle_for_every_length(mode, lengths, use_cls):
    net = batches.network(batches.small_config(use_cls=use_cls)).train(mode == "teacher forcing")
    assert_same(net, batches.inputs(net, **lengths))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_oracle_for_every_configuration(config, seed):
    net = batches.network(batches.small_config(**config), num_answers=11 + 7 * seed, seed=seed)
    inputs = batches.inputs(net, batch=1 + 2 * seed, steps=1 + 5 * seed, widths=(4 + seed, 20, 6, 3 + seed), seed=seed)
    for training in (True, False):
        assert_same(net.train(training), inputs)


@pytest.mark.parametrize("part", ["fasttext", "phoc", "frcn", "semantics", "bbox"])
def test_an_ablation_switch_removes_its_part(part):
    config = batches.small_config()
    net = batches.network(config)
    config["ocr"][f"remove_ocr_{part}"] = True
    removed = batches.network(config)
    inputs = batches.inputs(net, ocr_num=6)
    ours, _ = assert_same(removed, inputs)
    assert not torch.allclose(ours["scores"], net.answer(inputs)["scores"])


def test_gradients_equal_the_oracles():
    net = batches.network(batches.small_config(use_cls=True)).train()
    inputs = batches.inputs(net)
    ours = batches.gradients(net, net.answer(inputs)["scores"])
    theirs = batches.gradients(net, oracle.scores(net, inputs)["scores"])
    scale = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6 * scale, rtol=1e-3, msg=name)


def test_every_parameter_has_a_gradient_without_any_ocr_token():
    """Several processes average gradients; one that is absent on one of them would stop the run."""
    net = batches.network(batches.small_config()).train()
    net.answer(batches.inputs(net, ocr_num=0))["scores"].sum().backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_targets_and_inputs_that_name_a_padded_slot_count_as_if_padding_were_computed():
    net = batches.network(batches.small_config()).train()
    inputs = batches.inputs(net, ocr_num=2)
    inputs.previous[0, 1] = 30 + 4
    inputs.targets[1, 2, 30 + 5] = 1.0

    def gradients(scores):
        net.zero_grad(set_to_none=True)
        torch.nn.functional.binary_cross_entropy_with_logits(scores, inputs.targets).backward()
        return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}

    ours, theirs = assert_same(net, inputs)
    torch.testing.assert_close(ours["scores"][1, 2, 35], theirs["scores"][1, 2, 35])
    expected = gradients(theirs["scores"])
    for name, gradient in gradients(ours["scores"]).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-3, msg=name)


def test_padding_is_never_looked_at():
    net = batches.network(batches.small_config()).train()
    inputs = batches.inputs(net, text_len=3, scene_graph_len=9, knowledge_len=2, object_num=4, ocr_num=2)
    before = net.answer(inputs)["scores"]
    poisoned = copy.deepcopy(inputs)
    for name, real in (("objects", 4), ("object_boxes", 4), ("ocr_fasttext", 2), ("ocr_phoc", 2), ("ocr_boxes", 2)):
        getattr(poisoned, name)[:, real:] = float("nan")
    poisoned.ocr_regions[:, 2:] = float("nan")
    for name, real in (("text", 3), ("scene_graph", 9), ("knowledge", 2)):
        getattr(poisoned, name)[:, real:] = 10**6
    assert torch.equal(net.answer(poisoned)["scores"], before)


def test_a_record_is_answered_alike_alone_and_in_a_batch():
    net = batches.network(batches.small_config()).eval()
    inputs = batches.inputs(net, batch=5)
    together = net.answer(inputs)["scores"]
    for row in range(5):
        record = {name: None if value is None else value[row : row + 1] for name, value in vars(inputs).items()}
        alone = net.answer(UniVQAInputs(**record))
        torch.testing.assert_close(alone["scores"][0], together[row], **TOLERANCE)


def test_scores_have_full_width_and_slots_without_a_token_are_masked():
    net = batches.network(batches.small_config()).eval()
    scores = net.answer(batches.inputs(net, ocr_num=[0, 1, 3, 6]))["scores"]
    assert scores.shape == (4, 5, 36)
    assert scores.dtype == torch.float32
    for row, tokens in enumerate([0, 1, 3, 6]):
        assert (scores[row, :, 30 + tokens :] < MASKED_SCORE / 2).all()
        assert (scores[row, :, : 30 + tokens] > MASKED_SCORE / 2).all()


def test_greedy_decoding_ignores_the_teacher_forcing_input():
    net = batches.network(batches.small_config()).eval()
    inputs = batches.inputs(net)
    scores = net.answer(inputs)["scores"]
    inputs.previous.fill_(7)
    assert torch.equal(net.answer(inputs)["scores"], scores)


def test_greedy_decoding_can_copy_words_and_feeds_them_back():
    net = batches.network(batches.small_config()).eval()
    with torch.no_grad():
        net.ocr_ptr_net.query.bias.add_(5 * net.ocr_ptr_net.key.bias)
        net.ocr_ptr_net.key.bias.mul_(20)
    ours, theirs = assert_same(net, batches.inputs(net, ocr_num=6))
    copied = ours["scores"].argmax(-1) >= 30
    assert copied.any()
    assert torch.equal(ours["scores"].argmax(-1), theirs["scores"].argmax(-1))


def test_teacher_forcing_with_the_greedy_answer_gives_the_greedy_scores():
    net = batches.network(batches.small_config()).eval()
    inputs = batches.inputs(net)
    greedy = net.answer(inputs)["scores"]
    inputs.previous[:, 1:] = greedy.argmax(-1)[:, :-1]
    torch.testing.assert_close(net.train().answer(inputs)["scores"], greedy, **TOLERANCE)


def test_gradients_flow_through_greedy_decoding():
    net = batches.network(batches.small_config()).eval()
    net.answer(batches.inputs(net))["scores"].clamp(min=-50).sum().backward()
    assert net.obj_faster_rcnn_fc7.lc.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_runs_in_mixed_precision(dtype, training):
    net = batches.network(batches.small_config(use_cls=True)).train(training)
    inputs = batches.inputs(net)
    expected = net.answer(inputs)["scores"]
    with torch.autocast("cpu", dtype):
        scores = net.answer(inputs)["scores"]
    assert scores.dtype == torch.float32
    real = expected > -9000
    first = real[:, 0]  # later greedy steps may follow another word
    assert (scores - expected)[:, 0][first].abs().max() < 0.05 * expected[real].abs().max()
    if training:
        scores.clamp(min=-50).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_region_features_in_half_precision_give_the_same_scores_in_mixed_precision(dtype, training):
    net = batches.network(batches.small_config()).train(training)
    inputs = batches.inputs(net)
    with torch.autocast("cpu", dtype):
        expected = net.answer(inputs)["scores"]
        inputs.objects, inputs.ocr_regions = inputs.objects.to(dtype), inputs.ocr_regions.to(dtype)
        assert torch.equal(net.answer(inputs)["scores"], expected)


def test_too_few_ocr_regions_are_refused():
    net = batches.network(batches.small_config())
    inputs = batches.inputs(net, ocr_num=6)
    inputs.ocr_regions = inputs.ocr_regions[:, :4]
    with pytest.raises(ValueError, match="6 slots are in use, but the padded tensor has 4"):
        net.answer(inputs)


HOST_FIELDS = {"text_len", "scene_graph_len", "knowledge_len", "object_num", "ocr_num", "ocr_slots"}


@pytest.mark.parametrize("training", [True, False])
def test_with_lengths_on_the_host_no_value_is_read_from_the_device(training):
    """Tensors on the meta device have no values: reading one, as ``int(x)`` or ``x.nonzero()`` do, is an error."""
    net = batches.network(batches.small_config(use_cls=True)).train(training).to("meta")
    inputs = batches.inputs(net)
    inputs.ocr_slots = torch.arange(6) < inputs.ocr_num[:, None]
    on_device = {name: value if name in HOST_FIELDS else value.to("meta") for name, value in vars(inputs).items()}
    assert net.answer(UniVQAInputs(**on_device))["scores"].shape == (4, 5, 36)


def test_given_ocr_slots_are_those_read_from_the_batch():
    net = batches.network(batches.small_config()).train()
    inputs = batches.inputs(net, ocr_num=2)
    inputs.previous[0, 1] = 30 + 4
    read = net.answer(inputs)["scores"]
    inputs.ocr_slots = inputs.referenced_slots(30) | (torch.arange(6) < 2)
    assert torch.equal(net.answer(inputs)["scores"], read)
