"""Joins the transcripts of a recording's windows: whose tag is whose, and what was transcribed twice.

A model numbers speakers anew in each window. Tags of a window are linked to the speakers of earlier ones by what the
prompt said of them (voice samples, text carried over), by the words and times of the audio that two windows share, and
by the likeness of voices; each way can be left out. A tag that no way links is a new speaker.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from operators.evaluate.cuts import Piece

Floats = NDArray[np.float64]

WORDS_PER_SECOND = 6.0
"""At most, of fast speech: bounds how many words two windows can share."""


@dataclass(frozen=True)
class HeardTurn:
    """A turn of a window's transcript."""

    tag: str
    text: str
    start: float | None = None
    """Frame of the recording in which it starts; None where the model predicts no times."""
    end: float | None = None


@dataclass(frozen=True)
class HeardWindow:
    """What was transcribed of a window."""

    piece: Piece
    turns: Sequence[HeardTurn]
    known: Mapping[str, str] = field(default_factory=dict)
    """Speaker of each tag that the prompt named."""
    is_continued: bool = False
    """Whether the prompt gave the text of the audio shared with the window before, so that it is not repeated."""


@dataclass
class _Word:
    turn: int
    tag: str
    text: str
    middle: float | None
    """Frame of the recording, by the word's share of its turn's letters."""
    is_kept: bool = True


@dataclass(frozen=True)
class _Heard:
    window: HeardWindow
    words: list[_Word]
    speakers: Mapping[str, str]
    """By tag."""


@dataclass(frozen=True)
class Joined:
    """A turn of a recording, with the words that count."""

    window: int
    tag: str
    speaker: str
    text: str
    start: float | None
    end: float | None


