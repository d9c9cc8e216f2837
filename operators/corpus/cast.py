"""Casting: the speakers of every conversation and their utterances, by rendezvous hashing.

Adding or withdrawing a speaker changes the conversations that the speaker enters or leaves, and no others.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.config.values import Checked, within
from operators.corpus.splits import SPLITS, Splits
from operators.errors import InputError
from operators.rng import hash64, hash64_many, rendezvous, rng
from operators.schema import CASTS, ENROLMENT

VERSION = "3"


MOST_SPEAKERS = 4
"""Of a conversation by default, where a split has as many."""


@dataclass(frozen=True, kw_only=True)
class Casting(Checked, section="casting", error=InputError):
    """How many conversations are made, and of how many speakers."""

    train_conversations: int = field(default=200, metadata=within(0, 10**8))
    """Conversations of the train split."""
    validation_conversations: int = field(default=0, metadata=within(0, 10**8))
    """Conversations of the validation split, by which training is watched."""
    test_conversations: int = field(default=24, metadata=within(0, 10**8))
    """Conversations of the test split."""
    min_speakers: int = field(default=2, metadata=within(1, 1000))
    """Fewest speakers in a conversation."""
    max_speakers: int | None = field(default=None, metadata=within(1, 1000))
    """Most speakers in a conversation; every number between is equally likely. By default 4, or as many as the split
    has."""
    max_utterances: int = field(default=8, metadata=within(1, 10**5))
    """Most utterances one speaker is given."""
    split: Literal["auto", "manifest", "speaker"] = "auto"
    """Source of the splits: the manifests, a seeded draw of speakers, or (auto) the manifests where they have them.
    A manifest's dev, val, valid, validation and development are the validation split."""
    validation_speakers: float = field(default=0.1, metadata=within(0, 1, open_at="both"))
    """Share of speakers in the validation split, where it is drawn; at least as many as a conversation may need."""
    test_speakers: float = field(default=0.2, metadata=within(0, 1, open_at="both"))
    """Share of speakers in the test split, where it is drawn."""
    shared_text: Literal["drop", "allow"] = "drop"
    """Whether utterances are dropped until no book (where there are ten) and no sentence of five words or more is in
    two splits; held-out speakers are then drawn together with those who read the same texts, where they are few."""
    speakers_per_cohort: int = field(default=64, metadata=within(1, 10**7))
    """Speakers in a cohort, who can meet each other; bounds how far a change of one speaker reaches."""

    @property
    def most_speakers(self) -> int:
        """Most speakers in a conversation, where the split has as many."""
        return max(MOST_SPEAKERS, self.min_speakers) if self.max_speakers is None else self.max_speakers

    def rules(self) -> Iterator[str]:
        """Check the values together."""
        if self.max_speakers is not None and self.min_speakers > self.max_speakers:
            yield f"casting.min_speakers {self.min_speakers} is above casting.max_speakers {self.max_speakers}"
        if self.validation_speakers + self.test_speakers >= 1:
            yield "casting.validation_speakers and test_speakers together must be below 1: some are left to train"


@dataclass(frozen=True)
class Cast:
    """The cast of one conversation: rows of the utterances table that it may use, in order of speaking."""

    conversation_id: str
    split: str
    speakers: tuple[str, ...]
    rows: tuple[int, ...]
    enrolments: tuple[int, ...] = ()
    """One more row of each speaker, to be their voice sample; none where no samples are needed."""


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


_ENROLMENT_CHOICE = 4
"""Rows among which the longest becomes the enrolment: a sample of a word or two tells little of a voice."""


@dataclass(frozen=True)
class _Recordings:
    """What an enrolment is chosen by, of each row of the utterances table."""

    ids: Sequence[str]
    places: Sequence[tuple[str, int]]
    """File, and first byte in it."""
    lengths: Sequence[int]
    """Samples."""

    @classmethod
    def of(cls, utterances: pa.Table) -> "_Recordings":
        ids, audio, offsets, lengths = (
            utterances[name].to_pylist() for name in ("utterance_id", "audio", "byte_offset", "source_num_samples")
        )
        return cls(ids, list(zip(audio, offsets, strict=True)), lengths)


