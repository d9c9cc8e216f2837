"""What a measure is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from operators.scoring.result import Conditions
from operators.scoring.sessions import Session

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Counts:
    """What a measure finds in one session."""

    errors: float = 0.0
    base: float = 0.0
    """What errors are divided by."""
    kinds: Mapping[str, float] | None = None
    """Errors by their kind."""
    values: tuple[float, ...] = ()
    """Of a measure that is a median, what it is the median of."""
    confusion: float | None = None
    """Errors that are wrong by their speaker alone."""
    is_greedy: bool = False
    """Whether a greedy variant stands in for the exact one, which would take too long."""


@dataclass(frozen=True)
class Measure:
    """A measure, and an example that its contract test holds."""

    title: str
    """As tables show it."""
    about: str
    """What it measures and by what, for the documentation."""
    of_session: Callable[[Session, Conditions], Counts]
    example: tuple[Sequence[Entry], Sequence[Entry], float]
    """SegLST entries of reference and hypothesis, and the value that they have."""
    unit: Literal["share", "s", "speakers", "ratio", "cosine"] = "share"
    needs_times: bool = False
    """Whether every turn of both sides must have times."""
    needs_words: bool = True
    needs_audio: bool = False
    """Whether it is of generated recordings, and taken of nothing else."""
    is_on_request: bool = False
    """Whether it is taken only where it is named: of sessions that answer a question."""
    is_median: bool = False
    """Whether the value is the median of all sessions' values, instead of errors over base."""
    more_is_better: bool = False
    without_speakers: str | None = None
    """The measure that forgives wrong speakers; what it has fewer of errors is confusion."""


def word_counts(score: Any, *, is_greedy: bool = False) -> Counts:
    """Return the counts of one of meeteval's error rates."""
    kinds = {kind: float(getattr(score, kind)) for kind in ("insertions", "deletions", "substitutions")}
    return Counts(float(score.errors), float(score.length), kinds, is_greedy=is_greedy)


def one_sided(num_reference: int, num_hypothesis: int) -> Counts:
    """Return the counts where one side says nothing: all words of the other are deleted or inserted."""
    kinds = {"insertions": float(num_hypothesis), "deletions": float(num_reference), "substitutions": 0.0}
    return Counts(float(num_reference + num_hypothesis), float(num_reference), kinds)


def spoken(speaker: str, words: str, start_s: float | None = None, end_s: float | None = None) -> dict[str, Any]:
    """Return an entry of session `a`, for examples."""
    times = {} if start_s is None else {"start_time": start_s, "end_time": end_s}
    return {"session_id": "a", "speaker": speaker, "words": words, **times}
