"""tcORC-WER: ORC-WER in which words match only where their times do, within a collar. By meeteval."""

from operators.scoring.measures.measure import Counts, Measure, spoken
from operators.scoring.measures.orcwer import orc_counts
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session


def tcorcwer(session: Session, conditions: Conditions) -> Counts:
    """Return the word errors of a hypothesis whose speakers are forgiven, words matched by times."""
    return orc_counts(session.reference, session.hypothesis, conditions.collar_s)


MEASURE = Measure(
    title="tcORC-WER",
    about="ORC-WER, words matched only within the collar of their times (meeteval; greedy as ORC-WER)",
    of_session=tcorcwer,
    example=([spoken("x", "a", 0, 1), spoken("y", "b", 1, 2)], [spoken("s", "a", 0, 1), spoken("s", "b", 9, 10)], 1.0),
    needs_times=True,
)
