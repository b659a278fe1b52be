"""Modules that are imported when they are first used: importing torch takes longer than many commands run."""

from __future__ import annotations

import importlib
import os
import types
from typing import Any


class LazyModule(types.ModuleType):
    """Stands for the module of this name, which is imported when one of its attributes is read."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


torch = LazyModule("torch")


def prepare_libraries() -> None:
    """Set the environment variables that torch and tokenizers read when they are imported."""
    # With parallel tokenizers, each fork of the process, for example for git, would print a warning.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Other processes and data loading workers share the cores with torch's threads, which would otherwise busy-wait for
    # each other. With small models this matters: see docs/LOG.md, "Threads that wait".
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
