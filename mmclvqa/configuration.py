"""MMF's configuration for current omegaconf; unknown keys are errors.

Precedence is as in MMF: defaults < default files of model and data set < ``config=FILE`` < ``key=value`` overrides.
Keys of published configurations are translated first (:mod:`mmclvqa.published_configs`). MMF relies on omegaconf 2.0,
where a missing key is None and resolvers can be registered twice; :class:`PluginConfiguration` replaces its class.

This module imports torch and MMF only when a configuration needs them, so that most errors are reported without delay.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import importlib.util
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmclvqa.answer_models import check_model
from mmclvqa.clove.data_root import pretrained_source
from mmclvqa.clove.errors import CloveError, ConfigError
from mmclvqa.clove.tasks import ALL_TASKS, find_setting, setting_names, task
from mmclvqa.clove.text import did_you_mean, one_line, suggestion
from mmclvqa.lazy import LazyModule, torch
from mmclvqa.methods.selection import check_overrides, method_defaults
from mmclvqa.published_configs import ignored_pattern, translate, translate_key
from mmclvqa.user_code import import_user_code, user_file
from mmclvqa.value_kinds import fit, fit_default, matches_any

mmf_configuration = LazyModule("mmf.utils.configuration")
mmf_registry = LazyModule("mmf.common.registry")

CONFIG_DIR = Path(__file__).parent / "configs"

OPEN_NODES = (
    "checkpoint.pretrained_state_mapping",
    "dataset_config.*.processors",
    "model_config.*.mmt",
    "model_config.*.text_bert",
    "optimizer.params",
    "scheduler.params",
)
"""Nodes in which a configuration file may have keys that are not in the defaults."""

PARAMETERS = ("optimizer.params", "scheduler.params")
"""Open nodes in which an override may also add keys: they are checked when the optimizer or scheduler is built."""
TYPING_ERROR = 0.8
"""An added key at least this similar to one of the defaults is taken for a typing error; 1 means equal."""

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
"""Values of ``training.logger_level``, in any case."""

SETTING_KEYS = ("env.clove_root", "training.CL.cl_setting", "training.CL.cur_task")
"""Overrides that are merged first, because others may change what the setting's file says."""


def default_config_path() -> str:
    """Return the path of the file with the default of every key."""
    return str(CONFIG_DIR / "defaults.yaml")


