"""Canonical JSON, content digests and Merkle roots: how two builds are compared."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from models.config.intact import digest_bytes, digest_file

__all__ = ["canonical_json", "digest", "digest_bytes", "digest_file", "digest_json", "merkle_root", "to_jsonable"]

_AS_IT_IS = (str, int, float, bool, type(None))


def to_jsonable(value: Any) -> Any:
    """Convert dataclasses, tuples and mappings to JSON types."""
    kind = type(value)  # most are of these very types: a plan of 100,000 partitions asks two million times
    if kind in _AS_IT_IS:
        return value
    if kind is dict:
        return {str(key): item if type(item) in _AS_IT_IS else to_jsonable(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [item if type(item) in _AS_IT_IS else to_jsonable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    return value


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return the JSON text that equal values share.

    >>> canonical_json({"b": 1, "a": (1, 2)})
    '{"a":[1,2],"b":1}'
    """
    return _ENCODER.encode(to_jsonable(value))


def digest(value: Any) -> str:
    """Return 64 hexadecimal digits (BLAKE2b-256) of a value's canonical JSON."""
    return digest_bytes(canonical_json(value).encode())


def digest_json(value: Any) -> str:
    """Return the digest of a value of JSON types (lists, tuples, mappings by strings): equal to `digest`, much faster.

    >>> digest_json({"a": (1, "x")}) == digest({"a": [1, "x"]})
    True
    """
    return digest_bytes(_ENCODER.encode(value).encode())


def merkle_root(leaves: Iterable[tuple[str, str]]) -> str:
    """Return the root over (name, digest) leaves, whatever order they come in.

    Leaves and inner nodes are hashed under different prefixes, so that no inner node can pass for a leaf
    (RFC 6962, section 2.1).

    >>> merkle_root([("a", "1"), ("b", "2")]) == merkle_root([("b", "2"), ("a", "1")])
    True
    """
    level = [digest_bytes(b"\x00" + canonical_json(leaf).encode()) for leaf in sorted(leaves)]
    if not level:
        return digest_bytes(b"\x00")
    while len(level) > 1:
        level = [
            digest_bytes(b"\x01" + "".join(level[i : i + 2]).encode()) if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
    return level[0]
