"""CLVQA as an MMF plugin: the CLOVE benchmark, UniVQA and the continual-learning trainers.

Importing this package is light. It only arranges that a later ``import mmf`` works on today's
libraries and then registers what the plugin brings (see :mod:`mmclvqa.compat`), so that
:mod:`mmclvqa.clove` and SRM can be used without MMF.
"""

from __future__ import annotations

from mmclvqa import compat

__version__ = "1.0.0"

compat.install()
