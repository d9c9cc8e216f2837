"""Casting: the speakers of every conversation and their utterances, by rendezvous hashing.

Adding or withdrawing a speaker changes the conversations that the speaker enters or leaves, and no others.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from operators.corpus.splits import SPLITS, Splits
from operators.errors import InputError
from operators.rng import hash64, hash64_many, rendezvous, rng
from operators.schema import CASTS

VERSION = "2"


@dataclass(frozen=True, kw_only=True)
class Casting:
    """How many conversations are made, and of how many speakers."""

    train_conversations: int = 200
    """Conversations of the train split."""
    validation_conversations: int = 0
    """Conversations of the validation split, by which training is watched."""
    test_conversations: int = 24
    """Conversations of the test split."""
    min_speakers: int = 2
    """Fewest speakers in a conversation."""
    max_speakers: int = 4
    """Most speakers in a conversation; every number between is equally likely."""
    max_utterances: int = 8
    """Most utterances one speaker is given."""
    split: Literal["auto", "manifest", "speaker"] = "auto"
    """Source of the splits: the manifests, a seeded draw of speakers, or (auto) the manifests where they have them.
    A manifest's dev, val, valid, validation and development are the validation split."""
    validation_speakers: float = 0.1
    """Share of speakers in the validation split, where it is drawn; at least as many as a conversation may need."""
    test_speakers: float = 0.2
    """Share of speakers in the test split, where it is drawn."""
    speakers_per_cohort: int = 64
    """Speakers in a cohort, who can meet each other; bounds how far a change of one speaker reaches."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.min_speakers <= self.max_speakers:
            raise InputError("casting: 1 <= min_speakers <= max_speakers does not hold")
        if not 0 < self.test_speakers < 1:
            raise InputError("casting.test_speakers is a share between 0 and 1")
        if not 0 < self.validation_speakers < 1 - self.test_speakers:
            raise InputError("casting: validation_speakers is a share above 0; some must be left beside test_speakers")
        if min(self.train_conversations, self.validation_conversations, self.test_conversations) < 0:
            raise InputError("casting: conversations are counted from 0")


@dataclass(frozen=True)
class Cast:
    """The cast of one conversation: rows of the utterances table that it may use, in order of speaking."""

    conversation_id: str
    split: str
    speakers: tuple[str, ...]
    rows: tuple[int, ...]


def _shelves(utterances: pa.Table, rows: NDArray[np.int64]) -> dict[str, dict[str, list[int]]]:
    """Order each speaker's rows: speaker -> book and chapter -> rows by position, then id.

    Without book, chapter and position there is no order to keep: each utterance is a chapter of its own, so that a
    speaker's utterances are a random selection and not those with neighboring ids.
    """
    columns = utterances.select(["speaker", "book", "chapter", "position", "utterance_id"]).take(rows).to_pydict()
    shelves: dict[str, dict[str, list[tuple[int, str, int]]]] = defaultdict(lambda: defaultdict(list))
    for i, row in enumerate(rows.tolist()):
        ordered = any(columns[name][i] is not None for name in ("book", "chapter", "position"))
        chapter = f"{columns['book'][i] or ''}/{columns['chapter'][i] or ''}" if ordered else columns["utterance_id"][i]
        place = (columns["position"][i] or 0, columns["utterance_id"][i], row)
        shelves[columns["speaker"][i]][chapter].append(place)
    return {
        speaker: {chapter: [row for _, _, row in sorted(chapters[chapter])] for chapter in sorted(chapters)}
        for speaker, chapters in shelves.items()
    }


def _reading(shelf: Mapping[str, list[int]], hashes: NDArray[np.uint64], count: int, address: str) -> list[int]:
    """Return up to `count` of a speaker's rows: consecutive ones of one chapter, then of the next chosen.

    `hashes` are those of the chapters, in the order of the shelf.
    """
    chapters = list(shelf)
    taken: list[int] = []
    for order, index in enumerate(rendezvous(address, hashes, len(chapters)).tolist()):
        rows = shelf[chapters[index]]
        spare = max(0, len(rows) - count)
        start = hash64(f"{address}:start") % (spare + 1) if order == 0 else 0
        taken += rows[start : start + count - len(taken)]
        if len(taken) >= count:
            break
    return taken


def plan_casts(utterances: pa.Table, splits: Splits, casting: Casting, seed: int) -> list[Cast]:
    """Return every conversation's cast.

    Raises:
        InputError: a split has fewer speakers than a conversation needs.
    """
    casts: list[Cast] = []
    for split in SPLITS if utterances.num_rows else ():
        wanted = getattr(casting, f"{split}_conversations")
        if not wanted:
            continue
        shelves = _shelves(utterances, splits.rows[split])
        names = sorted(shelves)
        chapters = {name: hash64_many(list(shelf)) for name, shelf in shelves.items()}
        if len(names) < casting.max_speakers:
            share = f", raise --casting.{split}-speakers" if split in splits.drawn else ""
            raise InputError(
                f"the {split} split has {len(names)} speaker(s), but conversations need up to {casting.max_speakers}; "
                f"lower --casting.max-speakers{share} or add speakers"
            )
        hashes = hash64_many(names)
        num_cohorts = max(1, len(names) // casting.speakers_per_cohort)
        cohort_hashes = hash64_many([f"cohort-{i}" for i in range(num_cohorts)])
        home = np.array([rendezvous(f"{seed}:cohort:{name}", cohort_hashes, 1)[0] for name in names])
        members = [np.flatnonzero(home == cohort) for cohort in range(num_cohorts)]
        for number in range(wanted):
            conversation_id = f"{split}-{number:06d}"
            draw = rng(seed, "cast", conversation_id)
            count = int(draw.integers(casting.min_speakers, casting.max_speakers + 1))
            pool = members[number % num_cohorts]
            if len(pool) < count:  # a thin cohort borrows from all
                pool = np.arange(len(names))
            address = f"{seed}:speakers:{conversation_id}"
            speakers = [names[pool[i]] for i in rendezvous(address, hashes[pool], count)]
            rows = [
                row
                for speaker in speakers
                for row in _reading(
                    shelves[speaker],
                    chapters[speaker],
                    casting.max_utterances,
                    f"{seed}:{conversation_id}:{speaker}",
                )
            ]
            casts.append(Cast(conversation_id, split, tuple(speakers), tuple(rows)))
    return casts


def cast_table(utterances: pa.Table, casts: Sequence[Cast], seed: int) -> pa.Table:
    """Return a table CASTS: casts with their utterances."""
    sizes = [len(cast.rows) for cast in casts]
    taken = utterances.take(pa.array([row for cast in casts for row in cast.rows], pa.int64())).combine_chunks()
    item = CASTS.field("utterances").type.value_type
    chunks = [taken[field.name].chunks for field in item]
    arrays = [c[0] if c else pa.array([], field.type) for c, field in zip(chunks, item, strict=True)]
    structs = pa.StructArray.from_arrays(arrays, fields=list(item))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]).astype(np.int32)
    columns: dict[str, pa.Array] = {
        "conversation_id": pa.array([cast.conversation_id for cast in casts]),
        "split": pa.array([cast.split for cast in casts]),
        "seed": pa.array([seed] * len(casts), pa.int64()),
        "speakers": pa.array([list(cast.speakers) for cast in casts], CASTS.field("speakers").type),
        "utterances": pa.ListArray.from_arrays(pa.array(offsets), structs),
    }
    return pa.table([columns[name] for name in CASTS.names], schema=CASTS)
