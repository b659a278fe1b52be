"""The language model of a run: finding, loading and saving it, embeddings of new tokens, loss and batch layout."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.constants import HF_HUB_CACHE
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from mmclvqa.clove.data_root import pretrained_source
from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.experiment_paths import language_model_name
from mmclvqa.clove.files import write_json
from mmclvqa.hub import hub_answers
from SRM.batches import Batch, Layout, PairLayout, Seq2SeqLayout, TreeLayout
from SRM.settings import PUBLISHED_MODELS
from SRM.tokens import IGNORED, Example, Tokens

log = logging.getLogger("SRM")

DROPOUT_RATES = ("dropout", "attention_dropout", "activation_dropout")
"""Attributes of modules that are dropout rates."""
ATTENTION_LIMITS = ("sliding_window", "attention_chunk_size", "window_size")
"""Entries of a configuration that limit the number of tokens to which some layers attend."""
TOLERANCE = 1e-4
"""Largest difference between two computations of the same values in float32, relative to their size."""

LONGEST_REASON = 150
"""Maximum number of characters of another library's error in a message."""


def find_model(root: Path, name: str) -> str:
    """Return the folder or the hub id of the language model that a run starts from.

    The places are, in this order, ``<root>/pretrained/<name>``, the folder ``<name>``, and the hub.

    Raises:
        ConfigError: the model is in none of these places (the message names all of them), or the folder has no model.
    """
    local = pretrained_source(root, name)
    if Path(local).is_dir():
        _read_config(local)
        return local
    hub = PUBLISHED_MODELS[name][0] if name in PUBLISHED_MODELS else name
    try:
        AutoConfig.from_pretrained(hub, trust_remote_code=False, local_files_only=not hub_answers(hub))
        return hub
    except (OSError, ValueError) as error:
        folders = " and ".join(dict.fromkeys((str(root / "pretrained" / name), str(Path(name).absolute()))))
        [nearest] = get_close_matches(language_model_name(name), PUBLISHED_MODELS, 1, cutoff=0)
        hint = "" if name in PUBLISHED_MODELS else f"; the nearest published name is {nearest}"
        raise ConfigError(
            f"{name}: there is no such language model. Looked in {folders}, and for {hub} in the hub's cache "
            f"{HF_HUB_CACHE} and on the hub ({_first_line(error)}); place the model files in the first folder, or "
            f"connect to the internet{hint}"
        ) from None


def _read_config(source: str | Path) -> Any:
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source}: contains no language model (config.json: {_first_line(error)})") from None


def load_model(source: str | Path, name: str, dropout: float | None = None) -> tuple[Any, Tokens]:
    """Load a language model and its tokenizer; no code of the model's authors is run.

    Args:
        source: a folder written by :func:`save_model` or by transformers, or a hub id.
        name: the model's name on the command line; a published name implies a type.
        dropout: the rate of every dropout layer; None keeps the configured rates.

    Raises:
        ConfigError: the source contains no model, or one that is neither causal nor encoder-decoder, or of another type
            than ``name``.
    """
    config = _read_config(source)
    published, kind = PUBLISHED_MODELS.get(name), config.model_type
    if published and kind != published[1]:
        raise ConfigError(f"{source}: contains a model of type {kind}, but {name} is of type {published[1]}")
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    # Some published models are on the hub without safetensors; transformers then reads their tensors, and no code.
    options = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": None if published else True}
    try:
        model = loader.from_pretrained(source, **options)
        tokens = Tokens(AutoTokenizer.from_pretrained(source, trust_remote_code=False))
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{source}: cannot be loaded ({_first_line(error)})") from None
    if not published:
        _check_kind(model, source)
        # Without the sampling, penalties and forced tokens that chat models and summarizers come with.
        starts = ("bos_token_id", "decoder_start_token_id")
        model.generation_config = GenerationConfig(**{name: getattr(model.config, name, None) for name in starts})
    if dropout is not None:
        # The configuration keeps its rates.
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
            for rate in DROPOUT_RATES:
                if isinstance(getattr(module, rate, None), float):
                    setattr(module, rate, dropout)
    return model, tokens


def _check_kind(model: Any, source: str | Path) -> None:
    """Reject models that attend to later tokens, such as BERT, and decoders without a token to start with."""
    kind = f"{source}: contains a model of type {model.config.model_type}, which"
    if model.config.is_encoder_decoder:
        if getattr(model.config, "decoder_start_token_id", None) is None:
            raise ConfigError(f"{kind} has no decoder_start_token_id in its config.json")
        return
    with torch.inference_mode():
        logits_a, logits_b = model.eval()(input_ids=torch.tensor([[1, 2, 3], [1, 2, 4]])).logits[:, :2]
    if not torch.allclose(logits_a, logits_b, rtol=0, atol=TOLERANCE * float(logits_a.abs().max())):
        raise ConfigError(f"{kind} attends to later tokens; SRM needs a causal or an encoder-decoder model")


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"


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
    limits = (getattr(model.config, name, None) for name in ("n_positions", "max_position_embeddings"))
    length = next(filter(None, limits), tokens.tokenizer.model_max_length)
    return int(min(length, 1 << 20))


