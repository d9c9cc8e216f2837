"""Errors that a user can fix are one line; everything else is a defect and keeps its traceback.

Their text is free of secrets, wherever it is printed or recorded.
"""

from operators.secrets import masked


class InputError(ValueError):
    """Names what is wrong and how to fix it; the command line prints it and exits with code 2."""

    def __init__(self, *parts: object) -> None:
        """Keep the message, without passwords of URLs."""
        super().__init__(*(masked(part) if isinstance(part, str) else part for part in parts))


class UnusableRowError(ValueError):
    """A row that cannot be used, and why; it is quarantined and counted, and the other rows are processed."""

    def __init__(self, *parts: object) -> None:
        """Keep the reason, without passwords of URLs."""
        super().__init__(*(masked(part) if isinstance(part, str) else part for part in parts))
