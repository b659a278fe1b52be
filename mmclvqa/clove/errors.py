"""Errors of the benchmark package: one line each, naming the file, record or key and what to do."""

from __future__ import annotations


class CloveError(Exception):
    """Something a user can mend: a missing file, a broken record, an illegal name.

    Command lines print ``str(error)`` on one line and leave with a non-zero exit code; a traceback is
    kept for faults of the code itself.
    """


class TaskError(CloveError):
    """An unknown setting, task, task letter or an illegal task order."""


class UnsafePickleError(CloveError):
    """A pickle asks for something outside the allow-list, so it was not loaded."""


class RecordError(CloveError):
    """An annotation record that does not have the fields of the schema."""


class DataError(CloveError):
    """A data file is missing, truncated or not what its name promises."""
