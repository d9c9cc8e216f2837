"""cpWER: the words of each speaker joined, speakers matched for the fewest errors. By meeteval."""

from operators.scoring.measures.measure import Counts, Measure, one_sided, spoken, word_counts
from operators.scoring.measures.streams import (
    MEETEVAL_MAX_SPEAKERS,
    by_speaker,
    cp_assignment,
    num_speakers,
    seglst,
    siso,
    summed,
)
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, words_of


def cp_counts(session: Session, collar_s: float | None) -> Counts:
    """Return the word errors under the assignment of speakers with the fewest, by times where a collar is given."""
    import meeteval
    from meeteval.wer.wer.time_constrained import tcp_word_error_rate

    one, other = by_speaker(session.reference), by_speaker(session.hypothesis)
    if not one or not other:
        return one_sided(len(words_of(session.reference)), len(words_of(session.hypothesis)))
    if max(num_speakers(session.reference), num_speakers(session.hypothesis)) > MEETEVAL_MAX_SPEAKERS:
        pairs = cp_assignment(session, collar_s)
        return word_counts(summed([siso(one.get(a or "", []), other.get(b or "", []), collar_s) for a, b in pairs]))
    sides = [seglst(side) for side in (session.reference, session.hypothesis)]
    if collar_s is None:
        score = meeteval.wer.cp_word_error_rate(*sides, reference_sort=False, hypothesis_sort=False)
    else:
        score = tcp_word_error_rate(*sides, collar=collar_s)
    session.remember(("assignment", collar_s), lambda: score.assignment)
    return word_counts(score)


def cpwer(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return the word errors under the assignment of speakers with the fewest."""
    return cp_counts(session, None)


MEASURE = Measure(
    title="cpWER",
    about="words of each speaker in order of turn starts, speakers assigned for the fewest errors (meeteval)",
    of_session=cpwer,
    example=([spoken("x", "a b"), spoken("y", "c d")], [spoken("s0", "c d"), spoken("s1", "a")], 0.25),
    without_speakers="orcwer",
)
