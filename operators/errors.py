"""Errors that a user can fix are one line; everything else is a defect and keeps its traceback.

Their text is free of secrets, wherever it is printed or recorded.
"""

import errno
import re

from models.config.errors import InputError
from models.config.secrets import masked

__all__ = ["InputError", "UnusableRowError", "disk_fault"]

_REFUSED = re.compile(
    r"no space left on device|disk quota exceeded|read-only file system|database or disk is full|disk i/o error|"
    r"unable to open database file|input/output error|permission denied",
    re.IGNORECASE,
)
_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)


def disk_fault(error: BaseException | None) -> str | None:
    """Return what a disk refused, if an error came from that, whatever library raised it; else None.

    >>> disk_fault(RuntimeError("I/O error: No space left on device (os error 28)"))
    'I/O error: No space left on device (os error 28)'
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            return str(error)
        if not isinstance(error, OSError) and (found := _REFUSED.search(str(error))):
            return next(line.strip() for line in str(error).splitlines() if found[0] in line)
        error = error.__cause__ or error.__context__
    return None


class UnusableRowError(ValueError):
    """A row that cannot be used, and why; it is quarantined and counted, and the other rows are processed."""

    def __init__(self, *parts: object) -> None:
        """Keep the reason, without passwords of URLs."""
        super().__init__(*(masked(part) if isinstance(part, str) else part for part in parts))
