"""What values a configuration's fields may have, declared where the field is, and the one function that checks them.

    steps: int = field(default=300, metadata=within(1, 10**9, "steps"))
    lr: float = field(default=2e-3, metadata=within(0, 100, open_at="low"))
    batch_size: int = field(default=16, metadata=NO_RESULT | within(1, 10**5))

Every number has a range, with both ends finite, so that neither NaN nor infinity is ever a value. Types and choices
follow from the annotations. Text is not empty and holds no control characters.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

_FOUND: ContextVar[list[str] | None] = ContextVar("faults", default=None)
_KINDS: dict[type, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
}


@dataclass(frozen=True)
class Range:
    """The numbers that a field takes; `low` and `high` belong to it unless they are open."""

    low: float
    high: float
    unit: str = ""
    open_at: Literal["neither", "low", "high", "both"] = "neither"

    def holds(self, value: float) -> bool:
        """Return whether a number is in the range; NaN is in none."""
        above = self.low < value if self.open_at in ("low", "both") else self.low <= value
        return above and (value < self.high if self.open_at in ("high", "both") else value <= self.high)

    def __str__(self) -> str:
        """Write the range.

        >>> str(Range(0, 1, open_at="low")), str(Range(1, 10**9, "steps"))
        ('above 0 and at most 1', 'at least 1 and at most 1,000,000,000 steps')
        """
        low = "above" if self.open_at in ("low", "both") else "at least"
        high = "below" if self.open_at in ("high", "both") else "at most"
        return f"{low} {_short(self.low)} and {high} {_short(self.high)} {self.unit}".rstrip()


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def within(
    low: float, high: float, unit: str = "", *, open_at: Literal["neither", "low", "high", "both"] = "neither"
) -> dict[str, Any]:
    """Return the metadata of a field that takes the numbers of a range; in a list, each item is one."""
    return {"range": Range(low, high, unit, open_at)}


SEED: dict[str, Any] = within(-(2**63), 2**63 - 1)
"""Metadata of a seed: any 64-bit integer, as tables hold it."""

FILE_NAME: dict[str, Any] = {"file_name": True}
"""Metadata of a text that becomes a part of a path: no separators, no leading dot."""


OPTIONS = "--"
"""Section of a command's options."""


class Checked:
    """Base of configurations, whose values are checked when they are made.

    `class Training(Checked, section="train")`: the section is the field of the recipe that holds it, and begins the
    names in messages (OPTIONS for options of the command line). `error` is the exception that is raised.
    """

    _section: ClassVar[str] = ""
    _error: ClassVar[type[ValueError]] = ValueError

    def __init_subclass__(cls, *, section: str | None = None, error: type[ValueError] | None = None) -> None:
        """Remember the section and the exception, where they are not those of the base."""
        super().__init_subclass__()
        cls._section = cls._section if section is None else section
        cls._error = error or cls._error

    def rules(self) -> Iterator[str]:
        """Yield what is wrong with the values together; called where each is right by itself."""
        yield from ()

    def __post_init__(self) -> None:
        """Check every value, then the values together.

        Raises:
            ValueError: names all that is wrong; a subclass may declare another exception.
        """
        found = value_faults(self, self._section)
        if not found:
            try:
                found = list(self.rules())
            except ValueError as error:  # what a value refers to is at fault
                found = [str(error)]
        collected = _FOUND.get()
        if collected is not None:
            collected += found
        elif found:
            raise self._error("; ".join(found))


@contextmanager
def collected_faults() -> Iterator[list[str]]:
    """Collect the faults of all configurations that are made in the block instead of raising at the first one.

    What was made must not be used if the list has entries.
    """
    found: list[str] = []
    token = _FOUND.set(found)
    try:
        yield found
    finally:
        _FOUND.reset(token)


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name."""
    return typing.get_type_hints(kind)


def value_faults(config: Any, section: str = "") -> list[str]:
    """Return what is wrong with each value of a configuration by itself; nested configurations check their own."""
    hints, found = hints_of(config.__class__), []
    for one in dataclasses.fields(config):
        name = f"{section}.{one.name}" if section else one.name
        if section == OPTIONS:
            name = f"--{one.name.replace('_', '-')}"
        value = getattr(config, one.name)
        if type(value) is type(one.default) and value == one.default:
            continue  # a default is right by declaration: an empty text may say that there is none
        found += _faults(value, hints[one.name], one.metadata, name)
    return found


def options_of(hint: Any) -> tuple[Any, ...]:
    """Return the values that a field of type Literal may have."""
    return typing.get_args(hint)


def _faults(value: Any, hint: Any, metadata: Any, name: str) -> list[str]:
    """Return what is wrong with a value, if anything."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return []
        return _faults(value, next(option for option in options if option is not type(None)), metadata, name)
    if origin is Literal:
        choices = options_of(hint)
        is_choice = any(value == option and type(value) is type(option) for option in choices)
        return [] if is_choice else [f"{name}: {value!r} is none of {', '.join(map(str, choices))}"]
    if origin is tuple:
        if not isinstance(value, tuple):
            return [f"{name} must be a list, not {value!r}"]
        kinds = options if len(options) == len(value) and ... not in options else [options[0]] * len(value)
        return [
            fault
            for number, (item, kind) in enumerate(zip(value, kinds, strict=True))
            for fault in _faults(item, kind, metadata, f"{name}[{number}]")
        ]
    if hint not in _KINDS:  # a nested configuration, or a path
        return (
            [f"{name} must hold keys and values"] if dataclasses.is_dataclass(hint) and type(value) is not hint else []
        )
    kind, words = _KINDS[hint]
    if not isinstance(value, kind) or (hint is not bool and isinstance(value, bool)):
        return [f"{name} must be {words}, not {value!r}"]
    if hint is str:
        return _text_faults(value, metadata, name)
    allowed = metadata.get("range")
    if allowed is not None and not allowed.holds(value):
        return [f"{name} is {value}; it must be {allowed}"]
    return []


def _text_faults(text: str, metadata: Any, name: str) -> list[str]:
    if not text:
        return [f"{name} is empty"]
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        return [f"{name} holds a control character: {text!r}"]
    if metadata.get("file_name") and (text[0] == "." or "/" in text or "\\" in text):
        return [f"{name} is {text!r}; it becomes a folder's name, so it must not begin with a dot or hold a slash"]
    return []