class Joiner:
    """Joins the windows of one recording, one after the other, so that prompts can name the speakers so far."""

    def __init__(
        self,
        frame_rate_hz: float,
        *,
        by_overlap: bool = True,
        voice: Callable[[int, str], Floats | None] | None = None,
        least_likeness: float = 0.5,
        same: Callable[[str], str] = str,
    ) -> None:
        """Take what windows are joined by.

        Args:
            frame_rate_hz: frames a second.
            by_overlap: whether tags are linked by the words and times of audio that two windows share.
            voice: returns a vector of a tag's voice in a window, where windows are joined by the likeness of voices.
            least_likeness: cosine below which two voices are two speakers.
            same: returns what is equal of two words that are the same, where they can be written in several ways.
        """
        self._same = same
        self._rate, self._by_overlap, self._voice, self._least = frame_rate_hz, by_overlap, voice, least_likeness
        self.speakers: list[str] = []
        """Speakers so far, by arrival."""
        self._heard: list[_Heard] = []
        self._voices: dict[str, list[Floats]] = {}

    def add(self, window: HeardWindow) -> dict[str, str]:
        """Add the next window; return the speaker of each of its tags."""
        words = _words(window.turns)
        links = dict(window.known)
        tags = list(dict.fromkeys(turn.tag for turn in window.turns))
        before = self._heard[-1] if self._heard else None
        overlaps = before is not None and self._by_overlap and before.window.piece.end > window.piece.start
        if before is not None and overlaps and not window.is_continued:
            self._link_by_overlap(before, window, words, tags, links)
        vectors = self._link_by_voice(tags, links)
        for tag in tags:
            if tag not in links:
                links[tag] = f"s{len(self.speakers)}"
                self.speakers.append(links[tag])
        for tag, vector in vectors.items():
            self._voices.setdefault(links[tag], []).append(vector)
        if before is not None and overlaps and not window.is_continued:
            self._drop_repeats(before, window, words, links)
        self._heard.append(_Heard(window, words, links))
        return links

    def turns(self) -> list[Joined]:
        """Return the turns of all windows so far, without what was transcribed twice."""
        found = []
        for number, heard in enumerate(self._heard):
            for place, turn in enumerate(heard.window.turns):
                words = [word for word in heard.words if word.turn == place]
                kept = [i for i, word in enumerate(words) if word.is_kept]
                if kept:
                    text = " ".join(words[i].text for i in kept)
                    start, end = _within(turn, words, kept)
                    found.append(Joined(number, turn.tag, heard.speakers[turn.tag], text, start, end))
        return found

    def _shared(
        self, before: _Heard, speaker: str, window: HeardWindow, words: Sequence[_Word], tag: str
    ) -> tuple[list[_Word], list[_Word]]:
        """Return the last words of a speaker and the first ones of a tag, of which some may be the same."""
        slack, most = self._rate, self._most_shared_words(before, window)
        tail = [word for word in before.words if before.speakers[word.tag] == speaker]
        head = [word for word in words if word.tag == tag]
        tail = [word for word in tail if word.middle is None or word.middle >= window.piece.start - slack]
        head = [word for word in head if word.middle is None or word.middle <= before.window.piece.end + slack]
        return tail[-most:], head[:most]

    def _shared_words(self, tail: Sequence[_Word], head: Sequence[_Word]) -> list[tuple[int, int]]:
        return shared_words([self._same(word.text) for word in tail], [self._same(word.text) for word in head])

    def _most_shared_words(self, before: _Heard, window: HeardWindow) -> int:
        return int(WORDS_PER_SECOND * (before.window.piece.end - window.piece.start) / self._rate) + 4

    def _link_by_overlap(
        self,
        before: _Heard,
        window: HeardWindow,
        words: Sequence[_Word],
        tags: Sequence[str],
        links: dict[str, str],
    ) -> None:
        """Link tags to the speakers of the window before by the words and seconds that they share, most in all."""
        taken = set(links.values())
        theirs = [speaker for speaker in dict.fromkeys(before.speakers.values()) if speaker not in taken]
        ours = [tag for tag in tags if tag not in links]
        shared = np.zeros((len(theirs), len(ours)))
        for (i, speaker), (j, tag) in itertools.product(enumerate(theirs), enumerate(ours)):
            tail, head = self._shared(before, speaker, window, words, tag)
            shared[i, j] = len(self._shared_words(tail, head))
            shared[i, j] += self._shared_seconds(before, speaker, window, tag)
        for i, j in _most_in_all(shared):
            if shared[i, j] >= 0.5:
                links[ours[j]] = theirs[i]

    def _shared_seconds(self, before: _Heard, speaker: str, window: HeardWindow, tag: str) -> float:
        """Return for how long both windows hear the two speak at the same time, in the audio that they share."""
        low, high = window.piece.start, before.window.piece.end
        active = np.zeros((2, high - low), bool)
        theirs = [turn for turn in before.window.turns if before.speakers[turn.tag] == speaker]
        ours = [turn for turn in window.turns if turn.tag == tag]
        for marks, turns in zip(active, (theirs, ours), strict=True):
            for turn in turns:
                if turn.start is not None and turn.end is not None:
                    marks[max(0, round(turn.start) - low) : max(0, round(turn.end) - low)] = True
        return float(active.all(axis=0).sum()) / self._rate

    def _link_by_voice(self, tags: Sequence[str], links: dict[str, str]) -> dict[str, Floats]:
        """Link tags to speakers with like voices, the likest in all; return the vectors of all tags' voices."""
        if self._voice is None:
            return {}
        number = len(self._heard)
        vectors = {tag: vector for tag in tags if (vector := self._voice(number, tag)) is not None}
        taken = set(links.values())
        theirs = [speaker for speaker in self._voices if speaker not in taken]
        ours = [tag for tag in vectors if tag not in links]
        if theirs and ours:
            means = [np.mean(self._voices[speaker], axis=0) for speaker in theirs]
            likeness = np.array([[_cosine(mean, vectors[tag]) for tag in ours] for mean in means])
            for i, j in _most_in_all(likeness):
                if likeness[i, j] >= self._least:
                    links[ours[j]] = theirs[i]
        return vectors

    def _drop_repeats(
        self, before: _Heard, window: HeardWindow, words: Sequence[_Word], links: Mapping[str, str]
    ) -> None:
        """Drop words that both windows have: each keeps them up to, or from, the middle of what they share.

        What is near the edge of a window is transcribed worse there than in the other. Where a speaker's words differ
        in the two, but both have times, those of either window's own part are kept.
        """
        speakers = set(before.speakers.values())
        for tag, speaker in links.items():
            if speaker not in speakers:
                continue
            tail, head = self._shared(before, speaker, window, words, tag)
            pairs = self._shared_words(tail, head)
            if pairs:
                i, j = pairs[len(pairs) // 2]
                dropped = [*tail[i + 1 :], *head[: j + 1]]
            elif self._shared_seconds(before, speaker, window, tag) >= 1.0:
                border = window.piece.own_start
                dropped = [word for word in tail if word.middle is not None and word.middle >= border]
                dropped += [word for word in head if word.middle is not None and word.middle < border]
            else:
                dropped = []
            for word in dropped:
                word.is_kept = False


def _most_in_all(gains: Floats) -> list[tuple[int, int]]:
    """Return the assignment of rows to columns with the greatest sum."""
    from scipy.optimize import linear_sum_assignment  # a fifth of a second, which planning need not wait for

    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(-gains), strict=True)]


