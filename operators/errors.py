"""Errors that a user can fix are one line; everything else is a defect and keeps its traceback."""

from models.config.errors import InputError

__all__ = ["InputError", "UnusableRowError"]


class UnusableRowError(ValueError):
    """A row that cannot be used, and why; it is quarantined and counted, and the other rows are processed."""
