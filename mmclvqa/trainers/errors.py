"""Errors of training that a user can mend; the command line prints them on one line."""

from __future__ import annotations

from mmclvqa.clove.errors import CloveError


class TrainingError(CloveError):
    """Training cannot go on, for example because the loss is NaN."""


class CheckpointError(CloveError):
    """A checkpoint file is missing, damaged, holds code, or belongs to another model."""
