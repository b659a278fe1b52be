"""Support for the published configuration files: their keys are translated, and unused keys are ignored.

The 14 files are complete MMF configurations, so they also contain keys of MMF, Lightning or an earlier data set.
:func:`translate` converts such a file to this project's keys; the same rules apply to ``key=value`` overrides.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mmclvqa.clove.errors import ConfigError

_DATA = "dataset_config.clvqa"
_PARAMS = f"{_DATA}.processors.*.params"

IGNORED_KEYS: dict[str, str] = {
    "config_version": "the format has one version",
    "device_id": "torchrun and accelerate place processes on devices",
    "start_rank": "torchrun and accelerate start processes",
    "distributed": "torchrun and accelerate start processes",
    "multitasking": "training.dataset_size_proportional_sampling says how data sets are mixed",
    "trainer": "settings of Lightning's loop; the loop is training.trainer",
    "checkpoint.reset.fp16_scaler": "the scaler is reset with the optimizer",
    "checkpoint.zoo_config_override": "MMF's model zoo is not supported",
    f"{_DATA}.return_features_info": "boxes are always read",
    f"{_DATA}.use_images": "the model reads region features",
    f"{_DATA}.use_order_vectors": "they are zero when the model reads them",
    f"{_DATA}.zoo_requirements": "python -m mmclvqa.clove download fetches data",
    f"{_PARAMS}.context_preprocessor": "ocr_token_processor has the same task",
    f"{_PARAMS}.vocab": "the BERT tokenizer has its own vocabulary",
    f"{_DATA}.processors.text_processor.params.preprocessor": "the BERT tokenizer normalizes text",
    f"{_DATA}.processors.scene_graph_processor.params.preprocessor": "the BERT tokenizer normalizes text",
    f"{_DATA}.processors.text_processor.params.max_length": "the tokenizer reads max_seq_length",
    f"{_DATA}.processors.scene_graph_processor.params.max_length": "the tokenizer reads max_seq_length",
    "env.wandb_logdir": "runs are not logged to Weights & Biases",
    "evaluation.reporter": "evaluation.predict_file_format says how predictions are written",
    "model_config.unicl.classifier.params": "the classifier is linear and has none",
    "model_config.unicl.mmt.max_position_embeddings": "its inputs carry no positions of their own",
    "optimizer.allow_unused_parameters": "training.find_unused_parameters covers it",
    "optimizer.enable_state_sharding": "optimizer states are not sharded",
    "training.CL.use_cls": "the key is model_config.unicl.use_cls",
    "training.colored_logs": "logs are plain text",
    "training.detect_anomaly": "a debugging aid; losses and weights are always checked",
    "training.exit_on_nan_losses": "a run always ends at a NaN",
    "training.fast_read": "records are always held in memory",
    "training.local_rank": "torchrun and accelerate place processes on devices",
    "training.persistent_workers": "they always persist",
    "training.task_size_proportional_sampling": "training.dataset_size_proportional_sampling covers it",
    "training.wandb": "runs are not logged to Weights & Biases",
}
"""Published keys, including all keys below them, that are not used here, and the reason; ``*`` matches any name."""

RENAMED = {f"{_DATA}.n_img_feat": f"{_DATA}.max_features", f"{_DATA}.img_feat_dim": f"{_DATA}.feature_dim"}
"""Published key to this project's key."""

PROCESSORS = {"bert_tokenizer": "clvqa_bert_tokenizer", "m4c_answer": "clvqa_answer", "fasttext": "clvqa_fasttext"}
"""MMF's processors to this project's, which are faster or read from the data root."""

FEATURE_SOURCES = ("gqa", "textvqa")
"""Sources of the entries of a published ``features.<split>`` list; all splits use the same databases."""

_FEATURES = re.compile(rf"{re.escape(_DATA)}\.features\.(train|val|test)")

MACHINE_PATHS: dict[str, str | None] = {
    "env.cache_dir": None,
    "env.data_dir": None,
    "env.save_dir": "${env.root}/exp/clvqa/save/multitask/{name}",
    "model_config.unicl.model_data_dir": None,
    f"{_DATA}.data_dir": None,
    f"{_DATA}.annotations.train": "{setting}/{name}",
    f"{_DATA}.annotations.val": "{setting}/{name}",
    f"{_DATA}.annotations.test": "{setting}/{name}",
    f"{_DATA}.processors.answer_processor.params.vocab_file": "vocab/{name}",
    f"{_DATA}.processors.context_processor.params.model_file": "pretrained/fasttext/{name}",
}
"""Keys whose value in a published file is a path on its author's machine, and the replacement if it does not exist:
the file of the same name in the data root, or None for this project's default."""


@dataclass
class Translation:
    """A configuration file translated to this project's keys.

    Attributes:
        ignored_keys: entries of :data:`IGNORED_KEYS` in the file; a file with any is treated as published.
        missing_paths: keys of :data:`MACHINE_PATHS` whose path does not exist on this machine.
    """

    config: DictConfig
    ignored_keys: list[str] = field(default_factory=list)
    missing_paths: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """Return a warning line; empty if no key was ignored and no path replaced."""
        parts = []
        if self.ignored_keys:
            parts.append(f"ignored keys (not used by this project): {', '.join(self.ignored_keys)}")
        if self.missing_paths:
            places = ", ".join(self.missing_paths)
            parts.append(f"paths that do not exist, replaced by paths in env.clove_root and env.root: {places}")
        return "; ".join(parts)


