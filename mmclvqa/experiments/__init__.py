"""Experiments: their steps (``steps``), rendered as shell scripts (``scripts``) and as a workflow (``workflow``)."""
