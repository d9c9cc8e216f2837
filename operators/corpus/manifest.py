"""Manifests: the places that a user names, with what else the user says of them.

`operators.corpus.forms` reads their rows, `operators.corpus.index` checks the rows and builds the utterances table.
"""

import itertools
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from operators.corpus.splits import split_named
from operators.errors import InputError


@dataclass(frozen=True)
class Reading:
    """What the user says of a corpus that its files do not."""

    renamed: tuple[tuple[str, str], ...] = ()
    """Our name of a field, and the corpus's."""
    speaker_from: str | None = None
    """Rule that finds the speaker in the audio's path, for rows that name none."""

    @staticmethod
    def parse(
        named: Sequence[str], speaker_from: str | None, fields: Collection[str], rules: Collection[str]
    ) -> "Reading":
        """Read `OUR=THEIRS` pairs and a rule: one of `rules`, or a regular expression.

        Raises:
            InputError: a pair names none of our `fields`, or the expression is none.
        """
        pairs = []
        for text in named:
            ours, _, theirs = text.partition("=")
            if ours not in fields or not theirs:
                raise InputError(f"--corpus.map {text} is not FIELD=NAME, where FIELD is {', '.join(fields)}")
            pairs.append((ours, theirs))
        if speaker_from is not None and speaker_from not in rules:
            try:
                re.compile(speaker_from)
            except re.error as error:
                raise InputError(
                    f"--corpus.speaker-from {speaker_from} is neither {' nor '.join(rules)} nor a regular expression "
                    f"over the audio's path: {error}"
                ) from error
        return Reading(tuple(pairs), speaker_from)

    def __bool__(self) -> bool:
        """Return whether anything is said."""
        return bool(self.renamed or self.speaker_from)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One manifest as the user names it."""

    path: Path
    """A file, or a folder with the files of one manifest."""
    split: str | None = None
    """Split of all its rows, where the user names one."""
    reading: Reading = Reading()
    is_recorded: bool = False
    """Whether its rows are read as turns of recorded conversations."""

    @staticmethod
    def parse(text: str, reading: Reading | None = None) -> "Manifest":
        """Read `PATH` or `SPLIT=PATH`.

        Raises:
            InputError: there is no such file or folder, or no such split.

        >>> Manifest.parse("train=.").split
        'train'
        """
        split, _, path = text.rpartition("=") if re.match(r"^\w+=", text) else ("", "", text)
        if split and split_named(split) is None:
            raise InputError(
                f"{text}: {split} is no split; SPLIT=PATH names one of train, validation (or dev, valid) and test, and "
                "PATH alone none"
            )
        manifest = Manifest(path=Path(path).expanduser().absolute(), split=split or None, reading=reading or Reading())
        if not manifest.path.exists():
            raise InputError(
                f"manifest {path} does not exist; --corpus.manifests takes files or folders, or SPLIT=PATH"
            )
        return manifest

    @property
    def root(self) -> Path:
        """Folder that relative audio paths start from."""
        return self.path if self.path.is_dir() else self.path.parent


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
