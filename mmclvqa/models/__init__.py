"""UniVQA as a plain torch module; :mod:`mmclvqa.models.unicl` registers it with MMF as model ``unicl``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmclvqa.models.inputs import UniVQAInputs
from mmclvqa.models.network import UniVQANetwork
from mmclvqa.models.pretrained import load_initial_weights


def build_univqa(config: Mapping[str, Any], num_answers: int, bos_index: int = 1) -> UniVQANetwork:
    """Build a UniVQA network and load its initial weights, without MMF.

    Args:
        config: ``model_config.unicl`` (DictConfig or plain mapping). Missing keys default to the published values,
            except that pretrained weights are loaded only from sources that are set.
        num_answers: size A of the answer vocabulary.
        bos_index: index of the answer that starts decoding.

    Raises:
        ConfigError: the configuration contradicts itself.
        DataError: a source of weights does not exist or does not match the model.
    """
    network = UniVQANetwork(config, num_answers, bos_index)
    load_initial_weights(network, config)
    return network


__all__ = ["UniVQAInputs", "UniVQANetwork", "build_univqa"]
