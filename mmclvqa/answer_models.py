"""Names of the registered answer models, found without importing torch or MMF.

The interface of an answer model is described in ``docs/model.md``.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from mmclvqa.clove.errors import ConfigError
from mmclvqa.clove.experiment_paths import MODEL
from mmclvqa.clove.text import did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_DECORATOR = re.compile(r"""^@registry\.register_model\(\s*["']([^"']+)["']""", re.MULTILINE)


def registered_models() -> list[str]:
    """Return the registered names of answer models: UniVQA, those of imported user code, and MMF's own.

    The names of MMF's models, which are imported only when one is used, are read from its source files.
    """
    names = [MODEL]
    registry = sys.modules.get("mmf.common.registry")
    if registry is not None:
        # dict.keys, because the registry imports all of MMF's models when it is iterated, see mmclvqa.compat.
        names += dict.keys(registry.registry.mapping["model_name_mapping"])
    for file in sorted(Path(importlib.util.find_spec("mmf").origin).parent.glob("models/*.py")):
        names += _DECORATOR.findall(file.read_text(encoding="utf-8"))
    return list(dict.fromkeys(names))


def check_model(name: str) -> None:
    """Check the name of an answer model; the registered names are only read if it is not UniVQA's.

    Raises:
        ConfigError: no model of this name is registered, or the name is not usable in file names.
    """
    if name == MODEL:
        return
    names = registered_models()
    if name not in names:
        raise ConfigError(
            f"no model named {name!r} is registered{did_you_mean(name, names)}; a file given as "
            "--user_dir (or env.user_dir=FILE) registers your own, see docs/model.md"
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(f"model {name}: its name is part of file names; use letters, digits and _ . + - only")
