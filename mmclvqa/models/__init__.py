"""UniVQA: the network in plain torch, and its MMF model ``unicl`` in :mod:`mmclvqa.models.unicl`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmclvqa.models.inputs import UniVQAInputs
from mmclvqa.models.network import UniVQANetwork
from mmclvqa.models.pretrained import load_initial_weights


def build_univqa(config: Mapping[str, Any], num_answers: int, bos_index: int = 1) -> UniVQANetwork:
    """The network of ``model_config.unicl`` with its initial weights, without MMF.

    Args:
        config: ``model_config.unicl`` (DictConfig or plain mapping); absent keys take the published values,
            but weights are read only from sources that are named.
        num_answers: size A of the answer vocabulary.
        bos_index: the answer index decoding starts from.

    Raises:
        ModelConfigError: the configuration contradicts itself.
        DataError: a weights source is absent or does not fit.
    """
    network = UniVQANetwork(config, num_answers, bos_index)
    load_initial_weights(network, config)
    return network


__all__ = ["UniVQAInputs", "UniVQANetwork", "build_univqa"]
