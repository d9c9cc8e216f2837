"""tcpWER: cpWER in which words match only where their times do, within a collar. By meeteval."""

from operators.scoring.measures.cpwer import cp_counts
from operators.scoring.measures.measure import Counts, Measure, spoken
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session


def tcpwer(session: Session, conditions: Conditions) -> Counts:
    """Return the word errors under the assignment of speakers with the fewest, matched by times.

    Words share the time of their turn by their numbers of letters, as meeteval's defaults have it.
    Source: von Neumann et al. 2023, "MeetEval", arXiv:2307.11394, section 3.2.
    """
    return cp_counts(session, conditions.collar_s)


MEASURE = Measure(
    title="tcpWER",
    about="cpWER, words matched only within the collar of their times (meeteval)",
    of_session=tcpwer,
    example=([spoken("x", "a", 0, 1), spoken("x", "b", 1, 2)], [spoken("s", "a", 0, 1), spoken("s", "b", 9, 10)], 1.0),
    needs_times=True,
    without_speakers="tcorcwer",
)
