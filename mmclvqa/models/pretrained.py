"""Loads the initial weights of UniVQA: BERT for the text encoder, Faster R-CNN's fc7 for both region encoders.

A source is a file, folder or hub id in the configuration, or null. Null means random initialization, which is logged.
A source that does not exist or has other shapes is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmclvqa.clove.data_root import pretrained_source
from mmclvqa.clove.errors import ConfigError, DataError
from mmclvqa.clove.files import safe_load
from mmclvqa.clove.text import one_line
from mmclvqa.hub import hub_answers

logger = logging.getLogger("mmf.univqa")
"""A child of MMF's logger, so that train.log records where the weights come from."""

BERT_FILES = ("model.safetensors", "pytorch_model.bin")
MMF_FC7_FOLDER = "models/detectron.defaults"
"""Path of the fc7 files in MMF's data folder, to which ``model_data_dir`` of the published configurations points."""
FC7_URL = "https://dl.fbaipublicfiles.com/mmf/data/models/detectron/vmb_weights.tar.gz"


def load_initial_weights(network: nn.Module, config: Mapping[str, Any]) -> None:
    """Load the initial weights that ``config`` (``model_config.unicl``) specifies into ``network``.

    The keys are ``text_bert_init_from_bert_base``, ``text_bert_source``, ``fc7.weights_file``, ``fc7.bias_file``, and
    ``model_data_dir``, to which paths are relative.

    Raises:
        DataError: a source does not exist, cannot be read or has other shapes.
        ConfigError: only one of the two fc7 files is set.
    """
    data_dir = Path(config.get("model_data_dir") or ".")
    source = config.get("text_bert_source") if config.get("text_bert_init_from_bert_base", True) else None
    load_text_bert(network.text_bert, source, data_dir)
    fc7 = config.get("fc7") or {}
    for name in ("obj_faster_rcnn_fc7", "ocr_faster_rcnn_fc7"):
        load_fc7(getattr(network, name).lc, name, fc7.get("weights_file"), fc7.get("bias_file"), data_dir)


def load_text_bert(text_bert: nn.Module, source: str | None, data_dir: Path) -> None:
    """Load BERT's embeddings and its first layers, as many as ``text_bert`` has.

    Args:
        text_bert: :class:`~mmclvqa.models.text_bert.TextBert`. Its word embedding may have one additional row, for
            ``[OCR]``, which keeps its random values.
        source: name of a folder in ``data_dir/pretrained``, path of a folder, or a hub id; None keeps the random
            initialization.
    """
    if source is None:
        logger.info("text_bert: initialized at random (no text_bert_source, or text_bert_init_from_bert_base is false)")
        return
    path = _bert_file(source, data_dir)
    weights = _read_tensors(path)
    for name, parameter in text_bert.state_dict().items():
        tensor = weights.get(name)
        if tensor is None:
            raise DataError(
                f"{path}: contains no {name}; text_bert_source must be a BERT with at least that many layers"
            )
        rows = parameter.size(0) - 1 if name == "embeddings.word_embeddings.weight" else parameter.size(0)
        if tensor.shape[1:] != parameter.shape[1:] or tensor.size(0) not in (rows, parameter.size(0)):
            raise DataError(
                f"{path}: {name} is {tuple(tensor.shape)}, but model_config.unicl.text_bert asks for "
                f"{(rows, *parameter.shape[1:])}; set its sizes to those of {path.parent / 'config.json'} "
                "(clove-mini: use the files of EXP_CONFIG/mini)"
            )
        parameter[: tensor.size(0)].copy_(tensor)
    layers = len(text_bert.encoder.layer)
    logger.info("text_bert: embeddings and the first %d layers from %s", layers, path)


def load_fc7(linear: nn.Linear, name: str, weights_file: str | None, bias_file: str | None, data_dir: Path) -> None:
    """Load Faster R-CNN's fc7 (two pickled arrays, out×in and out); None for both keeps the random initialization."""
    if weights_file is None and bias_file is None:
        logger.info("%s: initialized at random (fc7.weights_file and fc7.bias_file are null)", name)
        return
    for key, file, parameter in (("weights_file", weights_file, linear.weight), ("bias_file", bias_file, linear.bias)):
        if file is None:
            raise ConfigError(f"model_config.unicl.fc7.{key} is null but the other is not; set both or neither")
        path = data_dir / file
        if not path.is_file() and (data_dir / MMF_FC7_FOLDER / path.name).is_file():
            path = data_dir / MMF_FC7_FOLDER / path.name
        if not path.is_file():
            raise DataError(
                f"model_config.unicl.fc7.{key}: {path} does not exist; unpack {FC7_URL} there, or set "
                "fc7.weights_file and fc7.bias_file to null for random initialization"
            )
        array = safe_load(path)
        if not isinstance(array, np.ndarray) or array.shape != tuple(parameter.shape):
            shape = getattr(array, "shape", type(array).__name__)
            raise DataError(
                f"{path}: contains {shape}, but {name} needs {tuple(parameter.shape)}; set obj.in_dim and "
                "obj.mmt_in_dim to the file's widths, or the file to null"
            )
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(array))
    logger.info("%s: weights from %s", name, data_dir / weights_file)


def _bert_file(source: str, data_dir: Path) -> Path:
    source = pretrained_source(data_dir, source)
    folder = Path(source)
    if folder.is_dir():
        files = [folder / name for name in BERT_FILES if (folder / name).is_file()]
        if not files:
            raise DataError(f"{folder}: contains neither {' nor '.join(BERT_FILES)}; put BERT's weights there")
        return files[0]
    from transformers.utils import cached_file

    options = {"local_files_only": not hub_answers(source), "_raise_exceptions_for_missing_entries": False}
    for name in BERT_FILES:
        try:
            cached = cached_file(source, name, **options)
        except (OSError, ValueError):  # no such repository
            break
        if cached:
            return Path(cached)
    raise DataError(
        f"model_config.unicl.text_bert_source: {source} is not a folder, not in {data_dir / 'pretrained'} and cannot "
        "be downloaded; put BERT there (config.json, model.safetensors), or set it to null for random initialization"
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a BERT file by TextBert's names; that of BERT-base uses the old names gamma and beta."""
    try:
        is_safetensors = path.suffix == ".safetensors"
        tensors = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
        return {
            name.removeprefix("bert.")
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias"): tensor
            for name, tensor in tensors.items()
        }
    except Exception as error:  # each format has its own errors for a broken file
        reason = one_line(error)[:200]
        raise DataError(f"{path}: cannot be read as BERT weights ({reason}); download it again") from error
