"""The five language models: loading, embeddings of new tokens, loss and saving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from mmclvqa.clove.data_root import pretrained_source
from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.files import write_json
from SRM.batches import Batch
from SRM.tokens import IGNORED, Tokens


@dataclass(frozen=True)
class Kind:
    """What distinguishes one ``--model_name``.

    Attributes:
        hub: name on the Hugging Face hub.
        model_type: ``model_type`` of its configuration.
        loader: the class that loads it.
    """

    hub: str
    model_type: str
    loader: Any


KINDS: dict[str, Kind] = {
    "gpt2": Kind("gpt2", "gpt2", AutoModelForCausalLM),
    "distilgpt2": Kind("distilgpt2", "gpt2", AutoModelForCausalLM),
    "openai-gpt": Kind("openai-gpt", "openai-gpt", AutoModelForCausalLM),
    "t5-small": Kind("t5-small", "t5", AutoModelForSeq2SeqLM),
    "t5v1_1-small": Kind("google/t5-v1_1-small", "t5", AutoModelForSeq2SeqLM),
}


class ModelError(CloveError):
    """A language model that cannot be found or is of another type."""


def load_pretrained(root: Path, name: str, dropout: float | None = None) -> tuple[Any, Tokens]:
    """Load the model and tokenizer that a run starts from.

    Args:
        root: the data root; ``<root>/pretrained/<name>`` is preferred to the hub.
        name: a key of :data:`KINDS`.
        dropout: the rate of every dropout layer; None keeps the configured rates.

    Raises:
        ModelError: neither place has the model, or the folder holds another model.
    """
    local = pretrained_source(root, name)
    if local != name:
        return load_model(Path(local), name, dropout)
    hub = KINDS[name].hub
    try:
        return _load(hub, name, dropout)
    except (OSError, ValueError) as error:
        folder = root / "pretrained" / name
        raise ModelError(
            f"{name}: neither the folder {folder} nor the hub's {hub} can be read ({_first_line(error)}); "
            f"put the model's files into the folder, or go online"
        ) from None


def load_model(folder: Path, name: str, dropout: float | None = None) -> tuple[Any, Tokens]:
    """Load the model and tokenizer of a folder written by :func:`save_model` or by transformers.

    Raises:
        ModelError: the folder holds no model, or one of another type than ``name``.
    """
    config = folder / "config.json"
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: holds no language model (config.json: {_first_line(error)})") from None
    if model_type != KINDS[name].model_type:
        raise ModelError(
            f"{folder}: holds a model of type {model_type}, but {name} is of type {KINDS[name].model_type}"
        )
    try:
        return _load(str(folder), name, dropout)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded ({_first_line(error)})") from None


def _load(source: str, name: str, dropout: float | None) -> tuple[Any, Tokens]:
    model = KINDS[name].loader.from_pretrained(source, dtype=torch.float32)
    if dropout is not None:
        # The configuration keeps its rates.
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = dropout
    return model, Tokens(AutoTokenizer.from_pretrained(source))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def grow(model: Any, tokens: Tokens, seed: int) -> None:
    """Enlarge the embeddings for tokens that were added; the new rows are drawn from ``seed``.

    transformers draws from torch's global generator, which is therefore forked and seeded.
    """
    size = model.get_input_embeddings().weight.shape[0]
    if len(tokens) > size:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.resize_token_embeddings(len(tokens), mean_resizing=False)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokens.pad
    model.config.eos_token_id = model.generation_config.eos_token_id = tokens.eos


def longest_sequence(model: Any, tokens: Tokens) -> int:
    """Return the maximum number of tokens of a sequence of the model."""
    length = getattr(model.config, "n_positions", None) or tokens.tokenizer.model_max_length
    return int(min(length, 1 << 20))


def save_model(model: Any, tokens: Tokens, folder: Path, json_files: Mapping[str, Any]) -> None:
    """Write model (safetensors), configuration and tokenizer to a folder, which appears only when complete.

    Args:
        model: the language model.
        tokens: its tokenizer.
        folder: the folder; an existing one is replaced.
        json_files: values of further JSON files in the folder, by file name.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        tokens.save(temporary)
        for name, value in json_files.items():
            write_json(temporary / name, value)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, (OSError, KeyboardInterrupt)):
            raise
        raise OSError(f"{folder}: cannot be written ({_first_line(error)})") from error


class SRMLoss(nn.Module):
    """The sums of CE(question-answer) + lm_lambda CE(scene graph), each a mean weighted by the target token.

    Encoder-decoder models have an unweighted loss. Logits are computed only at the positions of targets, because the
    vocabulary is large and most of a batch is context.

    Args:
        model: a language model with its head.
        weighted: ids of the targets with weight ``weight``; others have weight 1.
        weight: the weight of these targets.
    """

    def __init__(self, model: Any, weighted: list[int], weight: float) -> None:
        super().__init__()
        self.model = model
        self.weighted = [] if model.config.is_encoder_decoder else weighted
        self.weight = weight

    def forward(self, batch: Batch) -> Tensor:
        """Compute the sums over a batch of :mod:`SRM.batches`.

        Returns:
            float32, 4: summed loss and summed weights of the question-answer pass, then of the scene-graph pass.
        """
        targets = batch["targets"]
        is_target = targets != IGNORED
        # In a batch without targets (a process without examples), weights of 0 keep the graph connected.
        selected = is_target if bool(is_target.any()) else torch.ones_like(is_target)
        logits = self._logits(batch, selected)
        labels = torch.where(is_target, targets, 0)[selected]
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        weights = torch.ones_like(losses)
        for token in self.weighted:
            weights = torch.where(labels == token, self.weight, weights)
        weights = weights * is_target[selected]
        is_question = batch["is_question"][selected].to(weights.dtype)
        sums = [(losses * weights * side).sum() for side in (is_question, 1 - is_question)]
        totals = [(weights * side).sum() for side in (is_question, 1 - is_question)]
        return torch.stack([sums[0], totals[0], sums[1], totals[1]])

    def _logits(self, batch: Batch, selected: Tensor) -> Tensor:
        """Return the logits at the selected positions, positions x vocabulary."""
        model = self.model
        if model.config.is_encoder_decoder:
            labels = torch.where(batch["targets"] == IGNORED, model.config.pad_token_id, batch["targets"])
            shifted = F.pad(labels[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
            sources = {name: batch[name] for name in ("input_ids", "attention_mask")}
            return model(**sources, decoder_input_ids=shifted).logits[selected]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
        if model.config.model_type == "gpt2":
            inputs["use_cache"] = False
        hidden = model.transformer(**inputs).last_hidden_state
        return model.lm_head(hidden[selected])
