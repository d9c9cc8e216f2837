"""The pieces that speakers can say: whole utterances, or parts cut between words."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from operators.corpus.sources import resampled_length

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_CUT_LENGTHS = 64
"""Lengths drawn for the parts of one utterance."""


@dataclass(frozen=True)
class Pieces:
    """Pieces (P,) of the speakers of one conversation."""

    utterance: Ints
    """Row among the batch's utterances."""
    first_word: Ints
    """First word of a part of an utterance; -1 for a whole one."""
    end_word: Ints
    """Word after the last one; -1 for a whole utterance."""
    num_samples: Ints
    """Length on the timeline."""

    def take(self, index: NDArray[np.integer]) -> "Pieces":
        """Return the pieces at some indices (T,)."""
        return Pieces(self.utterance[index], self.first_word[index], self.end_word[index], self.num_samples[index])

    def append(self, other: "Pieces") -> "Pieces":
        """Return these pieces followed by others."""
        return Pieces(
            np.concatenate([self.utterance, other.utterance]),
            np.concatenate([self.first_word, other.first_word]),
            np.concatenate([self.end_word, other.end_word]),
            np.concatenate([self.num_samples, other.num_samples]),
        )


@dataclass(frozen=True)
class PlannedConversation:
    """The turns (T,) of one conversation, before they are put into a table."""

    pieces: Pieces
    start: Ints
    """Start of each turn, in samples."""
    who: Ints
    """Speaker of each turn: index into the cast."""
    kind: NDArray[np.int8]
    """Transition of each turn: index into TRANSITIONS."""
    gains_db: Floats
    """(S,) gain of each speaker."""
    num_clipped: int
    num_dropped: int