def ignored_pattern(key: str) -> str | None:
    """Return the entry of :data:`IGNORED_KEYS` that matches a dotted key; None if there is none."""
    for pattern in IGNORED_KEYS:
        if fnmatch.fnmatchcase(key, pattern) or fnmatch.fnmatchcase(key, f"{pattern}.*"):
            return pattern
    return None


def translate_key(key: str, value: Any) -> dict[str, Any]:
    """Translate a published key and its value to keys and values of this project; other keys are unchanged."""
    if key in RENAMED:
        return {RENAMED[key]: value}
    if key == "training.fp16":
        return {"training.precision": "fp16" if value else "fp32"}
    if _FEATURES.fullmatch(key) and isinstance(value, list):
        if len(value) > len(FEATURE_SOURCES):
            raise ConfigError(f"{key}: {len(value)} entries, but there are {' and '.join(FEATURE_SOURCES)}")
        sources = [_feature_source(str(path), position) for position, path in enumerate(value)]
        sources = sources if len(set(sources)) == len(sources) else FEATURE_SOURCES
        return {f"{_DATA}.features.{source}": path for source, path in zip(sources, value, strict=False)}
    if fnmatch.fnmatchcase(key, f"{_DATA}.processors.*.type") and key.count(".") == 4:
        return {key: PROCESSORS.get(value, value) if isinstance(value, str) else value}
    if fnmatch.fnmatchcase(key, f"{_PARAMS}.tokenizer_config.type") and isinstance(value, str) and "$" not in value:
        return {key: "${pretrained:${env.clove_root}," + value + "}"}
    return {key: value}


def _feature_source(path: str, position: int) -> str:
    """Return the source that an entry of ``features.<split>`` names, otherwise the one at its position."""
    return next((source for source in reversed(FEATURE_SOURCES) if source in path), FEATURE_SOURCES[position])


def translate(config: DictConfig) -> Translation:
    """Translate the content of a configuration file to this project's keys.

    Args:
        config: the content including its ``includes``; it is not changed.

    Raises:
        ConfigError: two keys of the file set one key of this project to different values.
    """
    result = Translation(OmegaConf.create())
    content = OmegaConf.to_container(config, resolve=False)
    values = dict(leaves(content))
    used = [(path, value) for path, value in values.items() if not _note(path, result.ignored_keys)]
    if result.ignored_keys:
        used = _relocated(used, values, result.missing_paths)
    translated: dict[tuple[str, ...], tuple[str, Any]] = {}
    for path, value in used:
        dotted = ".".join(map(str, path))
        for key, new in translate_key(dotted, value).items():
            target = path if key == dotted else tuple(key.split("."))
            source_key, before = translated.get(target, (dotted, new))
            if before != new:
                raise ConfigError(f"{dotted}: {new} contradicts {source_key}: {before}; both are {key} here")
            translated[target] = (dotted, new)
    result.config = OmegaConf.create(_nested({path: value for path, (_, value) in translated.items()}))
    return result


def _note(path: tuple[str, ...], entries: list[str]) -> bool:
    entry = ignored_pattern(".".join(map(str, path)))
    if entry is not None and entry not in entries:
        entries.append(entry)
    return entry is not None


def _relocated(
    entries: list[tuple[tuple[str, ...], Any]], values: Mapping[tuple[str, ...], Any], missing_paths: list[str]
) -> list[tuple[tuple[str, ...], Any]]:
    """Return the entries of a published file, with paths that do not exist replaced by those of this project."""
    setting = values.get(("training", "CL", "cl_setting"))
    databases = [
        database
        for path, value in entries
        if _FEATURES.fullmatch(".".join(map(str, path)))
        for entry in value or []
        for database in str(entry).split(",")
    ]
    relocated = []
    for path, value in entries:
        dotted = ".".join(map(str, path))
        if dotted not in MACHINE_PATHS or not value:
            relocated.append((path, value))
            continue
        names = value if isinstance(value, list) else [value]
        if all(_exists(dotted, str(name), databases) for name in names):
            if dotted == f"{_DATA}.data_dir":
                path = (*path[:-1], "features_dir")
            elif dotted != "env.save_dir":
                value = [_absolute(name) for name in names] if isinstance(value, list) else _absolute(value)
            relocated.append((path, value))
            continue
        missing_paths.append(dotted)
        template = MACHINE_PATHS[dotted]
        if template is not None:
            template = template.replace("{setting}", str(setting))
            moved = [template.replace("{name}", file_name(str(name))) for name in names]
            relocated.append((path, moved if isinstance(value, list) else moved[0]))
    return relocated


def _exists(key: str, place: str, databases: list[str]) -> bool:
    if "$" in place:
        return True
    if key == "env.save_dir":
        return not place.startswith("<") and Path(place).parent.parent.exists()
    if key == f"{_DATA}.data_dir":
        return any(Path(place, database).exists() for database in databases)
    return Path(place).exists()


def _absolute(place: Any) -> Any:
    return place if "$" in str(place) else str(Path(place).absolute())


def file_name(place: str) -> str:
    """Return the last part of a path; listings of the published files may have ``<path> `` instead of the folder."""
    return re.split(r"[/\s]", place)[-1]


def leaves(content: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Any:
    """Yield path and value of each leaf: a value that is not a mapping, or an empty mapping."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        node = nested
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return nested