def _within(turn: HeardTurn, words: Sequence[_Word], kept: Sequence[int]) -> tuple[float | None, float | None]:
    """Return start and end of the words that are kept of a turn, by their share of its letters."""
    if turn.start is None or turn.end is None or len(kept) == len(words):
        return turn.start, turn.end
    borders = np.cumsum([0, *(len(word.text) for word in words)]) * (turn.end - turn.start) / sum(map(_letters, words))
    return turn.start + float(borders[kept[0]]), turn.start + float(borders[kept[-1] + 1])


def _letters(word: _Word) -> int:
    return len(word.text)


def _words(turns: Sequence[HeardTurn]) -> list[_Word]:
    found = []
    for number, turn in enumerate(turns):
        words = turn.text.split()
        letters = np.array([len(word) for word in words], np.float64)
        shares = (np.cumsum(letters) - letters / 2) / max(letters.sum(), 1.0)
        for word, share in zip(words, shares.tolist(), strict=True):
            middle = None
            if turn.start is not None and turn.end is not None:
                middle = turn.start + (turn.end - turn.start) * share
            found.append(_Word(number, turn.tag, word, middle))
    return found


def _cosine(one: Floats, other: Floats) -> float:
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norms if norms else 0.0


def shared_words(tail: Sequence[str], head: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of equal words (i, j) by which the end of one text is best laid over the beginning of another.

    Words may differ within what is laid over, but everything after it in the first text, and before it in the second,
    counts as different too: only an end meets a beginning.

    >>> shared_words("so we all go home now".split(), "all go hum now and sleep".split())
    [(2, 0), (3, 1), (5, 3)]
    >>> shared_words("one two".split(), "three one".split())
    []
    """
    if not set(tail) & set(head):
        return []
    rows, columns = len(tail), len(head)
    score = [[-j for j in range(columns + 1)]]  # words of the second text that the first lacks
    for word in tail:
        above, row = score[-1], [0]
        for j, other in enumerate(head):
            row.append(max(above[j] + (2 if word == other else -1), above[j + 1] - 1, row[j] - 1))
        score.append(row)
    i, j = rows, max(range(columns + 1), key=score[rows].__getitem__)
    if score[i][j] <= 0:
        return []
    pairs = []
    while i and j:
        equal = tail[i - 1] == head[j - 1]
        if score[i][j] == score[i - 1][j - 1] + (2 if equal else -1):
            pairs += [(i - 1, j - 1)] * equal
            i, j = i - 1, j - 1
        elif score[i][j] == score[i - 1][j] - 1:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]
