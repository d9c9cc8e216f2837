"""Ids and paths: an id that came from outside never becomes part of a path as it is."""

import re
from urllib.parse import quote

from operators.digest import digest_bytes
from operators.errors import InputError

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_LONGEST = 180


def plain_name(text: object, what: str) -> str:
    """Return an id that is a file name as it is: letters, digits, dot, dash and underscore.

    Raises:
        InputError: it is not, so that it could name a file elsewhere.

    >>> plain_name("train-00000", "partition")
    'train-00000'
    """
    if not isinstance(text, str) or not _PLAIN.fullmatch(text) or ".." in text or len(text) > _LONGEST:
        raise InputError(
            f"{what} {str(text)[:80]!r} cannot be a file name: it must be of letters, digits, '.', '-' and '_' "
            "(nothing was written)"
        )
    return text


def file_name(identifier: str) -> str:
    """Return a file name for any id, another for every other: percent-encoded, cut where it is too long.

    >>> file_name("a-b.c"), file_name("../x"), file_name(".")
    ('a-b.c', '%2E.%2Fx', '%2E')
    """
    name = quote(identifier, safe="") or "%"
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > _LONGEST:
        return f"{name[: _LONGEST - 34]}-{digest_bytes(identifier.encode())[:32]}"
    return name
