"""CER: all characters of a session against all characters, whoever said them. By RapidFuzz."""

from operators.scoring.measures.measure import Counts, Measure, one_sided, spoken
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, words_of


def cer(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return the errors between characters: Unicode code points of both sides' words, joined by single spaces.

    Spaces count as characters, as meeteval's `siso_character_error_rate` and jiwer have it; words are those of WER.
    """
    from rapidfuzz.distance import Levenshtein

    one, other = (" ".join(words_of(side)) for side in (session.reference, session.hypothesis))
    if not one or not other:
        return one_sided(len(one), len(other))
    kinds = {"insertions": 0.0, "deletions": 0.0, "substitutions": 0.0}
    names = {"insert": "insertions", "delete": "deletions", "replace": "substitutions"}
    for step in Levenshtein.editops(one, other):
        kinds[names[step.tag]] += 1.0
    return Counts(sum(kinds.values()), float(len(one)), kinds)


MEASURE = Measure(
    title="CER",
    about="characters of a session in order of turn starts, spaces between words counted, speakers ignored (RapidFuzz)",
    of_session=cer,
    example=([spoken("x", "ab"), spoken("y", "cd")], [spoken("s0", "ab cx")], 0.2),
)
