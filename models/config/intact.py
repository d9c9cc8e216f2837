"""Files that the program wrote and reads back: none is used in silence once it is damaged.

Binary files are held against the size and digest that were written down when they were made; JSON files carry a digest
of their own content. Files of earlier versions carry none, and are only parsed.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config.errors import InputError

VARIABLE = "HUBBUB_INTEGRITY"
"""Environment variable: `full` (every file's digest, once per process), `sampled` (one file in eight, others each day),
or `off` (sizes and structure alone)."""
MODES = ("full", "sampled", "off")
_SAMPLED = 8
_SEAL = "content_seal"
_CHECKED: dict[str, tuple[tuple[int, int, int], str]] = {}


def digest_bytes(data: bytes) -> str:
    """Return 64 hexadecimal digits (BLAKE2b-256) of bytes."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def digest_file(path: str | Path) -> str:
    """Return 64 hexadecimal digits (BLAKE2b-256) of a file's bytes."""
    state = hashlib.blake2b(digest_size=32)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def integrity() -> str:
    """Return how much is checked before use: the environment's choice, or `full`.

    Raises:
        InputError: the variable is none of the choices.
    """
    mode = os.environ.get(VARIABLE, "full")
    if mode not in MODES:
        raise InputError(f"{VARIABLE} is {mode!r}; choose from {', '.join(MODES)}")
    return mode


def _is_drawn(content_digest: str) -> bool:
    mode = integrity()
    if mode == "sampled":
        day = int(time.time()) // 86_400  # operational, not a result: every file has its turn in the end
        return int(digest_bytes(f"{content_digest}{day}".encode())[:8], 16) % _SAMPLED == 0
    return mode == "full"


def check_file(path: Path, num_bytes: int, content_digest: str, remedy: str, name: str = "") -> bool:
    """Check a file's size, and its digest where that is asked for and was not checked since the file changed.

    Args:
        path: a local file.
        num_bytes: its size when it was made.
        content_digest: its digest when it was made.
        remedy: what to do where it is damaged.
        name: what errors call it; the path where empty.

    Returns:
        Whether the digest is known to be right.

    Raises:
        InputError: it is missing, has another size, or holds other bytes.
    """
    name = name or str(path)
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{name} is missing; {remedy}") from error
    if status.st_size != num_bytes:
        raise InputError(f"{name} is damaged: it has {status.st_size} bytes, but {num_bytes} were committed; {remedy}")
    stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
    if _CHECKED.get(str(path)) == (stamp, content_digest):
        return True
    if not _is_drawn(content_digest):
        return False
    if digest_file(path) != content_digest:
        raise InputError(f"{name} is damaged: its bytes are not those that were committed; {remedy}")
    _CHECKED[str(path)] = (stamp, content_digest)
    return True


def parse_json(data: bytes | str, name: str, remedy: str, kind: type = dict) -> Any:
    """Return the value of a JSON file that the program wrote.

    Args:
        data: the file's content.
        name: of the file.
        remedy: what to do where it is damaged.
        kind: dict or list: what the file must hold.

    Raises:
        InputError: it is empty, cut short, or holds something else.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = "it is empty" if not data.strip() else f"it is not JSON ({str(error).splitlines()[0]})"
        raise InputError(f"{name} is damaged: {what}; {remedy}") from error
    if not isinstance(value, kind):
        raise InputError(f"{name} is damaged: it holds a {type(value).__name__}, not a {kind.__name__}; {remedy}")
    return value


def read_json(path: Path, remedy: str, kind: type = dict) -> Any:
    """Return the value of a JSON file that the program wrote, as `parse_json` does.

    Raises:
        InputError: it cannot be read, is empty, cut short, or holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; {remedy}") from error
    return unsealed(data, str(path), remedy) if kind is dict else parse_json(data, str(path), remedy, kind)


def _seal(data: Mapping[str, Any]) -> str:
    return digest_bytes(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())


def sealed(data: Mapping[str, Any]) -> bytes:
    """Return the JSON text of a mapping (of JSON values) with a digest of its content."""
    return (json.dumps({**data, _SEAL: _seal(data)}, indent=1) + "\n").encode()


def unsealed(data: bytes, name: str, remedy: str) -> dict[str, Any]:
    """Return the mapping that `sealed` wrote, without the digest.

    Raises:
        InputError: it is damaged.
    """
    value: dict[str, Any] = parse_json(data, name, remedy)
    seal = value.pop(_SEAL, None)
    if seal is not None and seal != _seal(value):
        raise InputError(f"{name} is damaged: its content is not what was written; {remedy}")
    return value
