"""MMF's configuration on today's omegaconf, with unknown keys refused by name.

The order of precedence is MMF's: defaults < model's and data set's own files < ``config=FILE`` <
``key=value`` words. Published keys are translated first (:mod:`mmclvqa.published_configs`). Where MMF relied on
omegaconf 2.0 (a missing key is None, resolvers can be registered twice) this says what it means.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from mmf.common.registry import registry
from mmf.utils.configuration import Configuration as MMFConfiguration
from mmf.utils.configuration import load_yaml, resolve_cache_dir, resolve_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmclvqa.clove.errors import CloveError
from mmclvqa.clove.pretrained import pretrained_source
from mmclvqa.published_configs import meaningless, translate, translate_key

CONFIG_DIR = Path(__file__).parent / "configs"

OPEN_NODES = (
    "checkpoint.pretrained_state_mapping",
    "dataset_config.*.processors",
    "model_config.*.mmt",
    "model_config.*.text_bert",
    "optimizer.params",
    "scheduler.params",
)
"""Below these a configuration file may bring keys that the defaults do not list."""


class ConfigError(CloveError):
    """A configuration file or a ``key=value`` word that cannot be used."""


def default_config_path() -> str:
    """The file with every key's default."""
    return str(CONFIG_DIR / "defaults.yaml")


class PluginConfiguration(MMFConfiguration):
    """What MMF calls Configuration: reads the files and words once, then holds the merged result.

    Args:
        args: namespace with ``opts`` (list of ``key=value``, or alternating keys and values) and
            ``config_override`` (JSON text or None), as MMF's own parser gives it.
        default_only: ignore everything but the defaults.

    Raises:
        ConfigError: a file that does not exist or is no YAML mapping, or a key nobody knows.
    """

    def _register_resolvers(self) -> None:
        count = max(1, torch.cuda.device_count())
        OmegaConf.register_resolver("device_count", lambda: count, replace=True)
        OmegaConf.register_resolver("resolve_cache_dir", resolve_cache_dir, replace=True)
        OmegaConf.register_resolver("resolve_dir", resolve_dir, replace=True)
        OmegaConf.register_resolver("pretrained", pretrained_source, replace=True)

    def _build_other_configs(self) -> DictConfig:
        other = super()._build_other_configs()
        known = OmegaConf.merge(self._default_config, self._model_config, self._dataset_config)
        for source, config in ((self.config_path, self._user_config), ("config_override", self._override)):
            unknown = next(unknown_keys(config, known), None)
            if unknown is not None:
                raise ConfigError(f"{source}: unknown key {unknown}{suggest(unknown, known)}")
        return other

    def _build_opt_list(self, opts: list[str] | None) -> DictConfig:
        words = {"config": None, "model": None, "dataset": None, "datasets": None}
        words.update(split_words(opts))
        user_dir = words.get("env.user_dir")
        return OmegaConf.create({k: words[k] for k in ("config", "model", "dataset", "datasets")}
                                | {"env": {"user_dir": user_dir}})

    def _build_user_config(self, opts: DictConfig) -> DictConfig:
        self.config_path = opts.config
        return self._translated(read_config(opts.config), opts.config) if opts.config else OmegaConf.create()

    def _translated(self, config: DictConfig, source: str) -> DictConfig:
        """A file's content in this project's keys; what is left out of a published one is said once."""
        try:
            translation = translate(config)
        except CloveError as error:
            raise ConfigError(f"{source}: {error}") from None
        if line := translation.describe():
            # Without a line of code after it; once per process and file.
            warnings.warn_explicit(line, UserWarning, source, 0, registry=_WARNED)
        return translation.config

    def _build_model_config(self, config: DictConfig) -> DictConfig:
        name = config.model or OmegaConf.select(self._user_config, "model")
        if not name:
            raise ConfigError("no model given; say for example model=unicl")
        config.model = name
        self._model_config = self._registered_config("model", name)
        return self._model_config

    def _build_dataset_config(self, config: DictConfig) -> DictConfig:
        names = config.datasets or config.dataset
        names = names or OmegaConf.select(self._user_config, "datasets")
        names = names or OmegaConf.select(self._user_config, "dataset")
        if not names:
            raise ConfigError("no data set given; say for example dataset=clvqa")
        self._dataset_names = names
        parts = [self._registered_config("builder", name.strip()) for name in names.split(",")]
        self._dataset_config = OmegaConf.merge(OmegaConf.create(), *parts)
        return self._dataset_config

    def _registered_config(self, kind: str, name: str) -> DictConfig:
        """The default file of a registered model or builder; an open node where it has none."""
        group, node = ("model", "model_config") if kind == "model" else ("dataset", "dataset_config")
        registered = registry.mapping[f"{kind}_name_mapping"]
        if name not in registered:
            close = difflib.get_close_matches(name, registered, n=3)
            raise ConfigError(f"no {group} named {name!r} is registered{_did_you_mean(close)}")
        path = registered[name].config_path()
        return load_yaml(path) if path else OmegaConf.create({node: {name: {}}})

    def _build_demjson_config(self, text: str | None) -> DictConfig:
        try:
            given = OmegaConf.create(json.loads(text) if text else {})
            self._override = self._translated(given, "config_override")
        except json.JSONDecodeError as error:
            raise ConfigError(f"config_override is not JSON: {error}") from None
        return self._override

    def _merge_with_dotlist(self, config: DictConfig, opts: list[str] | None) -> DictConfig:
        left_out = []
        for key, text, value in _translated_words(split_words(opts)):
            present = _select(config, key)
            if present is _ABSENT and meaningless(key):
                left_out.append(key)
                continue
            if present is _ABSENT:
                raise ConfigError(f"{key}={text}: unknown key {key}{suggest(key, config)}")
            if isinstance(present, DictConfig) and not isinstance(value, Mapping):
                raise ConfigError(f"{key}={text}: {key} is a group of keys ({', '.join(present)}), not a value")
            _check_kind(key, text, present, value)
            OmegaConf.update(config, key, value, merge=False)
        if left_out:
            line = f"keys without meaning here, left out: {', '.join(left_out)}"
            warnings.warn_explicit(line, UserWarning, "command line", 0, registry=_WARNED)
        if getattr(self, "_dataset_names", None):
            config.datasets = config.dataset = self._dataset_names
        return config

    def _update_specific(self, config: DictConfig) -> DictConfig:
        if config.learning_rate:
            config.optimizer.params.lr = config.learning_rate
        if config.training.batch_size_per_device:
            processes = int(os.environ.get("WORLD_SIZE", 1))
            config.training.batch_size = config.training.batch_size_per_device * processes
        device = str(config.training.device)
        if device.split(":")[0] not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"training.device={device}: legal are auto, cpu and cuda")
        if device.startswith("cuda") and not torch.cuda.is_available():
            warnings.warn("training.device is cuda but there is no CUDA here; switching to cpu", stacklevel=2)
            config.training.device = "cpu"
        return config

    def upgrade(self, config: DictConfig) -> None:
        """MMF renames keys of its version 0.3 here; those are unknown keys to this project."""


