"""A session's words aligned, as data: what was heard, missed, added and replaced, and whose words they are."""

from collections.abc import Sequence
from typing import Any

from operators.scoring.measures.streams import by_speaker, cp_assignment
from operators.scoring.measures.time_error import aligned_words, timed_words
from operators.scoring.result import AlignedSession, AlignedWord, Conditions
from operators.scoring.sessions import Session, is_timed, words_of

Word = dict[str, Any]


def aligned_session(session: Session, conditions: Conditions) -> AlignedSession:
    """Return a session's words under the assignment of speakers with the fewest errors, in order of the reference.

    Where both sides have times, words match within the collar, as for tcpWER; else whatever their times, as for cpWER.
    """
    timed = is_timed(session.reference) and is_timed(session.hypothesis)
    pairs = aligned_words(session, conditions.collar_s) if timed else _untimed(session)
    words = [_word(one, other, timed=timed) for one, other in pairs]
    if timed:
        words = sorted(words, key=lambda word: word.start_s or 0.0)
    return AlignedSession(
        session_id=session.session_id,
        errors=sum(word.kind != "equal" for word in words),
        reference_words=len(words_of(session.reference)),
        words=tuple(words),
    )


def _untimed(session: Session) -> list[tuple[Word | None, Word | None]]:
    from rapidfuzz.distance import Levenshtein

    one, other = by_speaker(session.reference), by_speaker(session.hypothesis)
    found: list[tuple[Word | None, Word | None]] = []
    for a, b in cp_assignment(session, None):
        ours, theirs = timed_words(one.get(a or "", [])), timed_words(other.get(b or "", []))
        for step in Levenshtein.opcodes([word["words"] for word in ours], [word["words"] for word in theirs]):
            found += _pairs(ours[step.src_start : step.src_end], theirs[step.dest_start : step.dest_end])
    return found


def _pairs(ours: Sequence[Word], theirs: Sequence[Word]) -> list[tuple[Word | None, Word | None]]:
    """Return both sides of a step, side by side; one is empty where words are missed or added."""
    number = max(len(ours), len(theirs))
    sides = ([*side, *[None] * (number - len(side))] for side in (ours, theirs))
    return list(zip(*sides, strict=True))


def _word(one: Word | None, other: Word | None, *, timed: bool) -> AlignedWord:
    if one is None:
        kind = "ins"
    elif other is None:
        kind = "del"
    else:
        kind = "equal" if one["words"] == other["words"] else "sub"
    start_s = (one or other or {})["start_time"]
    return AlignedWord(
        kind=kind,
        reference=one["words"] if one else None,
        hypothesis=other["words"] if other else None,
        speaker=one["speaker"] if one else None,
        hypothesis_speaker=other["speaker"] if other else None,
        start_s=round(start_s, 3) if timed else None,
    )
