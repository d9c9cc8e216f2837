"""Scores hypotheses against references: cpWER and tcpWER by meeteval, with bootstrap intervals over conversations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.rng import rng


@dataclass(frozen=True, kw_only=True)
class WordErrors:
    """A word error rate and its components."""

    rate: float
    """Errors divided by reference words, both summed over conversations; never a mean of rates."""
    low: float
    """2.5th percentile of the rate over resampled conversations."""
    high: float
    """97.5th percentile of that rate."""
    errors: int
    reference_words: int
    insertions: int
    deletions: int
    substitutions: int
    num_conversations: int
    num_sessions: int
    """Conversations, or their windows where these are scored by themselves."""


COLLAR_S = 5.0
"""How far a word's time may be off in tcpWER, in seconds, as in the CHiME-7 and CHiME-8 challenges."""

MEETEVAL_MAX_SPEAKERS = 20
"""meeteval refuses sessions with more speakers as a likely mistake; there are tags for more."""


def cpwer(reference: Sequence[Mapping[str, Any]], hypothesis: Sequence[Mapping[str, Any]], seed: int = 0) -> WordErrors:
    """Return the concatenated minimum-permutation word error rate of SegLST entries.

    The words of a session that the hypothesis lacks count as deleted.

    Source: Watanabe et al. 2020, "CHiME-6 Challenge", section 3.1; by meeteval.

    >>> def entries(*turns): return [{"session_id": "a", "speaker": who, "words": words} for who, words in turns]
    >>> cpwer(entries(("x", "good day"), ("y", "hi")), entries(("s0", "hi"), ("s1", "good"))).errors
    1
    """
    import meeteval

    def text(entries: Any) -> str:
        return " ".join(entry["words"] for entry in entries)

    # Entries are in order of time already, and hypotheses may have no times.
    scores = _score_sessions(
        *_sides(reference, hypothesis, ("session_id", "speaker", "words"), {}),
        of_session=lambda one, other: meeteval.wer.cp_word_error_rate(
            one, other, reference_sort=False, hypothesis_sort=False
        ),
        of_speaker=lambda one, other: meeteval.wer.siso_word_error_rate(text(one), text(other)),
    )
    return _word_errors(scores, reference, seed)


def tcpwer(
    reference: Sequence[Mapping[str, Any]],
    hypothesis: Sequence[Mapping[str, Any]],
    seed: int = 0,
    collar_s: float = COLLAR_S,
) -> WordErrors:
    """Return the time-constrained cpWER of SegLST entries: words match only where their times do, within a collar.

    Words share the time of their turn by their numbers of letters, as meeteval's defaults have it.

    Source: von Neumann et al. 2023, "MeetEval", arXiv:2307.11394, section 3.2; by meeteval.
    """
    from meeteval.wer.wer import time_constrained as timed

    names = ("session_id", "speaker", "words", "start_time", "end_time")
    scores = _score_sessions(
        *_sides(reference, hypothesis, names, {"start_time": 0.0, "end_time": 0.0}),
        of_session=lambda one, other: timed.tcp_word_error_rate(one, other, collar=collar_s),
        of_speaker=lambda one, other: timed.time_constrained_siso_word_error_rate(one, other, collar=collar_s),
    )
    return _word_errors(scores, reference, seed)


def _sides(
    reference: Sequence[Mapping[str, Any]],
    hypothesis: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    times: Mapping[str, float],
) -> tuple[Any, Any]:
    """Return both sides as meeteval takes them, with an empty turn where the hypothesis lacks a session."""
    import meeteval

    present = {entry["session_id"] for entry in hypothesis}
    missing = sorted({entry["session_id"] for entry in reference} - present)
    empty = [{"session_id": session, "speaker": "s0", "words": "", **times} for session in missing]
    one, other = (
        meeteval.io.SegLST([{name: entry[name] for name in names} for entry in entries])
        for entries in (reference, [*hypothesis, *empty])
    )
    return one, other


def _score_sessions(
    reference: Any,
    hypothesis: Any,
    of_session: Callable[[Any, Any], Any],
    of_speaker: Callable[[Any, Any], Any],
) -> dict[str, NDArray[np.int64]]:
    """Return errors, reference words, insertions, deletions and substitutions of each session.

    Args:
        reference: all sessions, as meeteval's SegLST.
        hypothesis: the same sessions.
        of_session: meeteval's error rate of a session.
        of_speaker: meeteval's error rate of one speaker's entries against another's.
    """
    theirs = hypothesis.groupby("session_id")
    found = {}
    for session, ours in reference.groupby("session_id").items():
        one, other = (list(side.groupby("speaker").values()) for side in (ours, theirs[session]))
        if max(len(one), len(other)) <= MEETEVAL_MAX_SPEAKERS:
            found[session] = _counts(of_session(ours, theirs[session]))
        else:
            found[session] = _assign(one, other, of_speaker)
    return found


def _assign(
    reference: Sequence[Any], hypothesis: Sequence[Any], of_speaker: Callable[[Any, Any], Any]
) -> NDArray[np.int64]:
    """Return a session's counts of errors under the assignment of speakers with the fewest, by the Hungarian method."""
    import meeteval
    from scipy.optimize import linear_sum_assignment

    size = max(len(reference), len(hypothesis))
    nobody = meeteval.io.SegLST([])
    sides = [[*side, *[nobody] * (size - len(side))] for side in (reference, hypothesis)]
    counts = np.array([[_counts(of_speaker(one, other)) for other in sides[1]] for one in sides[0]])
    return np.asarray(counts[linear_sum_assignment(counts[:, :, 0])].sum(axis=0), dtype=np.int64)


def _counts(score: Any) -> NDArray[np.int64]:
    return np.array([score.errors, score.length, score.insertions, score.deletions, score.substitutions], np.int64)


def _word_errors(
    scores: Mapping[str, NDArray[np.int64]], reference: Sequence[Mapping[str, Any]], seed: int
) -> WordErrors:
    """Sum the counts of sessions; resample recordings, for a recording's windows share their speakers."""
    recordings = {entry["session_id"]: str(entry.get("recording_id", entry["session_id"])) for entry in reference}
    sums: dict[str, Any] = {}
    for session, recording in sorted(recordings.items()):
        sums[recording] = sums.get(recording, 0) + scores[session]
    parts = np.array([sums[recording] for recording in sorted(sums)], dtype=np.int64).reshape(-1, 5)
    errors, words, insertions, deletions, substitutions = (int(value) for value in parts.sum(axis=0))
    draws = rng(seed, "bootstrap", "cpwer").integers(0, len(parts), size=(1000, len(parts)))
    resampled = parts[draws, :2].sum(axis=1)
    rates = resampled[:, 0] / np.maximum(resampled[:, 1], 1)
    return WordErrors(
        rate=errors / max(words, 1),
        low=float(np.percentile(rates, 2.5)),
        high=float(np.percentile(rates, 97.5)),
        errors=errors,
        reference_words=words,
        insertions=insertions,
        deletions=deletions,
        substitutions=substitutions,
        num_conversations=len(parts),
        num_sessions=len(recordings),
    )