def read_config(path: str) -> DictConfig:
    """Read a YAML file with its ``includes`` (paths relative to the file itself).

    Raises:
        ConfigError: it, or a file it includes, does not exist or is no YAML mapping.
    """
    try:
        config = load_yaml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"config file {error.filename or path} does not exist") from None
    except OmegaConfBaseException as error:
        is_list = "ListConfig" in str(error)
        why = "it is no mapping of keys to values" if is_list else _flat(error)
        raise ConfigError(f"config file {path}: {why}") from None
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path}: {_flat(error)}") from None
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror or error}") from None
    return config


def split_words(opts: list[str] | None) -> dict[str, str]:
    """``["a.b=1", ...]`` (or MMF's older ``["a.b", "1", ...]``) as ``{"a.b": "1"}``; the last one counts."""
    opts = list(opts or [])
    if opts and "=" not in opts[0]:
        if len(opts) % 2:
            raise ConfigError(f"{opts[-1]!r} has no value; words are written key=value")
        return dict(zip(opts[::2], opts[1::2], strict=True))
    words = {}
    for word in opts:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is not of the form key=value")
        words[key] = value
    return words


def parse_value(text: Any) -> Any:
    """A command-line value: Python literal, true/false/null in any case, otherwise the text itself."""
    if not isinstance(text, str):
        return text
    constants = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def unknown_keys(config: Mapping, known: Mapping, prefix: str = "") -> Iterator[str]:
    """Dotted keys of ``config`` that ``known`` has no place for; open and empty nodes take any key."""
    for key in config:
        dotted = f"{prefix}{key}"
        if key not in known:
            yield dotted
            continue
        ours, theirs = _child(config, key), _child(known, key)
        if not isinstance(ours, DictConfig) or not isinstance(theirs, DictConfig) or not theirs:
            continue
        if not any(fnmatch.fnmatchcase(dotted, pattern) for pattern in OPEN_NODES):
            yield from unknown_keys(ours, theirs, f"{dotted}.")


def suggest(key: str, known: DictConfig) -> str:
    """``; did you mean ...`` with the nearest known dotted keys, or nothing."""
    dotted = list(_dotted(known))
    close = difflib.get_close_matches(key, dotted, n=3, cutoff=0.75)
    leaf = key.rpartition(".")[2]
    same_leaf = [d for d in dotted if difflib.SequenceMatcher(None, d.rpartition(".")[2], leaf).ratio() > 0.85]
    return _did_you_mean(list(dict.fromkeys(close + same_leaf))[:3])


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())


def _did_you_mean(names: list[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _dotted(config: Mapping, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield f"{prefix}{key}"
        child = _child(config, key)
        if isinstance(child, DictConfig):
            yield from _dotted(child, f"{prefix}{key}.")


def _child(config: Any, key: Any) -> Any:
    """A node without resolving its interpolations."""
    return config._get_node(key) if isinstance(config, DictConfig) else config[key]


_ABSENT = object()

_WARNED: dict[Any, Any] = {}
"""What has been warned of in this process, as the module ``warnings`` keeps it."""


def _translated_words(words: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """Key here, text and value of each ``key=value`` word."""
    for key, text in words.items():
        for name, value in translate_key(key, parse_value(text)).items():
            yield name, text, value


def _select(config: DictConfig, key: str) -> Any:
    """The value at a dotted key, or ``_ABSENT`` where a part of the key does not exist."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return _ABSENT
        node = node[part]
    return node


def _check_kind(key: str, text: str, present: Any, value: Any) -> None:
    """A number stays a number and a switch a switch; anything may become null."""
    if value is None or (isinstance(value, str) and value.startswith("${")):
        return
    if isinstance(present, bool):
        if value not in (True, False):
            raise ConfigError(f"{key}={text}: {key} is true or false")
    elif isinstance(present, int | float) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigError(f"{key}={text}: {key} is a number")
