"""Folders of the user."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder for what can be made again: HUBBUB_CACHE, or `hubbub` below XDG_CACHE_HOME or ~/.cache.

    Raises:
        RuntimeError: none is named, and the user has no home.
    """
    if named := os.environ.get("HUBBUB_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubbub"
