"""Low-rank adapters (LoRA): training a larger language model with fewer trained parameters.

    W x  becomes  W x + (α / R) · B A x        with A: R × in, B: out × R, α = 2 R, B = 0 at first

The adapters of all linear layers are trained instead of the layers, and the embeddings (and the head) as a whole,
because the rows of SRM's own tokens are new. After each task the adapters are merged into the weights, so the saved
model and everything that reads it are the same as without adapters. Source: Hu et al., "LoRA: Low-Rank Adaptation of
Large Language Models", ICLR 2022; implementation: peft, which is optional.
"""

from __future__ import annotations

from typing import Any

import torch

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.text import one_line

SCALE = 2
"""α divided by the rank."""


def add_adapters(model: Any, rank: int, seed: int) -> Any:
    """Add adapters to the linear layers of a language model, in place, and freeze all else except the embeddings.

    Args:
        model: the model, whose embeddings have rows for all tokens.
        rank: R.
        seed: A is drawn from it.

    Returns:
        peft's wrapper, which :func:`merge_adapters` takes; the model itself is used as before.

    Raises:
        ConfigError: peft knows no layer of the model that adapters can be added to.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    # GPT-2's layers hold the transposed weight.
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    config = LoraConfig(
        r=rank, lora_alpha=SCALE * rank, lora_dropout=0.0, target_modules="all-linear", fan_in_fan_out=transposed
    )
    # peft draws from torch's global generator.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            wrapper = get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(f"--lora_rank {rank}: {one_line(error)}") from None
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight.requires_grad_(True)
    return wrapper


def merge_adapters(wrapper: Any) -> None:
    """Merge the adapters into the weights of the model, in place, and make all parameters trainable again."""
    model = wrapper.merge_and_unload()
    if hasattr(model, "peft_config"):
        del model.peft_config  # peft would take the adapters of the next task for second ones
    model.requires_grad_(True)