class PluginConfiguration:
    """Replacement of MMF's Configuration, which merges configuration files and overrides.

    MMF is imported only for user code and for models and data sets that are not part of this plugin.
    :mod:`mmclvqa.compat` adds the methods of MMF's class that are not defined here.

    Args:
        args: namespace with ``opts`` (list of ``key=value``, or alternating keys and values) and ``config_override``
            (JSON text or None), as MMF's parser returns it.
            Without it, the configuration consists of the defaults.

    Raises:
        ConfigError: a file does not exist or is not a YAML mapping, a key is unknown, a value does not have the type
            of its default, or an interpolation has no value.
    """

    def __init__(self, args: argparse.Namespace | None = None) -> None:
        self.args = args or argparse.Namespace(opts=[], config_override=None)
        _register_resolvers()
        self._default_config = self._defaults = package_defaults(default_config_path())
        self._own_defaults = [self._default_config]
        self._names: dict[str, str] = {}
        try:
            config = self._build_config() if args else OmegaConf.merge(self._default_config)
            self.config = self._merge_with_dotlist(config, self.args.opts)
            self._update_specific(self.config)
            OmegaConf.to_container(self.config, resolve=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None

    def get_config(self) -> DictConfig:
        """Return the configuration and register it with MMF."""
        mmf_registry.registry.register("config", self.config)
        return self.config

    def _build_config(self) -> DictConfig:
        """Return the configuration without the overrides."""
        words = split_words(self.args.opts)
        self.config_path = words.get("config")
        file = read_config(self.config_path) if self.config_path else OmegaConf.create()
        self._user_config = self._translated(file, self.config_path)
        self._import_user_code(words)
        # User code has been imported, so this includes the settings of its methods.
        parts = (method_defaults(), self._build_model_config(words), *self._build_dataset_configs(words))
        self._defaults = defaults = OmegaConf.merge(self._default_config, *parts)
        override = self._build_override(self.args.config_override)
        for source, config in ((self.config_path, self._user_config), ("config_override", override)):
            unknown = next(unknown_keys(config, defaults), None)
            if unknown is not None:
                raise ConfigError(f"{source}: unknown key {unknown}{suggest(unknown, defaults)}")
            self._fit_values(config, source)
        return OmegaConf.merge(defaults, self._user_config, override)

    def _fit_values(self, config: DictConfig, source: str) -> None:
        """Convert the values of a file to the types of their defaults; ``source`` names the file in errors."""
        for key, value, default in self._values(OmegaConf.to_container(config, resolve=False)):
            fitting = fit_default(key, value, default, str(value), f"{source}: ")
            if fitting is not value:
                OmegaConf.update(config, key, fitting, merge=False)

    def _values(self, content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
        """Yield dotted key, value and default of the package's keys in a file. Groups of keys are not values."""
        for name, value in content.items():
            key = f"{prefix}{name}"
            default = self._default(key)
            if isinstance(value, Mapping) and (default is _ABSENT or isinstance(default, Mapping)):
                yield from self._values(value, f"{key}.")
            elif default is not _ABSENT:
                yield key, value, default

    def _default(self, key: str) -> Any:
        """Return the default of a key of the package, or of any group of keys; ``_ABSENT`` for other keys."""
        # The defaults of a data set refer to others, so they are resolved where all are merged.
        if any(_node(own, key) is not _ABSENT for own in self._own_defaults):
            return _select(self._defaults, key)
        node = _node(self._defaults, key)
        return node if isinstance(node, DictConfig) else _ABSENT

    def _translated(self, config: DictConfig, source: str | None) -> DictConfig:
        """Return the content of a file in this project's keys; warn once about keys that are ignored."""
        try:
            translation = translate(config)
        except CloveError as error:
            raise ConfigError(f"{source}: {error}") from None
        if line := translation.describe():
            # Shown without a line of code, once per process and file.
            warnings.warn_explicit(line, UserWarning, source, 0, registry=_WARNED)
        return translation.config

    def _import_user_code(self, words: Mapping[str, str]) -> None:
        """Import the code at ``env.user_dir``, which is set on the command line, in the file, or in the environment."""
        files = (OmegaConf.select(config, "env.user_dir") for config in (self._user_config, self._default_config))
        if path := next(filter(None, (words.get("env.user_dir"), *files)), None):
            user_file(path)
            importlib.import_module("mmf")  # user code may expect it
            import_user_code(path)

    def _build_model_config(self, words: Mapping[str, str]) -> DictConfig:
        name = words.get("model") or self._name_in_file("model")
        if not name:
            raise ConfigError("no model is given; add an override such as model=unicl")
        self._names["model"] = name
        self._drop_other_models(name)
        return self._registered_config("model", name)

    def _drop_other_models(self, name: str) -> None:
        """Remove the sizes of the plugin's other models from the configuration file, which all models share."""
        nodes = self._user_config.get("model_config")
        for other in list(nodes) if isinstance(nodes, DictConfig) else ():
            if other != name and (CONFIG_DIR / "models" / other).is_dir():
                del nodes[other]

    def _build_dataset_configs(self, words: Mapping[str, str]) -> list[DictConfig]:
        keys = ("datasets", "dataset")
        names = next(filter(None, (*map(words.get, keys), *map(self._name_in_file, keys))), None)
        if not names:
            raise ConfigError("no data set is given; add an override such as dataset=clvqa")
        self._names |= {"dataset": names, "datasets": names}
        return [self._registered_config("builder", name.strip()) for name in names.split(",")]

    def _name_in_file(self, key: str) -> str | None:
        """Return the name at a key of the configuration file as text; a list is joined by commas."""
        value = OmegaConf.select(self._user_config, key)
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        return fit(f"{self.config_path}: {key}", value, "")

    def _registered_config(self, kind: str, name: str) -> DictConfig:
        """Return the default configuration of a registered model or data set; an empty node if it has none."""
        group, node = ("model", "model_config") if kind == "model" else ("dataset", "dataset_config")
        own = CONFIG_DIR / f"{group}s" / name / "defaults.yaml"
        if name.isidentifier() and own.exists():
            defaults = package_defaults(str(own))
            self._own_defaults.append(defaults)
            if "mmf" not in sys.modules:
                return defaults
        if kind == "model":
            check_model(name)
        registered = mmf_registry.registry.mapping[f"{kind}_name_mapping"]
        if name not in registered:
            raise ConfigError(f"no {group} named {name!r} is registered{did_you_mean(name, registered)}")
        path = registered[name].config_path()
        if path == str(own):
            return package_defaults(path)
        return mmf_configuration.load_yaml(path) if path else OmegaConf.create({node: {name: {}}})

    def _build_override(self, text: str | None) -> DictConfig:
        try:
            content = json.loads(text) if text else {}
        except json.JSONDecodeError as error:
            raise ConfigError(f"config_override is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise ConfigError(f"config_override={text}: it must be a JSON object")
        return self._translated(OmegaConf.create(content), "config_override")

    def _merge_with_dotlist(self, config: DictConfig, opts: list[str] | None) -> DictConfig:
        words = [
            (key, text, value)
            for group, group_text in split_words(opts).items()
            for published_key, text, part in _expanded(config, group, group_text, parse_value(group_text))
            for key, value in translate_key(published_key, part).items()
        ]
        ignored = self._merge_words(config, [word for word in words if word[0] in SETTING_KEYS])
        use_setting(config)
        ignored += self._merge_words(config, [word for word in words if word[0] not in SETTING_KEYS])
        lines = check_overrides(config, {key: value for key, _, value in words})
        if ignored:
            lines.append(f"ignored keys (not used by this project): {', '.join(ignored)}")
        for line in lines:
            warnings.warn_explicit(line, UserWarning, "command line", 0, registry=_WARNED)
        config.update(self._names)
        return config

    def _merge_words(self, config: DictConfig, words: list[tuple[str, str, Any]]) -> list[str]:
        """Merge overrides into a configuration and return the keys that are ignored."""
        ignored = []
        for key, text, value in words:
            current_value = _select(config, key)
            if current_value is _ABSENT and ignored_pattern(key):
                ignored.append(key)
                continue
            if current_value is _ABSENT:
                group, _, name = key.rpartition(".")
                defaults = self._default(group) if group in PARAMETERS else ()
                if group not in PARAMETERS or difflib.get_close_matches(name, list(defaults), cutoff=TYPING_ERROR):
                    raise ConfigError(f"{key}={text}: unknown key {key}{suggest(key, config)}")
            default = self._default(key)
            if default is _ABSENT and current_value is not _ABSENT:
                # In the configurations of user code, a whole number may stand for any number.
                kind = float(current_value) if type(current_value) is int else current_value
                value = fit(key, value, kind, text)
            elif default is not _ABSENT:
                value = fit_default(key, value, default, text)
            if isinstance(value, str) and value.startswith("~/"):  # which a shell does not expand after key=
                value = os.path.expanduser(value)
            OmegaConf.update(config, key, value, merge=False)
        return ignored

    def _update_specific(self, config: DictConfig) -> None:
        if config.learning_rate is not None:
            config.optimizer.params.lr = config.learning_rate
        if config.training.batch_size_per_device:
            processes = int(os.environ.get("WORLD_SIZE", 1))
            config.training.batch_size = config.training.batch_size_per_device * processes
        level = config.training.logger_level
        if level.lower() not in LOG_LEVELS:
            raise ConfigError(f"training.logger_level={level}: expected one of: {', '.join(LOG_LEVELS)}")
        device = str(config.training.device)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ConfigError(f"training.device={device}: expected one of: auto, cpu, cuda, cuda:<number of a GPU>")
        if device.startswith("cuda") and not torch.cuda.is_available():
            warnings.warn(f"training.device is {device} but no CUDA device is available; using cpu", stacklevel=2)
            config.training.device = "cpu"
        elif ":" in device and int(device.partition(":")[2]) >= (count := torch.cuda.device_count()):
            raise ConfigError(f"training.device={device}: this machine has cuda:0 to cuda:{count - 1}")


def _register_resolvers() -> None:
    resolvers = {
        "device_count": lambda: max(1, torch.cuda.device_count()),
        "resolve_cache_dir": lambda *arguments: mmf_configuration.resolve_cache_dir(*arguments),
        "resolve_dir": lambda *arguments: mmf_configuration.resolve_dir(*arguments),
        "environment": lambda name, default: os.environ.get(name) or default,
        "pretrained": pretrained_source,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_resolver(name, resolver, replace=True)


def use_setting(config: DictConfig) -> None:
    """Replace ``training.CL.cl_setting`` by its name, and fill in what its file says of the current task.

    Where the configuration names no annotation files, they and the feature databases are those of the setting.

    Raises:
        ConfigError: the setting or the task is unknown, or the setting's file is not valid.
    """
    setting_names(config.env.clove_root)
    selection = config.training.CL
    if not selection.cl_setting:
        return
    try:
        setting = find_setting(selection.cl_setting)
        selection.cl_setting = setting.name
        if not selection.cur_task:
            return
        is_multitask = selection.cur_task == ALL_TASKS
        tasks = list(setting.tasks.values()) if is_multitask else [task(setting.name, selection.cur_task)]
    except CloveError as error:
        raise ConfigError(f"training.CL.cl_setting={selection.cl_setting}: {error}") from None
    data = OmegaConf.select(config, "dataset_config.clvqa")
    if data is None or data.annotations.train:
        return
    data.annotations.train = [one.annotation_path("train") for one in tasks]
    data.annotations.val = [one.annotation_path("val") for one in tasks]
    if setting.image_sources and not setting.in_package:
        data.features = {name: ",".join(source.features) for name, source in setting.image_sources.items()}


@cache
def package_defaults(path: str) -> DictConfig:
    """Return the content of one of the package's own files, read once; callers must not change it."""
    return read_config(path)


def read_config(path: str) -> DictConfig:
    """Read a YAML file with its ``includes`` (paths relative to the file itself).

    Raises:
        ConfigError: the file, or a file it includes, does not exist or is not a YAML mapping.
    """
    try:
        return _load_with_includes(path)
    except FileNotFoundError as error:
        raise ConfigError(f"config file {error.filename or path} does not exist") from None
    except OmegaConfBaseException as error:
        is_list = "ListConfig" in str(error)
        reason = "it is not a mapping of keys to values" if is_list else one_line(error)
        raise ConfigError(f"config file {path}: {reason}") from None
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path}: {one_line(error)}") from None
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror or error}") from None


def _load_with_includes(path: str, folder: str = "", including: tuple[str, ...] = ()) -> DictConfig:
    """Read a file that is in ``folder`` or, as in MMF, relative to the environment's user code or to MMF.

    ``including`` are the files whose includes led to this one.
    """
    mmf_root = os.path.dirname(importlib.util.find_spec("mmf").origin)
    bases = (folder, os.environ.get("MMF_USER_DIR", ""), os.path.dirname(mmf_root), mmf_root)
    places = [os.path.abspath(os.path.join(base, path)) for base in bases]
    file = next(filter(os.path.exists, places), places[0])
    if file in including:
        raise ConfigError(f"config file {file} includes itself ({' -> '.join([*including, file])})")
    content = OmegaConf.load(file)
    includes = content.get("includes", [])
    if isinstance(includes, str) or not isinstance(includes, Sequence):
        raise ConfigError(f"config file {file}: includes={includes}: it must be a list of files")
    content.pop("includes", None)
    parts = [_load_with_includes(name, os.path.dirname(file), (*including, file)) for name in includes]
    merged = OmegaConf.create()
    for part in (*parts, content):
        if key := _mixed_key(merged, part):
            raise ConfigError(f"config file {file}: {key} is a list in one of its files and a group of keys in another")
        merged = OmegaConf.unsafe_merge(merged, part)  # the parts are not used again
    return merged


def _mixed_key(one: DictConfig, other: DictConfig, prefix: str = "") -> str | None:
    """Return the first dotted key that is a list in one configuration and a group of keys in the other."""
    for key in [key for key in one if key in other]:
        nodes = _child(one, key), _child(other, key)
        kinds = {type(node) for node in nodes}
        if kinds == {DictConfig, ListConfig}:
            return f"{prefix}{key}"
        if kinds == {DictConfig} and (mixed := _mixed_key(*nodes, f"{prefix}{key}.")):
            return mixed
    return None


def split_words(opts: list[str] | None) -> dict[str, str]:
    """Return overrides ``["a.b=1", ...]`` (or MMF's ``["a.b", "1", ...]``) as ``{"a.b": "1"}``; the last one wins."""
    opts = list(opts or [])
    if opts and "=" not in opts[0]:
        if len(opts) % 2:
            raise ConfigError(f"{opts[-1]!r} has no value; overrides have the form key=value")
        return dict(zip(opts[::2], opts[1::2], strict=True))
    overrides = {}
    for override in opts:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is not of the form key=value")
        overrides[key] = value
    return overrides


def parse_value(text: str) -> Any:
    """Parse the value of an override: a Python literal, true/false/null in any case, otherwise a string.

    A list of mappings may also be in YAML, as in a configuration file.
    """
    constants = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval can raise
        with suppress(yaml.YAMLError):
            return yaml.safe_load(text) if text.startswith("[{") else text
        return text


def _expanded(config: DictConfig, key: str, text: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield key, text and value of an override; of a group of keys, those of each key, unless the node is open."""
    node = _select(config, key) if isinstance(value, Mapping) else None
    if isinstance(node, DictConfig) and not _is_open(key, node):
        for name, part in value.items():
            yield from _expanded(config, f"{key}.{name}", str(part), part)
    else:
        yield key, text, value


def unknown_keys(config: Mapping, known: Mapping, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of ``config`` that are not in ``known``; open and empty nodes accept any key."""
    for key in config:
        dotted = f"{prefix}{key}"
        if key not in known:
            yield dotted
            continue
        node, known_node = _child(config, key), _child(known, key)
        is_group = isinstance(node, DictConfig) and isinstance(known_node, DictConfig)
        if is_group and not _is_open(dotted, known_node):
            yield from unknown_keys(node, known_node, f"{dotted}.")


def _is_open(key: str, node: DictConfig) -> bool:
    """Return whether any keys may be set in a node."""
    return not node or matches_any(key, OPEN_NODES)


def suggest(key: str, known: DictConfig) -> str:
    """Return ``; did you mean ...`` with the most similar dotted keys, or an empty string."""
    dotted = list(_dotted(known))
    close = difflib.get_close_matches(key, dotted, n=3, cutoff=0.75)
    leaf = key.rpartition(".")[2]
    same_leaf = [d for d in dotted if difflib.SequenceMatcher(None, d.rpartition(".")[2], leaf).ratio() > 0.85]
    found = sorted(dict.fromkeys(close + same_leaf), key=lambda d: d.rpartition(".")[2] != leaf)
    return suggestion(found[:3])


def _dotted(config: Mapping, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield f"{prefix}{key}"
        child = _child(config, key)
        if isinstance(child, DictConfig):
            yield from _dotted(child, f"{prefix}{key}.")


def _child(config: Any, key: Any) -> Any:
    """Return a node without resolving its interpolations."""
    return config._get_node(key) if isinstance(config, DictConfig) else config[key]


_ABSENT = object()

_WARNED: dict[Any, Any] = {}
"""Registry of the module ``warnings`` with the warnings that this process has issued."""


def _node(config: Any, key: str) -> Any:
    """Return the node at a dotted key without resolving interpolations, or ``_ABSENT`` if the key does not exist."""
    for part in key.split("."):
        if not isinstance(config, DictConfig) or part not in config.keys():  # noqa: SIM118  (it would resolve)
            return _ABSENT
        config = _child(config, part)
    return config


def _select(config: DictConfig, key: str) -> Any:
    """Return the value at a dotted key, or ``_ABSENT`` if the key does not exist."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return _ABSENT
        node = node[part]
    return node
