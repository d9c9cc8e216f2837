"""Files of rows: JSON lines, JSON arrays and YAML, gzipped or not, to objects that know their file and line."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from operators.errors import InputError

_LONGEST_LINE = 1 << 26
_MOST_EXPANDED = 1 << 30
_MOST_TIMES = 200
"""What a manifest may be: JSON lines shrink by 5 to 50 times; a gzip of zeros by a thousand."""

SUFFIXES = (".jsonl", ".json", ".yaml", ".yml")
"""Of files of rows; each may be followed by .gz."""


class Found(NamedTuple):
    """One row of a file, or what is in its place."""

    where: str
    """The file's name and the line, or the row's number in an array."""
    row: dict[str, Any]
    problem: str
    """Why there is no row; empty where there is one."""


def plain_suffix(path: Path) -> str:
    """Return the suffix of a file, without that of gzip.

    >>> plain_suffix(Path("a/cuts.000000.jsonl.gz"))
    '.jsonl'
    """
    return Path(path.name.lower().removesuffix(".gz")).suffix


def found_rows(path: Path) -> Iterator[Found]:
    """Yield the rows of a file; lines and entries that are none come with the reason, and the rest goes on.

    Raises:
        InputError: the file cannot be opened, is damaged from its beginning, or is one object or text, not rows.
    """
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            start = file.peek(1 << 12).removeprefix(b"\xef\xbb\xbf").lstrip()
            yaml_like = plain_suffix(path) in (".yaml", ".yml")
            if (start[:1] == b"[" and _is_whole(start)) or yaml_like:
                yield from _entries(path, _whole(path, file), is_yaml=yaml_like)
            else:
                yield from _lines(path, file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}; copy it again") from error


def _is_whole(start: bytes) -> bool:
    """Return whether a file is one JSON array: its first line is no array of its own, or holds objects."""
    return start.lstrip(b"[ \t\r\n")[:1] in (b"{", b"")


def _most(path: Path) -> int:
    """Return how many bytes a file of rows may have, unpacked."""
    is_packed = path.name.lower().endswith(".gz")
    return max(_MOST_EXPANDED, _MOST_TIMES * path.stat().st_size) if is_packed else path.stat().st_size


def _expands(path: Path, most: int) -> InputError:
    return InputError(
        f"{path} has {path.stat().st_size} bytes but expands to over {most >> 20} MiB; unpack it to use it"
    )


def _whole(path: Path, file: Any) -> bytes:
    """Return all of a file.

    Raises:
        InputError: a gzip expands to far more than its size.
    """
    most = _most(path)
    data: bytes = file.read(most + 1)
    if len(data) > most:
        raise _expands(path, most)
    return data


def _lines(path: Path, file: Any) -> Iterator[Found]:
    number, read, most = 0, 0, _most(path)
    while True:
        try:
            line = file.readline(_LONGEST_LINE + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            if not number:
                raise
            yield Found(f"{path.name}:{number + 1}", {}, f"the file is damaged from here on: {error}; copy it again")
            return
        if not line:
            return
        read += len(line)
        if len(line) > _LONGEST_LINE:
            raise InputError(f"{path} has a line of more than {_LONGEST_LINE >> 20} MiB; it is no manifest")
        if read > most:
            raise _expands(path, most)
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield Found(where, {}, "the line is not UTF-8")
        except (ValueError, RecursionError) as error:
            yield Found(where, {}, f"the line is not JSON: {getattr(error, 'msg', error)}")
        else:
            yield Found(where, row, "") if isinstance(row, dict) else Found(where, {}, "the line is not a JSON object")


def _entries(path: Path, data: bytes, *, is_yaml: bool) -> Iterator[Found]:
    """Yield the entries of a JSON array, or of a YAML list, as lhotse writes them."""
    try:
        text = data.decode("utf-8-sig")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        rows = yaml.load(io.StringIO(text), loader) if is_yaml else json.loads(text)  # noqa: S506 (a safe loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} is neither rows nor one {'YAML list' if is_yaml else 'JSON array'}: {error}"
        ) from error
    if not isinstance(rows, list):
        raise InputError(f"{path} is not a list of rows; a manifest is a list, or has one JSON object a line")
    for number, row in enumerate(rows, start=1):
        where = f"{path.name}:row {number}"
        yield Found(where, row, "") if isinstance(row, dict) else Found(where, {}, "the entry is not an object")


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, all of which are objects.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object; names file and line.
    """
    for number, found in enumerate(found_rows(path), start=1):
        if found.problem:
            line = found.where.rpartition(":")[2]
            problem = found.problem.removeprefix("the line ")
            raise InputError(f"{path} line {line if line.isdecimal() else number} {problem}")
        yield found.row