def save_model(model: Any, tokens: Tokens, folder: Path, json_files: Mapping[str, Any]) -> None:
    """Write model (safetensors), configuration, tokenizer and further JSON files (values by file name) to a folder.

    An existing folder is replaced; the new one appears only when complete.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        tokens.tokenizer.save_pretrained(temporary)
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
    """The sums of which the loss CE(question-answer) + lm_lambda CE(scene graph) consists; each CE is a weighted mean.

    Targets whose ids are in ``weighted`` have the weight ``weight``, others have weight 1, as all targets of
    encoder-decoder models have. Logits are computed only at the positions of targets, because the vocabulary is large
    and most of a batch is context.
    """

    def __init__(self, model: Any, weighted: list[int], weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight
        self.weighted = [] if model.config.is_encoder_decoder else weighted

    def forward(self, batch: Batch) -> Tensor:
        """Compute the sums over a batch of :mod:`SRM.batches`.

        Returns:
            float32, 4: summed loss and summed weights of the question-answer pass, then of the scene-graph pass.
        """
        rows, columns = batch["places"]
        labels = batch["targets"][rows, columns]
        losses = self.target_losses(batch)
        # In the batch of a process without examples, all labels are IGNORED; their losses and weights are 0.
        weights = (labels != IGNORED).to(losses.dtype)
        for token in self.weighted:
            weights = torch.where(labels == token, self.weight, weights)
        is_question = batch["is_question"][rows, columns].to(weights.dtype)
        sides = (is_question, 1 - is_question)
        return torch.stack([(values * side).sum() for side in sides for values in (losses * weights, weights)])

    def target_losses(self, batch: Batch) -> Tensor:
        """Return the loss of each target (float32, N, in the order of ``places``), without weights."""
        model, (rows, columns) = self.model, batch["places"]
        if model.config.is_encoder_decoder:
            targets = torch.where(batch["targets"] == IGNORED, model.config.pad_token_id, batch["targets"])
            shifted = F.pad(targets[:, :-1], (1, 0), value=model.config.decoder_start_token_id)
            sources = {name: batch[name] for name in ("input_ids", "attention_mask")}
            logits = model(**sources, decoder_input_ids=shifted).logits[rows, columns]
        else:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
            logits = logits_at(model, (rows, columns), **inputs)
        labels = batch["targets"][rows, columns]
        return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


def logits_at(model: Any, positions: Any, **inputs: Any) -> Tensor:
    """Return the logits of a decoder-only model at some positions, positions x vocabulary.

    The head computes only these ``positions``, an index into rows x width. Without ``use_cache`` among the inputs, the
    model keeps no cache.
    """
    if hasattr(model.config, "use_cache"):
        inputs = {"use_cache": False} | inputs
    head = model.get_output_embeddings()
    with head.register_forward_pre_hook(lambda _, hidden: (hidden[0][positions],)):
        return model(**inputs).logits


def disagreement(
    model: Any, longest: int, compute_optimized: Callable[[], Tensor], expected: Tensor, size: float = 0.0
) -> str | None:
    """Return why an optimized computation cannot be used for a model, or None if it can.

    Args:
        model: the language model.
        longest: number of tokens of the longest sequence; no layer may be limited to fewer.
        compute_optimized: computes values the optimized way; models reject unknown inputs with errors of any kind.
        expected: these values, computed by the baseline.
        size: the usual size of the values, to which the tolerance is relative; at least the largest of ``expected``.
    """
    limit = min((value for name in ATTENTION_LIMITS if (value := getattr(model.config, name, None))), default=longest)
    if limit < longest:
        return f"layers attend to {limit} of up to {longest} tokens"
    try:
        difference = float((compute_optimized() - expected).abs().max())
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"
    if difference <= TOLERANCE * max(size, float(expected.abs().max())):
        return None
    return f"values differ by {difference:.2g}"


@torch.no_grad()
def layout_for(loss: SRMLoss, tokens: Tokens, examples: Sequence[Example], longest: int) -> Layout:
    """Return the layout of a language model's batches.

    A decoder-only model gets :class:`SRM.batches.TreeLayout` if its attention takes the masks and positions of this
    layout: the losses of all targets of ``examples`` are compared with those of separate sequences.

    Args:
        loss: the loss with the model, not prepared for other precisions.
        tokens: the tokenizer.
        examples: the examples; the two layouts can be told apart only by those with related and other items.
        longest: number of tokens of the longest sequence of any example.
    """
    model = loss.model.eval()
    if model.config.is_encoder_decoder:
        return Seq2SeqLayout(tokens)
    tree, pair = TreeLayout(tokens), PairLayout(tokens)

    def losses(layout: Layout) -> Tensor:
        batch = {name: value.to(model.device) for name, value in layout.batch(examples).items()}
        values = loss.target_losses(batch)
        is_question = batch["is_question"][tuple(batch["places"])]
        return torch.cat([values[is_question], values[~is_question]])

    # The losses of a trained model may all be small; the tolerance is then that of an untrained model.
    reason = disagreement(model, longest, lambda: losses(tree), losses(pair), math.log(len(tokens)))
    if reason:
        log.info(f"each of the two passes of an example has a row of its own in training (shared prefixes: {reason})")
    return pair if reason else tree
