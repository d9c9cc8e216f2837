"""WER: all words of a session against all words, whoever said them. By meeteval."""

from operators.scoring.measures.measure import Counts, Measure, one_sided, spoken, word_counts
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, words_of


def wer(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return the word errors between both sides' words in order of turn starts; overlapping turns stand whole."""
    import meeteval

    one, other = words_of(session.reference), words_of(session.hypothesis)
    if not one or not other:
        return one_sided(len(one), len(other))
    return word_counts(meeteval.wer.siso_word_error_rate(" ".join(one), " ".join(other)))


MEASURE = Measure(
    title="WER",
    about="words of a session in order of turn starts, speakers ignored (meeteval)",
    of_session=wer,
    example=([spoken("x", "a b"), spoken("y", "c d")], [spoken("s0", "a b c e")], 0.25),
)
