"""Scores hypotheses against references by one measure: cpWER and tcpWER, with bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from operators.scoring.bootstrap import units_of
from operators.scoring.result import COLLAR_S, Conditions
from operators.scoring.score import figures_of, measure

__all__ = ["COLLAR_S", "WordErrors", "cpwer", "tcpwer"]


@dataclass(frozen=True, kw_only=True)
class WordErrors:
    """A word error rate and its components."""

    rate: float
    """Errors divided by reference words, both summed over conversations; never a mean of rates."""
    low: float
    """Lower end of the rate's 95 % interval, over resampled speakers; the rate where there is one unit to resample."""
    high: float
    """Upper end of that interval."""
    errors: int
    reference_words: int
    insertions: int
    deletions: int
    substitutions: int
    num_conversations: int
    num_sessions: int
    """Conversations, or their windows where these are scored by themselves."""


def cpwer(reference: Sequence[Mapping[str, Any]], hypothesis: Sequence[Mapping[str, Any]], seed: int = 0) -> WordErrors:
    """Return the concatenated minimum-permutation word error rate of SegLST entries, whose words are normalized.

    The words of a session that the hypothesis lacks count as deleted.

    Source: Watanabe et al. 2020, "CHiME-6 Challenge", section 3.1; by meeteval.

    >>> def entries(*turns): return [{"session_id": "a", "speaker": who, "words": words} for who, words in turns]
    >>> cpwer(entries(("x", "good day"), ("y", "hi")), entries(("s0", "hi"), ("s1", "good"))).errors
    1
    """
    return _word_errors(reference, hypothesis, Conditions(normalizer="none", seed=seed, measures=("cpwer",)))


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
    conditions = Conditions(normalizer="none", seed=seed, collar_s=collar_s, measures=("tcpwer",))
    return _word_errors(reference, hypothesis, conditions)


def _word_errors(
    reference: Sequence[Mapping[str, Any]], hypothesis: Sequence[Mapping[str, Any]], conditions: Conditions
) -> WordErrors:
    measured = measure(reference, hypothesis, conditions)
    if measured.left_out:
        raise ValueError(next(iter(measured.left_out.values())))
    units = units_of(measured.sessions)
    (figure,) = figures_of(measured, units)
    rate = 0.0 if figure.value is None else figure.value
    kinds = {kind: int(figure.counts.get(kind, 0)) for kind in ("insertions", "deletions", "substitutions")}
    return WordErrors(
        rate=rate,
        low=rate if figure.low is None else figure.low,
        high=rate if figure.high is None else figure.high,
        errors=int(figure.counts["errors"]),
        reference_words=int(figure.base),
        num_conversations=len(units.recordings),
        num_sessions=len(measured.sessions),
        **kinds,
    )
