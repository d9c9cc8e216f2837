"""How verbs read their arguments: by tyro, with every bad value in one message."""

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from models.config.values import OPTIONS, Checked, collected_faults
from operators.errors import InputError


class Arguments(Checked, section=OPTIONS, error=InputError):
    """Base of a verb's arguments, whose numbers declare their ranges."""


A = TypeVar("A", bound=Arguments)


def read(kind: type[A], prog: str, arguments: Sequence[str], **options: Any) -> A:
    """Return a verb's arguments; `options` are tyro's.

    Raises:
        InputError: names every value that cannot be used.
    """
    with collected_faults() as found:
        parsed: A = tyro.cli(kind, prog=prog, args=list(arguments), **options)
    if found:
        raise InputError("; ".join(dict.fromkeys(found)))
    return parsed
