"""How sets are laid out on disk: a table from a layout's name to its reader."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from operators.corpus.manifest import Manifest
from operators.corpus.recorded import Listed, label_files, read_labels
from operators.corpus.sets.given import list_files, read_given

LayoutName = Literal["labels", "given"]


@dataclass(frozen=True)
class Layout:
    """One way in which conversations are listed."""

    about: str
    """What a user names, in a few words."""
    files: Callable[[Manifest], Sequence[Path]]
    """Files whose contents decide what the conversations are."""
    read: Callable[[Manifest, Sequence[Path]], Sequence[Listed]]
    """Reads a manifest, given the other folders where audio is looked for."""


LAYOUTS: dict[LayoutName, Layout] = {
    "labels": Layout("lhotse manifest, or a folder with STM or RTTM", label_files, lambda m, _: read_labels(m)),
    "given": Layout("list of given conversations (JSON lines)", list_files, lambda m, _: read_given(m)),
}
assert set(LAYOUTS) == set(get_args(LayoutName))
