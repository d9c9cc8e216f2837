"""How many speakers there are: the share of sessions that are right, and by how many the others are off."""

from operators.scoring.measures.measure import Counts, Measure, spoken
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, speakers_of

_EXAMPLE = ([spoken("x", "a"), spoken("y", "b"), spoken("z", "c")], [spoken("s", "a b c")])


def _difference(session: Session) -> int:
    return abs(len(speakers_of(session.reference)) - len(speakers_of(session.hypothesis)))


def accuracy(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return 1 where the numbers of speakers are the same."""
    return Counts(float(_difference(session) == 0), 1.0)


def error(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return by how many speakers the hypothesis is off."""
    return Counts(float(_difference(session)), 1.0)


ACCURACY = Measure(
    title="right number of speakers",
    about="share of sessions with as many speakers as the reference",
    of_session=accuracy,
    example=(*_EXAMPLE, 0.0),
    needs_words=False,
    more_is_better=True,
)
ERROR = Measure(
    title="error of number of speakers",
    about="mean absolute difference of the numbers of speakers",
    of_session=error,
    example=(*_EXAMPLE, 2.0),
    unit="speakers",
    needs_words=False,
)
