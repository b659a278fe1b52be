"""Modules that are imported when they are first used: importing torch takes longer than many commands run."""

from __future__ import annotations

import importlib
import types
from typing import Any


class LazyModule(types.ModuleType):
    """Stands for a module, which is imported when one of its attributes is read.

    Args:
        name: name of the module.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


torch = LazyModule("torch")
