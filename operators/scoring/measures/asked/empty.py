"""How often an answer that must be empty is empty."""

from operators.scoring.measures.measure import Counts, Measure, spoken
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, words_of


def empty_accuracy(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return 1 where both sides have no words; nothing where the reference has some."""
    if words_of(session.reference):
        return Counts()
    return Counts(float(not words_of(session.hypothesis)), 1.0)


MEASURE = Measure(
    title="right empty answers",
    about="share of the sessions without words in the reference that have none in the hypothesis",
    of_session=empty_accuracy,
    example=([spoken("nobody", "")], [spoken("s0", "a")], 0.0),
    more_is_better=True,
    is_on_request=True,
)
