"""DI-cpWER: each segment of the hypothesis assigned to the speaker that it fits best. By meeteval."""

from collections.abc import Mapping

from operators.scoring.measures.measure import Counts, Measure, one_sided, spoken, word_counts
from operators.scoring.measures.streams import (
    MEETEVAL_MAX_STREAMS,
    greedy_assignment,
    num_speakers,
    rates_of,
    seglst,
    with_words,
)
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, words_of


def dicpwer(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return the word errors of a hypothesis whose segments are given the right speakers, as far as they have one.

    ORC-WER with the sides exchanged; meeteval's search is greedy always.
    Source: von Neumann et al. 2024, "Word error rate definitions and algorithms for long-form multi-talker speech
    recognition", arXiv:2408.02112.
    """
    import meeteval

    if not words_of(session.reference) or not words_of(session.hypothesis):
        return one_sided(len(words_of(session.reference)), len(words_of(session.hypothesis)))
    segments, streams = session.hypothesis, session.reference
    if num_speakers(streams) <= MEETEVAL_MAX_STREAMS:
        search = meeteval.wer.wer.di_cp.greedy_di_cp_word_error_rate
        return word_counts(search(seglst(streams), seglst(segments), reference_sort=False, hypothesis_sort=False))
    segments, streams = tuple(with_words(segments)), tuple(with_words(streams))
    found = word_counts(rates_of(greedy_assignment(segments, streams, None), segments, streams, None))
    kinds: Mapping[str, float] = found.kinds or {}
    exchanged = {"insertions": kinds["deletions"], "deletions": kinds["insertions"]}
    return Counts(found.errors, float(len(words_of(streams))), {**exchanged, "substitutions": kinds["substitutions"]})


MEASURE = Measure(
    title="DI-cpWER",
    about="each hypothesis segment against the speaker that it fits best, its own speaker ignored (meeteval, greedy)",
    of_session=dicpwer,
    example=([spoken("x", "a b"), spoken("y", "c d")], [spoken("s", "a b"), spoken("s", "c")], 0.25),
)
