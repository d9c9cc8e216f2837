"""ORC-WER: each utterance of the reference assigned to the output stream that it fits best. By meeteval."""

from collections.abc import Sequence

from operators.scoring.measures.measure import Counts, Measure, one_sided, spoken, word_counts
from operators.scoring.measures.streams import (
    MEETEVAL_MAX_STREAMS,
    greedy_assignment,
    is_exact,
    num_speakers,
    rates_of,
    seglst,
    with_words,
)
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, Turn, words_of


def orc_counts(segments: Sequence[Turn], streams: Sequence[Turn], collar_s: float | None) -> Counts:
    """Return the word errors of streams against utterances, each assigned to one stream.

    The assignment is optimal where `is_exact` allows it, else meeteval's greedy one, which can have more errors.
    """
    import meeteval
    from meeteval.wer.wer import time_constrained_orc as timed

    if not words_of(segments) or not words_of(streams):
        return one_sided(len(words_of(segments)), len(words_of(streams)))
    is_greedy = not is_exact(segments, streams)
    if is_greedy and (collar_s is not None or num_speakers(streams) > MEETEVAL_MAX_STREAMS):
        segments, streams = with_words(segments), with_words(streams)
        assigned = greedy_assignment(segments, streams, collar_s)
        return word_counts(rates_of(assigned, segments, streams, collar_s), is_greedy=True)
    sides = seglst(segments), seglst(streams)
    if collar_s is None:
        search = meeteval.wer.wer.orc.greedy_orc_word_error_rate if is_greedy else meeteval.wer.orc_word_error_rate
        return word_counts(search(*sides, reference_sort=False, hypothesis_sort=False), is_greedy=is_greedy)
    return word_counts(timed.time_constrained_orc_wer(*sides, collar=collar_s))


def orcwer(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return the word errors of a hypothesis whose speakers are forgiven.

    Source: Sklyar et al. 2022, "Multi-turn RNN-T for streaming recognition of multi-party speech", section 3.3.
    """
    return orc_counts(session.reference, session.hypothesis, None)


MEASURE = Measure(
    title="ORC-WER",
    about="each reference turn against the stream that it fits best, speakers forgiven (meeteval; greedy above "
    "10 streams or 20 million cells)",
    of_session=orcwer,
    example=([spoken("x", "a b"), spoken("y", "c d")], [spoken("s0", "a b c e")], 0.25),
)
