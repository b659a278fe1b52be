"""Patches that let MMF 1.0.0rc10 (2020) run with current Python, torch, transformers and omegaconf.

:func:`install` adds a finder to ``sys.meta_path``. When ``mmf`` is imported, the finder applies the patches of this
module before and after MMF's own import and then loads the plugin. Each patch is one function, which states its reason.
This module does not import torch or MMF before that.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

MMF_REQUIREMENT = "mmf==1.0.0rc10"
INSTALL_MMF = f"pip install --no-deps {MMF_REQUIREMENT}"

PLUGIN_MODULES = (
    "mmclvqa.datasets.builder",
    "mmclvqa.models.unicl",
    "mmclvqa.training.trainer",
)
"""Modules whose import registers the model ``unicl``, the data set ``clvqa`` and its processors, metrics, trainers."""

OPTIONAL_PACKAGES = {
    "torchvision": ("datasets", "datasets.folder", "transforms"),
    "torchtext": (),
    "demjson": (),
    "PIL": (),
}
"""Packages, with their submodules, that MMF imports at module level but the plugin does not use."""


def install() -> None:
    """Install the import hook, once per process."""
    if not any(isinstance(finder, _MmfFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MmfFinder())


class _MmfFinder(importlib.abc.MetaPathFinder):
    """Applies patches at ``import mmf``, and lets MMF's console scripts run this project's command line."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "mmf":
            return self._mmf_spec(path)
        if fullname in ("mmf_cli.run", "mmf_cli.predict"):
            # MMF's distribution also installs scripts called mmf_run and mmf_predict. Whichever distribution was
            # installed last, the scripts must start this project's command line, which loads the plugin.
            return importlib.machinery.ModuleSpec(fullname, _CliAlias())
        return None

    def _mmf_spec(self, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec:
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec("mmf", path, None)
            if spec is not None and spec.loader is not None:
                spec.loader = _PatchingLoader(spec.loader)
                return spec
        raise ModuleNotFoundError(f"MMF is not installed; install it with: {INSTALL_MMF}", name="mmf")


class _PatchingLoader(importlib.abc.Loader):
    """Executes a module between the patches that its import needs and the patches of its content."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        provide_transformers_names()
        with optional_packages():
            self._loader.exec_module(module)
        use_plugin_configuration()
        count_ranks_without_nccl()
        log_progress_of_any_mapping()
        for name in PLUGIN_MODULES:
            importlib.import_module(name)


class _CliAlias(importlib.abc.Loader):
    """Makes ``mmf_cli.run`` and ``mmf_cli.predict`` aliases of :mod:`mmclvqa.cli`."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return importlib.import_module("mmclvqa.cli")

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing, because the module has been executed under its own name."""


# --------------------------------------------------------------------------- before MMF's import


class _StandIn(types.ModuleType):
    """Stands in for an optional package that is not installed, and raises an error when it is used."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self.__name__}.{name}")


class _Missing:
    """A name in a package that is not installed: importing it works, calling it raises an ImportError."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        package = self._name.partition(".")[0]
        raise ImportError(f"{self._name} was used but {package} is not installed; install {package} first")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self._name}.{name}")


@contextlib.contextmanager
def optional_packages() -> Iterator[None]:
    """Provide stand-ins, while MMF's modules are imported, for packages that the plugin does not need.

    An installed package is used as it is. A stand-in raises an error with the package's name when it is used. The
    stand-ins are removed from ``sys.modules`` afterwards, because other libraries look there for installed packages.
    """
    names = []
    for package, parts in OPTIONAL_PACKAGES.items():
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            names += [package, *(f"{package}.{part}" for part in parts)]
    sys.modules.update({name: _StandIn(name) for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class _Renamed(types.ModuleType):
    """A module under its former name, which forwards to the current module and adds some names."""

    def __init__(self, name: str, present: str, extra: dict[str, Any] | None = None) -> None:
        super().__init__(name)
        self._present = importlib.import_module(present)
        self.__dict__.update(extra or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._present, name)


def provide_transformers_names() -> None:
    """Provide names that transformers has moved to ``models/<name>/`` (4.0) or removed, such as AdamW (5.0).

    ``BertLayerNorm`` was an alias of ``torch.nn.LayerNorm``.
    """
    import torch
    import transformers.optimization

    renamed = {
        "transformers.modeling_bert": ("transformers.models.bert.modeling_bert", True),
        "transformers.modeling_auto": ("transformers.models.auto.modeling_auto", False),
        "transformers.configuration_auto": ("transformers.models.auto.configuration_auto", False),
        "transformers.tokenization_auto": ("transformers.models.auto.tokenization_auto", False),
    }
    for former, (present, has_layer_norm) in renamed.items():
        if former not in sys.modules:
            extra = {"BertLayerNorm": torch.nn.LayerNorm} if has_layer_norm else {}
            sys.modules[former] = _Renamed(former, present, extra)
    if not hasattr(transformers.optimization, "AdamW"):
        transformers.optimization.AdamW = torch.optim.AdamW


# ---------------------------------------------------------------------------- after MMF's import


def use_plugin_configuration() -> None:
    """Replace MMF's Configuration: its sdist has no config files, and it relies on None for missing omegaconf keys."""
    import mmf.utils.build
    import mmf.utils.configuration as mmf_configuration

    from mmclvqa.configuration import PluginConfiguration, default_config_path

    for name, method in vars(mmf_configuration.Configuration).items():
        if not hasattr(PluginConfiguration, name):
            setattr(PluginConfiguration, name, method)
    mmf_configuration.get_default_config_path = default_config_path
    mmf_configuration.Configuration = PluginConfiguration
    mmf.utils.build.Configuration = PluginConfiguration


def count_ranks_without_nccl() -> None:
    """Make MMF detect process groups without NCCL, because it ignores them with CPU builds of torch.

    The code of the functions is replaced in place, because other modules of MMF have imported them by name.
    """
    import mmf.utils.distributed as mmf_distributed

    mmf_distributed.get_rank.__code__ = _get_rank.__code__
    mmf_distributed.get_world_size.__code__ = _get_world_size.__code__
    mmf_distributed.synchronize.__code__ = _synchronize.__code__


def _get_rank():  # runs with the globals of mmf.utils.distributed
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0  # noqa: F821


def _get_world_size():  # runs with the globals of mmf.utils.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1  # noqa: F821


def _synchronize():  # runs with the globals of mmf.utils.distributed
    if dist.is_available() and dist.is_initialized():  # noqa: F821
        dist.barrier()  # noqa: F821


def log_progress_of_any_mapping() -> None:
    """Replace the check for ``collections.Mapping``, which Python 3.10 removed, in MMF's Logger."""
    import json
    from collections.abc import Mapping

    from mmf.utils.logger import Logger

    def log_progress(self: Any, info: Any) -> None:
        if not isinstance(info, Mapping):
            self.write(info)
        elif self.log_format == "simple":
            self.write(", ".join(f"{key}: {value}" for key, value in info.items()))
        else:
            self.write(json.dumps(info, default=str))

    Logger.log_progress = log_progress
