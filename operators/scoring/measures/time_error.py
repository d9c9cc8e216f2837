"""How far the times of words are off: of words that match under tcpWER's assignment and alignment."""

from collections.abc import Callable, Sequence
from typing import Any

from operators.formats.text import word_times
from operators.scoring.measures.measure import Counts, Measure, spoken
from operators.scoring.measures.streams import by_speaker, cp_assignment
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, Turn

_EXAMPLE = (
    [spoken("x", "aa bb", 0, 4), spoken("x", "cc", 6, 8)],
    [spoken("s", "aa bb", 1, 5), spoken("s", "cc", 6, 8)],
)


def timed_words(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return the words of turns with their times in seconds, and whether they begin their turn.

    A turn's words share its time by their numbers of letters, as in meeteval's `character_based`.
    """
    return [
        {"words": word, "start_time": start_s, "end_time": end_s, "speaker": turn.speaker, "begins": number == 0}
        for turn in turns
        for number, (word, (start_s, end_s)) in enumerate(
            zip(
                turn.words.split(),
                word_times(turn.words.split(), turn.start_s or 0.0, turn.end_s or 0.0),
                strict=True,
            )
        )
    ]


def aligned_words(session: Session, collar_s: float) -> list[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """Return the words of both sides, aligned by words and times under the best assignment of speakers."""

    def make() -> list[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
        import meeteval
        from meeteval.wer.wer.time_constrained import align

        one, other = by_speaker(session.reference), by_speaker(session.hypothesis)
        found: list[tuple[dict[str, Any] | None, dict[str, Any] | None]] = []
        for a, b in cp_assignment(session, collar_s):
            ours, theirs = timed_words(one.get(a or "", [])), timed_words(other.get(b or "", []))
            if not ours or not theirs:
                found += [(word, None) for word in ours] + [(None, word) for word in theirs]
                continue
            # Places instead of words: the aligned words come back with their own times.
            pairs = align(
                meeteval.io.SegLST(ours),
                meeteval.io.SegLST(theirs),
                collar=collar_s,
                style="index",
                reference_sort=False,
                hypothesis_sort=False,
            )
            found += [(None if i is None else ours[i], None if j is None else theirs[j]) for i, j in pairs]
        return found

    pairs: list[tuple[dict[str, Any] | None, dict[str, Any] | None]] = session.remember(("aligned", collar_s), make)
    return pairs


def _start_errors(session: Session, conditions: Conditions, *, turns: bool) -> Counts:
    errors = tuple(
        abs(one["start_time"] - other["start_time"])
        for one, other in aligned_words(session, conditions.collar_s)
        if one is not None
        and other is not None
        and one["words"] == other["words"]
        and (not turns or (one["begins"] and other["begins"]))
    )
    return Counts(sum(errors), float(len(errors)), values=errors)


def word_starts(session: Session, conditions: Conditions) -> Counts:
    """Return how far the starts of matched words are off, in seconds."""
    return _start_errors(session, conditions, turns=False)


def turn_starts(session: Session, conditions: Conditions) -> Counts:
    """Return how far the starts of turns are off whose first words match, in seconds."""
    return _start_errors(session, conditions, turns=True)


def _measure(
    title: str, about: str, of_session: Callable[[Session, Conditions], Counts], value: float, *, is_median: bool
) -> Measure:
    return Measure(title, about, of_session, (*_EXAMPLE, value), unit="s", needs_times=True, is_median=is_median)


_WORDS = "of word starts, of words that match within tcpWER's collar; words share their turn's time by letters"
_TURNS = "of turn starts, of turns whose first words match within tcpWER's collar"
WORD_MEDIAN = _measure("word start error, median", f"median absolute error {_WORDS}", word_starts, 1.0, is_median=True)
WORD_MEAN = _measure("word start error, mean", f"mean absolute error {_WORDS}", word_starts, 2 / 3, is_median=False)
TURN_MEDIAN = _measure("turn start error, median", f"median absolute error {_TURNS}", turn_starts, 0.5, is_median=True)
TURN_MEAN = _measure("turn start error, mean", f"mean absolute error {_TURNS}", turn_starts, 0.5, is_median=False)
