"""Batches on their way to a GPU: what is sent, in which precision, and from which memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmf.common.registry import registry
from mmf.common.sample import SampleList

from mmclvqa.models.unicl import UniVQA
from mmclvqa.training.loading import build_split
from tests.plugin.dataset_builds import Build


def test_what_repeats_one_value_is_sent_to_the_device_as_this_value(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build("object", "train")
    loaded = data.load_batch(range(4))
    sent, send = set(), SampleList.to

    def recorded(batch: SampleList, *args: Any, **kwargs: Any) -> SampleList:
        sent.update(batch.keys())
        return send(batch, *args, **kwargs)

    monkeypatch.setattr(SampleList, "to", recorded)
    data._device = torch.device("meta")
    shape = loaded.image_feature_1.shape
    batch = data.prepare_batch(loaded)
    assert "image_feature_0" in sent and not {"image_feature_1", "order_vectors"} & sent
    assert batch.image_feature_1.shape == shape and batch.image_feature_1.device.type == "meta"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_batches_for_a_gpu_are_pinned_and_in_the_precision_of_training(
    build: Build, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Without a GPU: memory is pinned as torch does it, into a copy of equal strides, but in ordinary memory."""
    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        storage = torch.UntypedStorage(tensor.untyped_storage().nbytes())
        pinned.append(torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.size(), tensor.stride()).copy_(tensor))
        return pinned[-1]

    build("scenetext", "train")
    config = registry.get("config")
    config.training.update({"precision": precision, "pin_memory": True})
    plain = next(next(build_split("train", config, seed=1).updates(1))[1])[0]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = next(next(build_split("train", config, seed=1).updates(1))[1])[0]
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for field, value in plain.items():
        if isinstance(value, torch.Tensor):
            is_region = field in UniVQA.LINEAR_INPUTS
            assert torch.equal(batch[field], value.to(kind) if is_region else value), field
            assert any(batch[field] is copy for copy in pinned) or not any(value.stride()), field
    assert {batch[field].dtype for field in UniVQA.LINEAR_INPUTS} == {kind}
