"""Lines, names and times of text formats: how a fault is named, and what a name may hold."""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from operators.errors import InputError

Entry = dict[str, Any]
"""A SegLST entry: session_id, speaker, words, start_time and end_time in seconds; words or times may be absent."""


def text_of(path: Path) -> str:
    """Return a file's text, without byte order mark.

    Raises:
        InputError: it cannot be read, or is not UTF-8; names file and line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")  # as Praat writes TextGrids
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line} is not UTF-8; convert the file, for instance by iconv") from error


_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")


def lines_of(path: Path, comments: tuple[str, ...] = (";;",)) -> Iterator[tuple[int, str]]:
    r"""Yield number and text of the lines that hold something; they end at `\n` and `\r\n` alone.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    for number, line in enumerate(text_of(path).split("\n"), 1):
        stripped = line.removesuffix("\r")
        if _CONTROL.search(stripped):
            raise InputError(f"{path}:{number} holds a control character; it is no text")
        if stripped.strip() and not stripped.lstrip().startswith(comments):
            yield number, stripped


def seconds(value: Any, where: str) -> float:
    """Return a time in seconds, from a number or a text such as 12.5 or 1:02:03.4.

    Raises:
        InputError: it is no finite time from 0; the message begins with `where`.
    """
    parts = str(value).split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [math.nan]
    found: float = sum(number * 60.0**place for place, number in enumerate(reversed(numbers)))
    if isinstance(value, bool) or not math.isfinite(found) or found < 0 or len(parts) > 3:
        raise InputError(f"{where}: {value!r} is no time in seconds")
    return found


def span(start: Any, end: Any, where: str) -> dict[str, float]:
    """Return start_time and end_time of an entry.

    Raises:
        InputError: one is no time, or the end is before the start.
    """
    start_s, end_s = seconds(start, where), seconds(end, where)
    if end_s < start_s:
        raise InputError(f"{where}: ends at {end_s:g} s, before it starts at {start_s:g} s")
    return {"start_time": start_s, "end_time": end_s}


def fields_of(names: Iterable[str]) -> dict[str, str]:
    """Return what each name is called in formats with white space between fields; distinct names stay distinct.

    >>> fields_of(["ann", "voice one", "voice_one", ";x", ""])
    {'ann': 'ann', 'voice one': 'voice_one', 'voice_one': 'voice_one_2', ';x': '_x', '': '_'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        if name in found:
            continue
        made = re.sub(r"^[<;#]", "_", re.sub(r"\s", "_", name)) or "_"
        number, unique = 2, made
        while unique in taken:
            unique, number = f"{made}_{number}", number + 1
        found[name] = unique
        taken.add(unique)
    return found


def word_times(words: list[str], start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return start and end of each word of a turn, which share its time by their numbers of letters.

    >>> word_times(["a", "bcd"], 2.0, 4.0)
    [(2.0, 2.5), (2.5, 4.0)]
    """
    letter_s = (end_s - start_s) / max(1, sum(map(len, words)))
    ends = [start_s + letter_s * sum(map(len, words[: number + 1])) for number in range(len(words))]
    return list(zip([start_s, *ends[:-1]], [*ends[:-1], end_s], strict=True)) if words else []


def timed(entries: Iterable[Entry], name: str) -> list[Entry]:
    """Return entries, all of which have times, as a format needs them.

    Raises:
        InputError: one has none.
    """
    found = list(entries)
    for number, entry in enumerate(found, 1):
        if entry.get("start_time") is None or entry.get("end_time") is None:
            raise InputError(f"entry {number} of session {entry['session_id']} has no times, which {name} needs")
    return found
