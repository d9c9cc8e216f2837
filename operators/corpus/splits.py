"""Splits: which utterances are for training, which for validation while training, and which for testing.

Splits are disjoint by speaker, where they are drawn, and by text. A text is a book or chapter where the corpus names
enough of them, else a sentence. Most corpora are read from few texts, and a model that was trained on a sentence of
the test split has an answer before it listens.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import scipy  # its modules are loaded when they are used
from numpy.typing import NDArray

from operators.corpus.normalizers.sentences import SENTENCE_WORDS, sentences_of
from operators.errors import InputError
from operators.rng import hash64, hash64_many, rendezvous

SPLITS = ("train", "validation", "test")

_FEWEST_BOOKS = 10
"""Books or chapters that a corpus has at least where they are its texts: one book cannot be on two sides."""

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
    def min_speakers(self) -> int:
        """Fewest speakers in a conversation: so many are drawn for a split at least."""
        ...

    @property
    def max_speakers(self) -> int | None:
        """Most speakers in a conversation: so many are drawn for a validation split at least."""
        ...

    @property
    def test_speakers(self) -> float:
        """Share of speakers in the test split, where it is drawn."""
        ...

    @property
    def shared_text(self) -> Literal["drop", "allow"]:
        """What is done with utterances whose text is in another split too."""
        ...


@dataclass(frozen=True)
class Shared:
    """What a held-out split shares with the train split."""

    speakers: int = 0
    books: int = 0
    """Books with utterances in both, other sentences of which may be heard in training."""
    sentences: int = 0
    """Sentences of five words or more."""


@dataclass(frozen=True)
class Splits:
    """Rows of the utterances table by split, and where the splits come from."""

    rows: Mapping[str, NDArray[np.int64]]
    source: str
    """manifest, speaker, or both where the manifests name some of the splits."""
    shared: Mapping[str, Shared] = field(default_factory=dict)
    """What each held-out split shares with train."""
    drawn: tuple[str, ...] = ()
    """Splits whose speakers are a seeded draw."""
    unused: Mapping[str, int] = field(default_factory=dict)
    """Rows that are in no split, by what they are."""

    @property
    def shared_speakers(self) -> int:
        """Number of speakers in both train and test; 0 in a speaker-disjoint split."""
        return self.shared["test"].speakers if self.shared else 0

    def describe(self) -> str:
        """Return in one sentence where the splits come from, what they share, and what is in none of them."""
        if self.source == "manifest":
            origin = "the manifest's own"
        elif self.source == "speaker":
            origin = "a seeded, speaker-disjoint draw"
        else:
            origin = f"the manifest's own, but for a seeded draw of {' and '.join(self.drawn)} speakers"
        parts = [f"splits are {origin}"]
        for split, shared in self.shared.items():
            told = {
                f"speaker{'s' * (shared.speakers != 1)}": shared.speakers,
                f"sentence{'s' * (shared.sentences != 1)} of {SENTENCE_WORDS} words or more": shared.sentences,
                f"book{'s' * (shared.books != 1)}": shared.books,
            }
            listed = [f"{number:,} {what}" for what, number in told.items() if number]
            if listed:
                parts.append(f"{split} SHARES {', '.join(listed)} with train")
        if not any(shared.speakers for shared in self.shared.values()):
            parts.append("no speaker is in both")
        if not any(shared.sentences for shared in self.shared.values()):
            parts.append(f"no sentence of {SENTENCE_WORDS} words is in both")
        parts += [f"{number:,} rows {what} are in no split" for what, number in self.unused.items()]
        return "; ".join(parts)


def split_rows(utterances: pa.Table, rule: SplitRule, seed: int) -> Splits:
    """Assign utterances to the train, validation and test splits.

    A split that the manifests name is kept, and nothing that they name otherwise is trained on: what they do not name
    is drawn from the speakers of their train split, or of the rows without a split where they name no train split.
    Whole connected parts of speakers and texts are drawn where they fit; where a text is on both sides nevertheless,
    the rows of one side are dropped (`SplitRule.shared_text`).

    Args:
        utterances: a table UTTERANCES.
        rule: where splits come from.
        seed: of the draw.

    Raises:
        InputError: the manifests' split is required and they have none, or they name one that is not known.
    """
    if not utterances.num_rows:  # all conversations are recorded ones
        return Splits({split: np.zeros(0, np.int64) for split in SPLITS}, "manifest")
    speakers = np.array(utterances["speaker"].to_pylist(), object)
    chosen, unused = _named(utterances, rule)
    texts = _Texts.of(utterances)
    named = set(chosen)
    drawn = []
    draws = (
        ("test", rule.test_speakers, rule.min_speakers),
        ("validation", rule.validation_speakers, rule.max_speakers or rule.min_speakers),
    )
    for split, share, least in draws:
        if split in named or (split == "validation" and not rule.validation_conversations):
            continue
        pool = np.flatnonzero(chosen == "train")
        count = max(least, round(len(set(speakers)) * share))
        parts = texts.parts(speakers, pool) if rule.shared_text == "drop" else {}
        taken = _drawn_speakers(sorted(set(speakers[pool])), parts, count, f"{seed}:{split}-speakers")
        chosen[pool[np.array([speaker in taken for speaker in speakers[pool]], bool)]] = split
        drawn.append(split)
    if rule.shared_text == "drop":
        shares = {split: share for split, share, _ in draws if split in drawn}
        before = Counter(chosen)
        texts.drop_shared(chosen, shares, seed)
        for split in SPLITS:
            if less := before[split] - int((chosen == split).sum()):
                unused[f"of {split} whose text is in another split"] = less
    rows = {split: np.flatnonzero(chosen == split) for split in SPLITS}
    shared = {
        split: texts.shared(speakers, rows["train"], rows[split])
        for split in ("validation", "test")
        if split == "test" or len(rows[split])
    }
    source = "manifest" if not drawn else "both" if named - {"train"} else "speaker"
    return Splits(rows, source, shared, tuple(drawn), unused)


def _drawn_speakers(names: Sequence[str], parts: Mapping[str, Sequence[str]], count: int, address: str) -> set[str]:
    """Return `count` of the speakers: whole parts while they fit, then single speakers.

    A part is known by its first name, so that speakers without a part are drawn as if there were no parts.
    """
    parts = parts or {name: [name] for name in names}
    keys = sorted(parts)
    taken: set[str] = set()
    for i in rendezvous(address, hash64_many(keys), len(keys)).tolist():
        if len(taken) + len(parts[keys[i]]) <= count:
            taken.update(parts[keys[i]])
    rest = [name for name in names if name not in taken]
    missing = min(count - len(taken), len(rest))
    return taken | {rest[i] for i in rendezvous(address, hash64_many(rest), missing)}


@dataclass(frozen=True)
class _Texts:
    """Which rows say which texts: books or chapters first, then sentences."""

    keys: tuple[str, ...]
    num_works: int
    """So many of the keys are books or chapters; the others are sentences."""
    row: NDArray[np.int64]
    """(L,) rows, with `key` as pairs."""
    key: NDArray[np.int64]
    """(L,) indices into keys."""
    book: NDArray[np.object_]
    """(N,) book of each row, or None."""

    @classmethod
    def of(cls, utterances: pa.Table) -> "_Texts":
        columns = utterances.select(["text", "text_normalized", "book", "chapter"]).to_pydict()
        said = [sentences_of(*pair) for pair in zip(columns["text"], columns["text_normalized"], strict=True)]
        books: list[str | None] = columns["book"]
        chapters = [
            None if book is None or chapter is None else f"{book}/{chapter}"
            for book, chapter in zip(books, columns["chapter"], strict=True)
        ]
        works = next((w for w in (books, chapters) if len({*w} - {None}) >= _FEWEST_BOOKS), [None] * len(said))
        pairs = [(f"work:{work}", i) for i, work in enumerate(works) if work is not None and said[i]]
        number = {key: n for n, key in enumerate(dict.fromkeys(key for key, _ in pairs))}
        num_works = len(number)
        pairs += [(sentence, i) for i, sentences in enumerate(said) for sentence in sentences]
        for key, _ in pairs:
            number.setdefault(key, len(number))
        rows = np.array([i for _, i in pairs], np.int64)
        keys = np.array([number[key] for key, _ in pairs], np.int64)
        return cls(tuple(number), num_works, rows, keys, np.array(books, object))

    def parts(self, speakers: NDArray[np.object_], pool: NDArray[np.int64]) -> dict[str, list[str]]:
        """Return the connected parts of the speakers of some rows, by first name: who share texts, whatever way."""
        names = sorted(set(speakers[pool]))
        number = {name: n for n, name in enumerate(names)}
        inside = np.isin(self.row, pool)
        who = np.array([number[speaker] for speaker in speakers[self.row[inside]]], np.int64)
        size = len(names) + len(self.keys)
        edges = (np.ones(len(who), np.int8), (who, len(names) + self.key[inside]))
        graph = scipy.sparse.coo_matrix(edges, shape=(size, size))
        labels = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
        found: dict[int, list[str]] = {}
        for name, label in zip(names, labels.tolist(), strict=False):
            found.setdefault(label, []).append(name)
        return {members[0]: members for members in found.values()}

    def drop_shared(self, chosen: NDArray[np.object_], shares: Mapping[str, float], seed: int) -> None:
        """Take rows out of their split (in place) until no text is in two splits.

        Args:
            chosen: (N,) split of each row.
            shares: of each drawn split: with this probability it keeps a text, and the train split loses it. What the
                manifests hold out is kept, and so is what is held out where different books share a sentence.
            seed: of the draw.
        """
        for works in (True, False):
            draws = shares if works or not self.num_works else {}
            at = (self.key < self.num_works) == works
            row, key = self.row[at], self.key[at]
            side = np.zeros(len(chosen), np.int64)
            for bit, split in enumerate(SPLITS):
                side[chosen == split] = 1 << bit
            sides = np.zeros(len(self.keys), np.int64)
            np.bitwise_or.at(sides, key, side[row])
            keeps = sides.copy()
            for one in np.flatnonzero(sides & (sides - 1)).tolist():
                keeps[one] = 1 << self._keeper(one, [b for b in range(len(SPLITS)) if sides[one] >> b & 1], draws, seed)
            lost = row[(side[row] & keeps[key]) == 0]
            chosen[lost] = ""

    def _keeper(self, key: int, sides: Sequence[int], shares: Mapping[str, float], seed: int) -> int:
        """Return which of a text's sides keeps it, as an index into SPLITS."""
        if any(SPLITS[side] not in shares for side in sides if side):
            return max(side for side in sides if SPLITS[side] not in shares)
        drawn = hash64(f"{seed}:texts:{self.keys[key]}") / 2.0**64
        for side in reversed(sides[1:] if sides[0] == 0 else sides):
            drawn -= shares[SPLITS[side]]
            if drawn < 0:
                return side
        return sides[0]

    def shared(self, speakers: NDArray[np.object_], train: NDArray[np.int64], held_out: NDArray[np.int64]) -> Shared:
        """Count what held-out rows share with those of the train split."""
        said = [set(self.key[np.isin(self.row, rows) & (self.key >= self.num_works)]) for rows in (train, held_out)]
        return Shared(
            speakers=len(set(speakers[train]) & set(speakers[held_out])),
            books=len((set(self.book[train]) & set(self.book[held_out])) - {None}),
            sentences=len(said[0] & said[1]),
        )


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
