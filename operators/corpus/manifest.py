"""Manifests: the files that list a corpus, and the digests by which a changed corpus is noticed.

`operators.corpus.formats` reads their rows, `operators.corpus.index` checks the rows and builds the utterances table.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    roots = sorted({manifest.root for manifest in manifests})
    for depth in range(1, 64):
        names = ["/".join(root.parts[-depth:]) for root in roots]
        if len(set(names)) == len(roots):
            return dict(zip(names, roots, strict=True))
    raise AssertionError("two equal folders in a set of folders")


def manifests_digest(manifests: Sequence[Manifest]) -> list[str]:
    """Return `split:name:digest` of each manifest file, in order: what the index depends on."""
    return [f"{m.split or ''}:{path.name}:{digest_file(path)}" for m in manifests for path in m.files()]
