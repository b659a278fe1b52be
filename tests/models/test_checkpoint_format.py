"""A state dict of another model is refused in one line that says what differs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmclvqa.clove.errors import DataError
from mmclvqa.models.checkpoint_format import check_fits


@pytest.fixture
def model():
    return nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 1)})


def refusal(model, state):
    with pytest.raises(DataError) as caught:
        check_fits(model, state, "old.pth")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_fitting_state_dict_passes(model):
    check_fits(model, model.state_dict(), "old.pth")


def test_position_ids_are_no_difference(model):
    check_fits(model, {**model.state_dict(), "a.position_ids": torch.arange(3)}, "old.pth")


def test_the_source_and_both_shapes_are_named(model):
    message = refusal(model, {**model.state_dict(), "a.weight": torch.zeros(3, 5)})
    assert message == "old.pth does not fit the model: shape: a.weight 3×5 (model 3×2)"


def test_missing_and_unknown_names_are_named(model):
    state = {**model.state_dict(), "c.weight": torch.zeros(4)}
    del state["b.bias"]
    assert refusal(model, state) == "old.pth does not fit the model: missing: b.bias 1; unknown: c.weight 4"


def test_values_that_are_no_tensors_are_named(model):
    assert "no tensor: epoch" in refusal(model, {**model.state_dict(), "epoch": 3})


def test_many_differences_are_counted(model):
    message = refusal(model, {f"x{i}": torch.zeros(1) for i in range(25)})
    assert "x19 1 and 5 more" in message
