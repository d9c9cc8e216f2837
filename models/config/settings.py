"""How a configuration field affects results, declared where the field is, and the one function that derives keys.

A field changes results unless its metadata says otherwise:

    field(default=0, metadata=NO_RESULT)          changes no result: speed, bookkeeping, what is kept or checked
    field(default=None, metadata=BY_CONTENT)      a path or name: what it refers to enters keys, not the value itself
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

NO_RESULT: dict[str, Any] = {"result": False}
"""Metadata of a field that changes no result beyond rounding. It enters neither keys nor the recipe's digest."""

BY_CONTENT: dict[str, Any] = {"result": "content"}
"""Metadata of a field that names something (a file, a folder, a codec): keys hold the digest of what it names."""


def key_settings(config: Any, contents: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the part of a configuration that enters keys, by field.

    Args:
        config: a dataclass; nested dataclasses are reduced in the same way.
        contents: entries, usually digests, that replace the fields declared BY_CONTENT; one entry may replace several
            fields, under any name. With None these fields keep their values: for a recipe's digest, which depends on
            the names of its files.

    Returns:
        The values of all fields except those declared NO_RESULT and, if contents are given, BY_CONTENT; then the
        contents.
    """
    settings = {}
    for one in fields(config):
        effect = one.metadata.get("result", True)
        if effect is False or (effect == "content" and contents is not None):
            continue
        value = getattr(config, one.name)
        settings[one.name] = key_settings(value) if is_dataclass(value) else value
    return {**settings, **(contents or {})}