def _enrolment(taken: list[int], shelf: Mapping[str, list[int]], recordings: _Recordings, address: str) -> int | None:
    """Return a row for a speaker's enrolment, of another recording than the rows taken where there is one.

    Where all rows are taken, the last is given back; a speaker with one row has no enrolment.

    Args:
        taken: the speaker's rows in the conversation; one may be taken out.
        shelf: all rows of the speaker.
        recordings: of the utterances table.
        address: of the draw.
    """
    free = sorted({row for rows in shelf.values() for row in rows} - set(taken))
    if not free:
        return taken.pop() if len(taken) > 1 else None
    heard = {recordings.places[row] for row in taken}
    apart = [row for row in free if recordings.places[row] not in heard] or free
    chosen = rendezvous(address, hash64_many([recordings.ids[row] for row in apart]), _ENROLMENT_CHOICE).tolist()
    longest: int = max((apart[i] for i in chosen), key=lambda row: recordings.lengths[row])
    return longest


def plan_casts(
    utterances: pa.Table, splits: Splits, casting: Casting, seed: int, *, with_enrolments: bool = False
) -> list[Cast]:
    """Return every conversation's cast, with one more utterance of each speaker where enrolments are needed.

    Raises:
        InputError: a split has fewer speakers than a conversation needs.
    """
    casts: list[Cast] = []
    recordings = _Recordings.of(utterances) if with_enrolments else None
    for split in SPLITS if utterances.num_rows else ():
        wanted = getattr(casting, f"{split}_conversations")
        if not wanted:
            continue
        shelves = _shelves(utterances, splits.rows[split])
        names = sorted(shelves)
        chapters = {name: hash64_many(list(shelf)) for name, shelf in shelves.items()}
        fewest = casting.min_speakers if casting.max_speakers is None else casting.max_speakers
        most = min(casting.most_speakers, len(names))
        if len(names) < fewest:
            share = f", raise --casting.{split}-speakers" if split in splits.drawn else ""
            which = "min" if casting.max_speakers is None else "max"
            raise InputError(
                f"the {split} split has {len(names)} speaker(s), but conversations need {fewest}; lower "
                f"--casting.{which}-speakers{share} or add speakers ({splits.describe()})"
            )
        hashes = hash64_many(names)
        num_cohorts = max(1, len(names) // casting.speakers_per_cohort)
        cohort_hashes = hash64_many([f"cohort-{i}" for i in range(num_cohorts)])
        home = np.array([rendezvous(f"{seed}:cohort:{name}", cohort_hashes, 1)[0] for name in names])
        members = [np.flatnonzero(home == cohort) for cohort in range(num_cohorts)]
        for number in range(wanted):
            conversation_id = f"{split}-{number:06d}"
            draw = rng(seed, "cast", conversation_id)
            count = int(draw.integers(casting.min_speakers, most + 1))
            pool = members[number % num_cohorts]
            if len(pool) < count:  # a thin cohort borrows from all
                pool = np.arange(len(names))
            address = f"{seed}:speakers:{conversation_id}"
            speakers = [names[pool[i]] for i in rendezvous(address, hashes[pool], count)]
            rows: list[int] = []
            enrolments: list[int] = []
            for speaker in speakers:
                address = f"{seed}:{conversation_id}:{speaker}"
                taken = _reading(shelves[speaker], chapters[speaker], casting.max_utterances, address)
                if recordings is not None:
                    enrolment = _enrolment(taken, shelves[speaker], recordings, f"{address}:enrolment")
                    enrolments += [enrolment] if enrolment is not None else []
                rows += taken
            casts.append(Cast(conversation_id, split, tuple(speakers), tuple(rows), tuple(enrolments)))
    return casts


def cast_table(utterances: pa.Table, casts: Sequence[Cast], seed: int) -> pa.Table:
    """Return a table CASTS: casts with their utterances."""
    columns: dict[str, pa.Array] = {
        "conversation_id": pa.array([cast.conversation_id for cast in casts]),
        "split": pa.array([cast.split for cast in casts]),
        "seed": pa.array([seed] * len(casts), pa.int64()),
        "speakers": pa.array([list(cast.speakers) for cast in casts], CASTS.field("speakers").type),
        "utterances": _lists(utterances, [cast.rows for cast in casts], CASTS.field("utterances").type.value_type),
        "enrolments": _lists(utterances, [cast.enrolments for cast in casts], ENROLMENT),
    }
    return pa.table([columns[name] for name in CASTS.names], schema=CASTS)


def _lists(utterances: pa.Table, rows: Sequence[tuple[int, ...]], item: pa.StructType) -> pa.ListArray:
    """Return the columns of `item` of some rows for each cast, as a list of structs each."""
    taken = utterances.take(pa.array([row for listed in rows for row in listed], pa.int64())).combine_chunks()
    chunks = [taken[field.name].chunks for field in item]
    arrays = [c[0] if c else pa.array([], field.type) for c, field in zip(chunks, item, strict=True)]
    structs = pa.StructArray.from_arrays(arrays, fields=list(item))
    sizes = [len(listed) for listed in rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), structs)
