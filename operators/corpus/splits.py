"""Splits: which utterances are for training, which for validation while training, and which for testing."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operators.errors import InputError
from operators.rng import hash64_many, rendezvous

SPLITS = ("train", "validation", "test")

_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "development": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def split_named(name: str | None) -> str | None:
    """Return the split that a manifest's name for it means; None where it means none of `SPLITS`, or several.

    >>> [split_named(name) for name in ("Train", "dev", "test-clean", "train_dev", "eval", None)]
    ['train', 'validation', 'test', None, None, None]
    """
    meant = {_WORDS[word] for word in re.split(r"[^a-z]+", (name or "").lower()) if word in _WORDS}
    return meant.pop() if len(meant) == 1 else None


class SplitRule(Protocol):
    """Where splits come from: part of `operators.corpus.cast.Casting`."""

    @property
    def split(self) -> Literal["auto", "manifest", "speaker"]:
        """The manifests, a seeded draw of speakers, or (auto) the manifests where they have splits."""
        ...

    @property
    def validation_conversations(self) -> int:
        """Conversations of the validation split; a split is drawn for them where the manifests name none."""
        ...

    @property
    def validation_speakers(self) -> float:
        """Share of speakers in the validation split, where it is drawn."""
        ...

    @property
    def max_speakers(self) -> int:
        """Most speakers in a conversation: so many are drawn for a validation split at least."""
        ...

    @property
    def test_speakers(self) -> float:
        """Share of speakers in the test split, where it is drawn."""
        ...


@dataclass(frozen=True)
class Splits:
    """Rows of the utterances table by split, and where the splits come from."""

    rows: Mapping[str, NDArray[np.int64]]
    source: str
    """manifest, speaker, or both where the manifests name some of the splits."""
    shared_speakers: int
    """Number of speakers in both train and test; 0 in a speaker-disjoint split."""
    drawn: tuple[str, ...] = ()
    """Splits whose speakers are a seeded draw."""
    unused: Mapping[str, int] = field(default_factory=dict)
    """Rows that are in no split, by what they are."""

    def describe(self) -> str:
        """Return in one sentence where the splits come from, and what they share."""
        if self.source == "manifest":
            origin = "the manifest's own"
        elif self.source == "speaker":
            origin = "a seeded, speaker-disjoint draw"
        else:
            origin = f"the manifest's own, but for a seeded draw of {' and '.join(self.drawn)} speakers"
        if self.shared_speakers:
            shared = f"test SHARES {self.shared_speakers} speakers with train"
        else:
            shared = "no speaker is in both"
        left = [f"{number:,} rows {what} are in no split" for what, number in self.unused.items()]
        return "; ".join([f"splits are {origin}", shared, *left])


def split_rows(utterances: pa.Table, rule: SplitRule, seed: int) -> Splits:
    """Assign utterances to the train, validation and test splits.

    A split that the manifests name is kept, and nothing that they name otherwise is trained on: what they do not name
    is drawn from the speakers of their train split, or of the rows without a split where they name no train split.

    Args:
        utterances: a table UTTERANCES.
        rule: where splits come from.
        seed: of the draw.

    Raises:
        InputError: the manifests' split is required and they have none, or they name one that is not known.
    """
    if not utterances.num_rows:  # all conversations are recorded ones
        return Splits({split: np.zeros(0, np.int64) for split in SPLITS}, "manifest", 0)
    speakers = np.array(utterances["speaker"].to_pylist(), object)
    chosen, unused = _named(utterances, rule)
    named = set(chosen)
    drawn = []
    draws = (("test", rule.test_speakers, 1), ("validation", rule.validation_speakers, rule.max_speakers))
    for split, share, least in draws:
        if split in named or (split == "validation" and not rule.validation_conversations):
            continue
        names = sorted(set(speakers[chosen == "train"]))
        count = max(least, round(len(set(speakers)) * share))
        taken = {names[i] for i in rendezvous(f"{seed}:{split}-speakers", hash64_many(names), count)}
        chosen[np.array([speaker in taken for speaker in speakers]) & (chosen == "train")] = split
        drawn.append(split)
    rows = {split: np.flatnonzero(chosen == split) for split in SPLITS}
    sets = {split: set(speakers[rows[split]]) for split in SPLITS}
    source = "manifest" if not drawn else "both" if named - {"train", ""} or unused else "speaker"
    return Splits(rows, source, len(sets["train"] & sets["test"]), tuple(drawn), unused)


def _named(utterances: pa.Table, rule: SplitRule) -> tuple[NDArray[np.object_], dict[str, int]]:
    """Return the split of each row before any is drawn, "" for none; and the rows in none, by what they are."""
    listed: Sequence[str | None] = utterances["split"].to_pylist()
    if rule.split == "speaker":
        return np.full(len(listed), "train", object), {}
    meant = {name: split_named(name) for name in set(listed)}
    unknown = Counter(name for name in listed if name is not None and meant[name] is None)
    if unknown:
        shown = ", ".join(f"{name} ({number:,} rows)" for name, number in sorted(unknown.items()))
        raise InputError(
            f"the manifests name splits that are none of train, validation (dev) and test: {shown}; name them by "
            "SPLIT=PATH, leave them out (--corpus.where \"split != '...'\"), or draw anew: --casting.split speaker"
        )
    present = {split for split in meant.values() if split is not None}
    if rule.split == "manifest":
        wanted = [split for split in SPLITS if split != "validation" or rule.validation_conversations]
        if missing := [split for split in wanted if split not in present]:
            raise InputError(
                f"the manifests name no {missing[0]} split (they name {sorted(map(str, meant))}); "
                "name it as SPLIT=PATH, or use --casting.split speaker"
            )
    rest = "" if "train" in present else "train"
    chosen = np.array([meant[name] or rest for name in listed], object)
    left_out = int((chosen == "").sum())
    return chosen, {"without a split": left_out} if left_out else {}
