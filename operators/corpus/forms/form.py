"""What a form of corpora is: how it is recognized, and what its rows are."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from operators.corpus.manifest import Manifest
from operators.corpus.splits import split_named

Row = dict[str, Any]
"""One utterance, unchecked, with the keys that the corpus has values for: utterance_id, recording_id, speaker, text,
gender, language, licence, consent, book, chapter, position, split; audio (path or URL), byte_offset and byte_length (of
a tar's member), channel, rate_hz, start_s and duration_s (seconds of the recording), words ((word, start_s,
duration_s), seconds of the recording), user (the other fields); where (file and line), and problem (why it cannot be
used)."""

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".sph", ".w64", ".caf")
"""Suffixes of sound files that soundfile reads."""


@dataclass(frozen=True)
class Tree:
    """What lies at the place that a user named: one file, or all files of a folder."""

    path: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Paths of all files below the folder, sorted; hidden ones are left out."""
        if self.path.is_file():
            return (self.path.name,)
        found = []
        for folder, folders, files in os.walk(self.path, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            below = os.path.relpath(folder, self.path)
            found += [name if below == "." else f"{below}/{name}" for name in files if not name.startswith(".")]
        return tuple(sorted(found))

    @property
    def root(self) -> Path:
        """The folder."""
        return self.path if self.path.is_dir() else self.path.parent

    def ending(self, *suffixes: str) -> list[Path]:
        """Return the files whose names end so, whatever the case."""
        return [self.root / name for name in self.names if name.lower().endswith(suffixes)]

    def named(self, *names: str) -> list[Path]:
        """Return the files of these very names, in any folder."""
        return [self.root / one for one in self.names if one.rsplit("/", 1)[-1] in names]

    @cached_property
    def sounds(self) -> dict[str, str]:
        """The sound files, by path without suffix; of several suffixes the first."""
        found: dict[str, str] = {}
        for name in self.names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SOUNDS:
                found.setdefault(stem, name)
        return found


@dataclass(frozen=True)
class Form:
    """One form in which people have corpora."""

    about: str
    """What it is, in a few words, for messages and documentation."""
    files: Callable[[Tree], Sequence[Path]]
    """Returns the files that decide what the corpus is, with its sounds where these are listed nowhere; none where the
    place is not of this form."""
    read: Callable[[Manifest, Sequence[Path]], Iterator[Row]]
    """Yields the rows of these files."""


def split_of(path: Path, root: Path) -> str | None:
    """Return the split that a folder between root and file is named for: the lowest that names one.

    >>> split_of(Path("/c/dev-clean/84/1/84-1.trans.txt"), Path("/c"))
    'dev-clean'
    """
    return next((part for part in reversed(path.relative_to(root).parts[:-1]) if split_named(part)), None)
