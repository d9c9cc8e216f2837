"""Errors that a user can fix are one line; everything else is a defect and keeps its traceback."""


class InputError(ValueError):
    """Names what is wrong and how to fix it; the command line prints it and exits with code 2."""


class UnusableRowError(ValueError):
    """A row that cannot be used, and why; it is quarantined and counted, and the other rows are processed."""
