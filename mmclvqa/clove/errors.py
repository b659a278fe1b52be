"""Errors of the project. Each message is one line that names the file, record or key and says what to do."""

from __future__ import annotations


class CloveError(Exception):
    """Base class of errors that a user can fix, such as a missing file, an invalid record or an unknown name.

    Command lines print ``str(error)`` on one line and exit with a non-zero code. Tracebacks are kept for bugs.
    """


class TaskError(CloveError):
    """An unknown setting, task or task letter, an invalid task order, or an invalid setting file."""


class UnsafePickleError(CloveError):
    """A pickle refers to an object outside the allow-list and was not loaded."""


class RecordError(CloveError):
    """An annotation record does not match the schema."""


class DataError(CloveError):
    """A data file, checkpoint or result is missing, damaged, or of another kind than expected."""


class ConfigError(CloveError):
    """A configuration file, override or flag is invalid, or the model that it names cannot be used."""


class TrainingError(CloveError):
    """Training cannot continue, for example because the loss is NaN."""
