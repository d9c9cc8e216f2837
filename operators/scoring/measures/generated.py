"""Measures of generated recordings: likeness to the wanted voice, and length against the wanted one.

What was measured of a recording stands in its entries: `audio_s` and `similarity` (`operators.scoring.sessions.Sound`).
"""

from collections.abc import Callable
from typing import Literal

from operators.scoring.measures.measure import Counts, Entry, Measure, spoken
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session

_EXAMPLE: tuple[list[Entry], list[Entry]] = (
    [spoken("x", "a", 1.0, 5.0)],
    [{**spoken("generated", "a"), "audio_s": 5.0, "similarity": 0.75}],
)


def speaker_similarity(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return the cosine of a recording and the wanted voice."""
    if session.sound is None or session.sound.similarity is None:
        return Counts()
    return Counts(session.sound.similarity, 1.0)


def duration_error(*, is_share: bool) -> Callable[[Session, Conditions], Counts]:
    """Return what finds by how many seconds a recording is too long or too short.

    Args:
        is_share: whether errors are divided by the wanted length, instead of by the number of recordings.
    """

    def of_session(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
        if session.sound is None or session.sound.wanted_s is None:
            return Counts()
        wanted_s = session.sound.wanted_s
        longer_s = session.sound.length_s - wanted_s
        kinds = {"longer_s": max(0.0, longer_s), "shorter_s": max(0.0, -longer_s)}
        return Counts(abs(longer_s), wanted_s if is_share else 1.0, kinds)

    return of_session


def duration_ratio(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return the length of a recording and the wanted one, in seconds."""
    if session.sound is None or session.sound.wanted_s is None:
        return Counts()
    return Counts(session.sound.length_s, session.sound.wanted_s)


def _measure(
    title: str,
    about: str,
    of_session: Callable[[Session, Conditions], Counts],
    value: float,
    unit: Literal["share", "s", "ratio", "cosine"],
    *,
    more_is_better: bool = False,
) -> Measure:
    return Measure(
        title,
        about,
        of_session,
        (*_EXAMPLE, value),
        unit=unit,
        needs_words=False,
        needs_audio=True,
        more_is_better=more_is_better,
    )


_OFF = "difference of a recording's length from the wanted one"
SIMILARITY = _measure(
    "speaker similarity",
    "cosine of embeddings of a recording and of the wanted voice, averaged over recordings of one voice",
    speaker_similarity,
    0.75,
    "cosine",
    more_is_better=True,
)
DURATION_ERROR = _measure("duration error", f"mean absolute {_OFF}", duration_error(is_share=False), 1.0, "s")
DURATION_SHARE = _measure(
    "duration error, relative",
    f"absolute {_OFF}, summed over recordings and divided by all wanted seconds",
    duration_error(is_share=True),
    0.25,
    "share",
)
DURATION_RATIO = _measure(
    "duration ratio", "seconds of all recordings divided by the wanted ones", duration_ratio, 1.25, "ratio"
)
