"""Manifests: the files that list a corpus, and the digests by which a changed corpus is noticed.

`operators.corpus.formats` reads their rows, `operators.corpus.index` checks the rows and builds the utterances table.
"""

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from operators.digest import digest_file
from operators.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One manifest as the user names it."""

    path: Path
    """A file, or a folder with the files of one manifest."""
    split: str | None = None
    """Split of all its rows, where the user names one."""

    @staticmethod
    def parse(text: str) -> "Manifest":
        """Read `PATH` or `SPLIT=PATH`.

        Raises:
            InputError: there is no such file or folder.

        >>> Manifest.parse("train=.").split
        'train'
        """
        split, _, path = text.rpartition("=") if re.match(r"^\w+=", text) else ("", "", text)
        manifest = Manifest(path=Path(path).expanduser().absolute(), split=split or None)
        if not manifest.path.exists():
            raise InputError(
                f"manifest {path} does not exist; --corpus.manifests takes files or folders, or SPLIT=PATH"
            )
        return manifest

    @property
    def root(self) -> Path:
        """Folder that relative audio paths start from."""
        return self.path if self.path.is_dir() else self.path.parent

    def files(self) -> list[Path]:
        """Return the manifest's files, whose digests decide whether the index is fresh.

        Raises:
            InputError: the folder contains no manifest.
        """
        if self.path.is_file():
            return [self.path]
        patterns = ("manifest*.jsonl*", "*recordings*.jsonl*", "*supervisions*.jsonl*", "*cuts*.jsonl*", "*.jsonl*")
        for group in (patterns[:1], patterns[1:3], patterns[3:4], patterns[4:]):
            found = sorted({path for pattern in group for path in self.path.glob(pattern)})
            if found:
                return found
        raise InputError(
            f"folder {self.path} contains no manifest: no manifest.jsonl, lhotse recordings and supervisions, or cuts"
        )


def corpus_roots(manifests: Sequence[Manifest]) -> dict[str, Path]:
    """Return each manifest's root by name: the root's last folders, as few as distinguish all roots.

    >>> corpus_roots([Manifest(path=Path("/a/x/m.jsonl")), Manifest(path=Path("/b/x/m.jsonl"))]).keys()
    dict_keys(['a/x', 'b/x'])
    """
    return _short_names({manifest.root for manifest in manifests})


def _short_names(folders: set[Path]) -> dict[str, Path]:
    listed = sorted(folders)
    for depth in range(1, 64):
        names = ["/".join(folder.parts[-depth:]) for folder in listed]
        if len(set(names)) == len(listed):
            return dict(zip(names, listed, strict=True))
    raise AssertionError("two equal folders in a set of folders")


SharedSpeakers = Literal["auto", "always", "never"]


def same_people(manifests: Sequence[Manifest], shared: SharedSpeakers) -> dict[Path, str]:
    """Return by root the corpus within which one speaker id is one person.

    With `auto`, folders are one corpus where one is inside the other, or where they are beside each other and named
    as different splits: train=DIR/a test=DIR/b. A wrong guess that they are one would give a speaker two voices, a
    wrong guess that they are two could hide that a speaker of the test split is trained on.

    >>> m = [Manifest(path=Path(p), split=s) for p, s in (("/d/a/x", "train"), ("/d/b/x", "test"), ("/e/c/x", None))]
    >>> [name for name in same_people(m, "auto").values()], len(set(same_people(m, "never").values()))
    (['d', 'd', 'c'], 3)
    """
    roots = {manifest.root: manifest.root for manifest in manifests}

    def first(root: Path) -> Path:
        return root if roots[root] == root else first(roots[root])

    for a, b in itertools.combinations(manifests, 2):
        inside = a.root.is_relative_to(b.root) or b.root.is_relative_to(a.root)
        beside = a.root.parent == b.root.parent and a.split and b.split and a.split != b.split
        if shared == "always" or (shared == "auto" and (inside or beside)):
            roots[first(b.root)] = first(a.root)
    members: dict[Path, list[Path]] = {}
    for root in roots:
        members.setdefault(first(root), []).append(root)
    folders = {one: Path(os.path.commonpath(together)) for one, together in members.items()}
    names = {folder: name for name, folder in _short_names(set(folders.values())).items()}
    return {root: names[folders[first(root)]] for root in roots}


def manifests_digest(manifests: Sequence[Manifest]) -> list[str]:
    """Return `split:name:digest` of each manifest file, in order: what the index depends on."""
    return [f"{m.split or ''}:{path.name}:{digest_file(path)}" for m in manifests for path in m.files()]
