"""Patches that let MMF 1.0.0rc10 (2020) run with current Python, torch, transformers and omegaconf.

:func:`install` adds a finder to ``sys.meta_path``. When ``mmf`` is imported, the finder applies the patches of this
module before and after MMF's own import and then loads the plugin. Each patch is one function, which states its reason.
This module does not import torch or MMF before that.

Of MMF, only what the plugin uses is imported at first: MMF's models, data sets and trainers follow when one of them is
used or looked up in the registry, and large libraries when one of their functions is called.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pkgutil
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmclvqa.lazy import LazyModule

PLUGIN_MODULES = ("mmclvqa.datasets.builder", "mmclvqa.models.unicl", "mmclvqa.training.trainer")
"""Modules whose import registers the model ``unicl``, the data set ``clvqa`` and its processors, metrics, trainers."""

OPTIONAL_PACKAGES = {
    "torchvision": ("datasets", "datasets.folder", "transforms"),
    "torchtext": (),
    "demjson": (),
    "PIL": (),
}
"""Packages, with their submodules, that MMF imports at module level but the plugin does not use."""

FUNCTIONS_FROM = {
    "mmf.modules.metrics": "sklearn.metrics",
    "mmf.modules.optimizers": "transformers.optimization",
    "mmf.modules.schedulers": "transformers.optimization",
    "mmf.datasets.processors.bert_processors": "transformers.tokenization_auto",
}
"""Modules of MMF and the module, slow to import, from which each takes functions that it calls later."""


def install() -> None:
    """Install the import hook, at most once per process."""
    if not any(isinstance(finder, _MmfFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MmfFinder())


class _MmfFinder(importlib.abc.MetaPathFinder):
    """Applies patches at ``import mmf``, and lets MMF's console scripts run this project's command line."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] == "mmf" or fullname in ("transformers", "transformers.optimization"):
            return self._patched_spec(fullname, path)
        if fullname in ("mmf_cli.run", "mmf_cli.predict"):
            # MMF's distribution also installs scripts called mmf_run and mmf_predict. Whichever distribution was
            # installed last, the scripts must start this project's command line, which loads the plugin.
            return importlib.machinery.ModuleSpec(fullname, _CliAlias())
        return None

    def _patched_spec(self, fullname: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, None)
            if spec is not None and spec.loader is not None:
                spec.loader = _PatchingLoader(spec.loader)
                return spec
        if fullname == "mmf":
            message = "MMF is not installed; install it with: pip install --no-deps mmf==1.0.0rc10"
            raise ModuleNotFoundError(message, name="mmf")
        return None


class _PatchingLoader(importlib.abc.Loader):
    """Executes a module of MMF or transformers with the patches of this file."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        if name == "mmf.models":
            defer_models(module, self._loader)
            return
        if name == "transformers":
            with no_stand_ins():
                self._loader.exec_module(module)
            return
        if name == "mmf":
            provide_transformers_names()
        functions = FUNCTIONS_FROM.get(name)
        with optional_packages(), functions_from(functions) if functions else contextlib.nullcontext():
            self._loader.exec_module(module)
        if name == "transformers.optimization":
            provide_adamw(module)
        elif name == "mmf.utils.env":
            postpone_setup(module)
        elif name == "mmf":
            complete_on_demand()
            use_plugin_configuration()
            count_ranks_without_nccl()
            log_progress_of_any_mapping()
            for plugin_module in PLUGIN_MODULES:
                importlib.import_module(plugin_module)


class _CliAlias(importlib.abc.Loader):
    """Makes ``mmf_cli.run`` and ``mmf_cli.predict`` aliases of :mod:`mmclvqa.cli`."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return importlib.import_module("mmclvqa.cli")

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing, because the module has been executed under its own name."""


# --------------------------------------------------------------------------- before MMF's import


class _StandIn(types.ModuleType):
    """Stands in for a module whose names are imported now and used later, if at all."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(f"{self.__name__}.{name}")


