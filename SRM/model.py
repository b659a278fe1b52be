"""The five language models: where they come from, how they grow, what their loss is, how they are saved."""

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

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.files import write_json
from mmclvqa.clove.pretrained import pretrained_source
from SRM.batches import Batch
from SRM.examples import IGNORED
from SRM.tokens import Tokens


@dataclass(frozen=True)
class Kind:
    """One of the model names.

    Attributes:
        hub: its name on the hub.
        model_type: what its configuration calls itself.
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
    """A language model that is not there or is of another kind."""


def load_pretrained(root: Path, name: str, dropout: float | None = None) -> tuple[Any, Tokens]:
    """The model and tokenizer a run begins with.

    Args:
        root: the data root; ``<root>/pretrained/<name>`` is used where that folder exists, else the hub.
        name: one of :data:`KINDS`.
        dropout: sets every dropout of the model, None leaves them.

    Raises:
        ModelError: neither place has it, or the folder holds something else.
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
    """Model and tokenizer of a folder, written by :func:`save_model` or by transformers.

    Raises:
        ModelError: the folder holds no model, or one of another kind than ``name``.
    """
    config = folder / "config.json"
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: holds no language model (config.json: {_first_line(error)})") from None
    if found != KINDS[name].model_type:
        raise ModelError(
            f"{folder}: holds a model of type {found}, but {name} is of type {KINDS[name].model_type}"
        )
    try:
        return _load(str(folder), name, dropout)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded ({_first_line(error)})") from None


def _load(source: str, name: str, dropout: float | None) -> tuple[Any, Tokens]:
    model = KINDS[name].loader.from_pretrained(source, dtype=torch.float32)
    if dropout is not None:
        set_dropout(model, dropout)
    return model, Tokens(AutoTokenizer.from_pretrained(source))


def set_dropout(model: nn.Module, rate: float) -> None:
    """Give every dropout of a model one rate; its configuration stays as it was."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = rate


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def grow(model: Any, tokens: Tokens, seed: int) -> None:
    """Make room in the embeddings for tokens that were added, new rows drawn from ``seed``.

    The seed is set in a fork of torch's random state, because the library draws from the global one.
    """
    size = model.get_input_embeddings().weight.shape[0]
    if len(tokens) > size:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.resize_token_embeddings(len(tokens), mean_resizing=False)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokens.pad
    model.config.eos_token_id = model.generation_config.eos_token_id = tokens.eos


def longest_sequence(model: Any, tokens: Tokens) -> int:
    """Tokens that a sequence of the model may have."""
    found = getattr(model.config, "n_positions", None) or tokens.tokenizer.model_max_length
    return int(min(found, 1 << 20))


def save_model(model: Any, tokens: Tokens, folder: Path, beside: Mapping[str, Any] | None = None) -> None:
    """Write model (safetensors), configuration and tokenizer; the folder appears when all of it is there.

    Args:
        model, tokens: what is written.
        folder: where; one that is there is replaced.
        beside: JSON files by name that go with them.

    Raises:
        OSError: the disk is full or the place cannot be written; nothing is left behind.
    """
    made = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(parents=True)
        model.save_pretrained(made)
        tokens.save(made)
        for name, value in (beside or {}).items():
            write_json(made / name, value)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, (OSError, KeyboardInterrupt)):
            raise
        raise OSError(f"{folder}: cannot be written ({_first_line(error)})") from error


class SRMLoss(nn.Module):
    """CE(question-answer) + lm_lambda CE(scene graph), each a mean weighted by the target's token.

    Encoder-decoder models have their own loss, the plain mean.

    Scores are computed at positions that count only: a vocabulary is wide, and much of a batch is context.

    Args:
        model: a language model with a head.
        weighted: ids of the targets that count ``weight`` times.
        weight: how often.
    """

    def __init__(self, model: Any, weighted: list[int], weight: float) -> None:
        super().__init__()
        self.model = model
        self.weighted = [] if model.config.is_encoder_decoder else weighted
        self.weight = weight

    def forward(self, batch: Batch) -> Tensor:
        """Sums over a batch of :mod:`SRM.batches`.

        Returns:
            float32, 4: weighted loss and weights of the question-answer pass, then of the scene-graph pass.
        """
        targets = batch["targets"]
        counts = targets != IGNORED
        # Without an example (a process that has nothing to do) one position keeps the graph whole, with weight 0.
        chosen = counts if bool(counts.any()) else torch.ones_like(counts)
        scores = self._scores(batch, chosen)
        wanted = torch.where(counts, targets, 0)[chosen]
        losses = F.cross_entropy(scores.float(), wanted, reduction="none")
        weights = torch.ones_like(losses)
        for token in self.weighted:
            weights = torch.where(wanted == token, self.weight, weights)
        weights = weights * counts[chosen]
        asked = batch["is_question"][chosen].to(weights.dtype)
        sums = [(losses * weights * side).sum() for side in (asked, 1 - asked)]
        totals = [(weights * side).sum() for side in (asked, 1 - asked)]
        return torch.stack([sums[0], totals[0], sums[1], totals[1]])

    def _scores(self, batch: Batch, chosen: Tensor) -> Tensor:
        """Scores at the chosen positions, positions x vocabulary."""
        model = self.model
        if model.config.is_encoder_decoder:
            told = torch.where(batch["targets"] == IGNORED, model.config.pad_token_id, batch["targets"])
            shifted = F.pad(told[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
            sources = {name: batch[name] for name in ("input_ids", "attention_mask")}
            return model(**sources, decoder_input_ids=shifted).logits[chosen]
        inputs = {
            name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch
        }
        if model.config.model_type == "gpt2":
            inputs["use_cache"] = False
        hidden = model.transformer(**inputs).last_hidden_state
        return model.lm_head(hidden[chosen])
