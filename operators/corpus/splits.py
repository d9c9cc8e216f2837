"""Splits: which utterances are for training and which for testing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operators.errors import InputError
from operators.rng import hash64_many, rendezvous

SPLITS = ("train", "test")


class SplitRule(Protocol):
    """Where splits come from: part of `operators.corpus.cast.Casting`."""

    @property
    def split(self) -> Literal["auto", "manifest", "speaker"]:
        """The manifests, a seeded draw of speakers, or (auto) the manifests where they have splits."""
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
    """manifest or speaker"""
    shared_speakers: int
    """Number of speakers in both splits; 0 in a speaker-disjoint split."""

    def describe(self) -> str:
        """Return in one sentence where the splits come from."""
        origin = "the manifest's own" if self.source == "manifest" else "a seeded, speaker-disjoint draw"
        if self.shared_speakers:
            return f"splits are {origin}; test SHARES {self.shared_speakers} speakers with train"
        return f"splits are {origin}; no speaker is in both"


def split_rows(utterances: pa.Table, rule: SplitRule, seed: int) -> Splits:
    """Assign utterances to the train and test splits.

    Args:
        utterances: a table UTTERANCES.
        rule: where splits come from.
        seed: of the draw.

    Raises:
        InputError: the manifests' split is required and they have none.
    """
    if not utterances.num_rows:  # all conversations are recorded ones
        return Splits({split: np.zeros(0, np.int64) for split in SPLITS}, "manifest", 0)
    speakers = utterances["speaker"].to_pylist()
    named = utterances["split"].to_pylist()
    present = set(named)
    if rule.split == "manifest" or (rule.split == "auto" and {"train", "test"} <= present):
        missing = [split for split in SPLITS if split not in present]
        if missing:
            raise InputError(
                f"the manifests name no {missing[0]} split (they name {sorted(map(str, present))}); "
                "name it as SPLIT=PATH, or use --casting.split speaker"
            )
        chosen = named
        origin = "manifest"
    else:
        names = sorted(set(speakers))
        count = max(1, round(len(names) * rule.test_speakers))
        drawn = {names[i] for i in rendezvous(f"{seed}:test-speakers", hash64_many(names), count)}
        chosen = ["test" if speaker in drawn else "train" for speaker in speakers]
        origin = "speaker"
    rows = {split: np.array([i for i, name in enumerate(chosen) if name == split], np.int64) for split in SPLITS}
    sets = [{speakers[i] for i in rows[split]} for split in SPLITS]
    return Splits(rows, origin, len(sets[0] & sets[1]))