class _Name:
    """A dotted name: calling it imports and calls what it names, or raises an ImportError if that is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        package = self._name.partition(".")[0]
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            raise ImportError(f"{self._name} was used but {package} is not installed; install {package} first")
        return pkgutil.resolve_name(self._name)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(f"{self._name}.{name}")


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


@contextlib.contextmanager
def no_stand_ins() -> Iterator[None]:
    """Hide the stand-ins while transformers is imported, because it looks in ``sys.modules`` for installed packages."""
    hidden = {name: module for name, module in sys.modules.items() if isinstance(module, _StandIn)}
    for name in hidden:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.modules.update(hidden)


@contextlib.contextmanager
def functions_from(name: str) -> Iterator[None]:
    """Provide a stand-in for a module, while a module of MMF is imported that only calls its functions."""
    original_module, sys.modules[name] = sys.modules.get(name), _StandIn(name)
    if name == "transformers.optimization":
        provide_adamw(sys.modules[name])
    try:
        yield
    finally:
        del sys.modules[name]
        if original_module is not None:
            sys.modules[name] = original_module


def provide_transformers_names() -> None:
    """Provide modules that transformers has moved to ``models/<name>/`` (4.0) under their former names.

    ``BertLayerNorm`` was an alias of ``torch.nn.LayerNorm``.
    """
    import torch

    for name in ("modeling_bert", "modeling_auto", "configuration_auto", "tokenization_auto"):
        former = LazyModule(f"transformers.models.{name.partition('_')[2]}.{name}")
        if name == "modeling_bert":
            former.BertLayerNorm = torch.nn.LayerNorm
        sys.modules.setdefault(f"transformers.{name}", former)


def provide_adamw(optimization: types.ModuleType) -> None:
    """Provide ``transformers.optimization.AdamW``, which transformers 5.0 removed."""
    import torch

    if not isinstance(vars(optimization).get("AdamW"), type):
        optimization.AdamW = torch.optim.AdamW


def defer_models(package: types.ModuleType, loader: importlib.abc.Loader) -> None:
    """Execute the package ``mmf.models`` when a model is taken from it; its modules can be imported before that."""

    def execute(name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        if name == "BaseModel":
            # MMF's models import it from the package.
            return importlib.import_module("mmf.models.base_model").BaseModel
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = execute


_postponed: list[Callable[[], None]] = []
"""MMF's ``setup_imports``, which imports and registers all its models, data sets and trainers, until it has run."""


def postpone_setup(env: types.ModuleType) -> None:
    """Keep MMF's registry from importing all models, data sets and trainers when it is imported."""
    _postponed.append(env.setup_imports)
    env.setup_imports = lambda: None


# ---------------------------------------------------------------------------- after MMF's import


class _Registered(dict):
    """Registered classes by name; when a name is missing, or all are listed, MMF's own are registered first."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default) if name in self else default

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (import_all_of_mmf() and super().__contains__(name))

    def __iter__(self) -> Iterator[str]:
        import_all_of_mmf()
        return super().__iter__()


def complete_on_demand() -> None:
    """Let MMF's registry import all of MMF when a name is looked up that is not registered yet."""
    import mmf.utils.env
    from mmf.common.registry import registry

    for kind, registered in registry.mapping.items():
        if kind != "state":
            registry.mapping[kind] = _Registered(registered)
    mmf.utils.env.setup_imports = import_all_of_mmf


def import_all_of_mmf() -> bool:
    """Import and register all of MMF's models, data sets and trainers, once; names that exist keep their class."""
    from mmf.common.registry import registry

    while _postponed:
        registered_classes = [
            (names, dict(names)) for names in registry.mapping.values() if isinstance(names, _Registered)
        ]
        _postponed.pop()()
        for names, classes in registered_classes:
            names.update(classes)
    return True


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
