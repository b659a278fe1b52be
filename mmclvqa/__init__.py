"""CLVQA as an MMF plugin: the CLOVE benchmark, the model UniVQA and continual-learning methods.

Importing this package only installs an import hook (see :mod:`mmclvqa.compat`), which makes a later ``import mmf`` work
with current libraries and registers the plugin's classes. :mod:`mmclvqa.clove` and SRM can be used without MMF.
"""

from __future__ import annotations

from mmclvqa import compat

__version__ = "1.0.0"

compat.install()