class Utterances:
    """The utterances (U,) of a batch and their words (W,) as flat arrays; times in samples of each source."""

    def __init__(self, rows: pa.StructArray, rate_hz: int) -> None:
        self.rows = rows
        self.rate_hz = rate_hz
        self.speaker = rows.field("speaker").to_pylist()
        self.source_hz = rows.field("source_rate_hz").to_numpy(zero_copy_only=False).astype(np.int64)
        self.source_length = rows.field("source_num_samples").to_numpy(zero_copy_only=False).astype(np.int64)
        self.num_samples = (self.source_length * rate_hz + self.source_hz // 2) // self.source_hz
        words = rows.field("words").fill_null([])
        self.words = words.flatten()
        sizes = pc.list_value_length(words).to_numpy(zero_copy_only=False).astype(np.int64)
        self.word_begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.word_start = self.words.field("start_sample").to_numpy(zero_copy_only=False).astype(np.int64)
        self.word_length = self.words.field("num_samples").to_numpy(zero_copy_only=False).astype(np.int64)
        self._begin, self._stop = self._with_margins(sizes)

    def num_words(self, row: int) -> int:
        """Return the number of words that have times."""
        return int(self.word_begins[row + 1] - self.word_begins[row])

    def _with_margins(self, sizes: Ints) -> tuple[Ints, Ints]:
        """Return begin and end of each word with half of the pauses around it, at most 50 ms."""
        row = np.repeat(np.arange(len(sizes)), sizes)
        ends = self.word_start + self.word_length
        first, last = np.zeros(len(row), bool), np.zeros(len(row), bool)
        first[self.word_begins[:-1][sizes > 0]] = True
        last[self.word_begins[1:][sizes > 0] - 1] = True
        before = np.where(first, 0, np.concatenate([[0], ends[:-1]])) if len(row) else ends
        after = (
            np.where(last, self.source_length[row], np.concatenate([self.word_start[1:], [0]])) if len(row) else ends
        )
        edge = self.source_hz[row] // 20
        begin = self.word_start - np.minimum(edge, np.maximum(0, self.word_start - before) // 2)
        stop = ends + np.minimum(edge, np.maximum(0, after - ends) // 2)
        return begin, np.minimum(stop, self.source_length[row])

    def span(self, row: int, first: int, end: int) -> tuple[int, int]:
        """Return begin and length of the words first..end of an utterance, margins included, in source samples."""
        low = int(self.word_begins[row])
        begin = int(self._begin[low + first])
        return begin, max(1, int(self._stop[low + end - 1]) - begin)

    def length(self, row: int, first: int, end: int) -> int:
        """Return the length of the words first..end of an utterance, in samples of the timeline."""
        _, samples = self.span(row, first, end)
        return resampled_length(samples, int(self.source_hz[row]), self.rate_hz)

    def longest_gap_s(self, row: int) -> float:
        """Return the longest pause between two words of an utterance in seconds; 0 without word times."""
        low, high = int(self.word_begins[row]), int(self.word_begins[row + 1])
        if high - low < 2:
            return 0.0
        gaps = self.word_start[low + 1 : high] - (self.word_start + self.word_length)[low : high - 1]
        return float(gaps.max()) / int(self.source_hz[row])

    def cut(self, row: int, wanted_s: Floats, silence_s: float) -> list[tuple[int, int, int]]:
        """Cut an utterance at the pause nearest to each wanted length, and at every long pause.

        Pauses at cuts are left out: the timing puts its own there.

        Args:
            row: the utterance.
            wanted_s: (N,) lengths of the parts in seconds; what is left after them is one more part.
            silence_s: every pause longer than this is cut, in seconds.

        Returns:
            First word, word after the last, and length in samples of the timeline, of each part.
        """
        count = self.num_words(row)
        low = int(self.word_begins[row])
        starts = self.word_start[low : low + count] / self.source_hz[row]
        ends = starts + self.word_length[low : low + count] / self.source_hz[row]
        parts, first = [], 0
        for length_s in wanted_s.tolist():
            if first >= count:
                break
            after = ends[first:] - starts[first]
            gaps = np.append(starts[first + 1 :], np.inf) - ends[first:]
            # A cut at a longer pause may be farther from the wanted length.
            cost = (np.abs(after - length_s) if np.isfinite(length_s) else -after) - np.minimum(gaps, 0.5)
            silent = int(np.argmax(gaps > silence_s))  # the last gap is infinite, so that one is always found
            end = first + 1 + int(np.argmin(cost[: silent + 1]))
            parts.append((first, end, self.length(row, first, end)))
            first = end
        if first < count:
            parts.append((first, count, self.length(row, first, count)))
        return parts

    def word_spans(self, rows: Ints, speaker_of: Ints) -> tuple[Floats, Ints]:
        """Return utterance, start and end in seconds (W, 3) of every word of some utterances, and its speaker (W,)."""
        counts = self.word_begins[rows + 1] - self.word_begins[rows]
        borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        picked = np.arange(borders[-1]) + np.repeat(self.word_begins[rows] - borders[:-1], counts)
        hz = np.repeat(self.source_hz[rows], counts).astype(np.float64)
        spans = np.stack([np.repeat(rows, counts), self._begin[picked] / hz, self._stop[picked] / hz], axis=1)
        return spans, np.repeat(speaker_of, counts)


def cut_into_pieces(
    utterances: Utterances,
    rows: Ints,
    speaker_of: Ints,
    lengths_s: tuple[float, ...],
    cut_above_s: float,
    silence_s: float,
    draw: np.random.Generator,
) -> tuple[Pieces, Ints]:
    """Return the pieces (P,) of one conversation's utterances, and the speaker (P,) of each.

    Args:
        utterances: of the batch.
        rows: (N,) the conversation's utterances, sorted by speaker.
        speaker_of: (N,) their speakers.
        lengths_s: lengths of parts to draw from, in seconds.
        cut_above_s: utterances longer than this are cut, in seconds; 0 cuts none.
        silence_s: utterances are also cut at pauses longer than this, in seconds; 0 cuts none.
        draw: the conversation's generator.
    """
    whole = np.full(len(rows), -1, np.int64)
    if not cut_above_s and not silence_s:
        return Pieces(rows, whole, whole, utterances.num_samples[rows]), speaker_of
    limit = (cut_above_s or np.inf) * utterances.rate_hz
    longest_gap_s = silence_s or np.inf
    utterance, first, end, length, owner = [], [], [], [], []
    lengths = np.array(lengths_s)
    for row, speaker in zip(rows.tolist(), speaker_of.tolist(), strict=True):
        parts = [(-1, -1, int(utterances.num_samples[row]))]
        if utterances.num_words(row) > 1 and utterances.num_samples[row] > limit:
            parts = utterances.cut(row, lengths[draw.integers(0, len(lengths), _CUT_LENGTHS)], longest_gap_s)
        elif utterances.longest_gap_s(row) > longest_gap_s:
            parts = utterances.cut(row, np.full(_CUT_LENGTHS, np.inf), longest_gap_s)
        for begin, stop, number in parts:
            utterance.append(row)
            first.append(begin)
            end.append(stop)
            length.append(number)
            owner.append(speaker)
    columns = [np.array(column, np.int64) for column in (utterance, first, end, length)]
    return Pieces(*columns), np.array(owner, np.int64)
