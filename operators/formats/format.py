"""What a format of annotations is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from operators.formats.text import Entry


@dataclass(frozen=True)
class Format:
    """A format of files that say who said what and when, and an example that its contract test holds."""

    read: Callable[[Path, str], list[Entry]]
    """Returns the entries of a file, as `reference` or as `hypothesis`; raises InputError that names file and line."""
    about: str
    """What it holds, in a few words, for the documentation."""
    suffixes: tuple[str, ...]
    """Of files that are taken for it."""
    example: str
    """A file."""
    entries: Sequence[Entry]
    """What it says, read from a file whose name without suffix is `talk`."""
    malformed: tuple[str, str]
    """A file that is refused, and what the message holds after the file's name."""
    write: Callable[[Sequence[Entry]], str] | None = None
    """Returns the text of entries, where the format is written."""
    names_session: bool = True
    """Whether a file says which session an entry is of; else it is the file's name, and a file holds one."""
