"""B-WER and U-WER: word errors of listed hotwords, and of all other words."""

from collections.abc import Callable

from operators.corpus.normalizers import find_normalizer
from operators.scoring.measures.measure import Counts, Measure, spoken
from operators.scoring.measures.streams import by_speaker, cp_assignment
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, words_of


def _listed(session: Session, conditions: Conditions) -> set[str]:
    """Return the words of the session's list (column `hotwords`), normalized as what is scored."""
    normalize = find_normalizer(conditions.normalizer)[1].normalize
    return set(normalize(str(session.columns.get("hotwords", ""))).split())


def word_errors(*, are_listed: bool) -> Callable[[Session, Conditions], Counts]:
    """Return what counts the errors of words that are listed, or of those that are not.

    Speakers are assigned as for cpWER. A replaced or missing word counts where the word of the
    reference belongs, an added one where it belongs itself.

    Source: Le et al. 2021, "Contextualized streaming end-to-end speech recognition with trie-based deep biasing and
    shallow fusion", arXiv:2104.02194 (B-WER and U-WER).
    """

    def of_session(session: Session, conditions: Conditions) -> Counts:
        from rapidfuzz.distance import Levenshtein

        listed = _listed(session, conditions)
        one, other = by_speaker(session.reference), by_speaker(session.hypothesis)
        kinds = {"insertions": 0.0, "deletions": 0.0, "substitutions": 0.0}
        base = 0
        for a, b in cp_assignment(session, None):
            ours, theirs = words_of(one.get(a or "", [])), words_of(other.get(b or "", []))
            base += sum((word in listed) == are_listed for word in ours)
            for step in Levenshtein.editops(ours, theirs):
                word = theirs[step.dest_pos] if step.tag == "insert" else ours[step.src_pos]
                if (word in listed) == are_listed:
                    name = {"insert": "insertions", "delete": "deletions", "replace": "substitutions"}[step.tag]
                    kinds[name] += 1.0
        return Counts(sum(kinds.values()), float(base), kinds)

    return of_session


_EXAMPLE = (
    [{**spoken("x", "call oslo now please"), "hotwords": "oslo now bergen"}],
    [spoken("s0", "call bergen us low please")],
)

BIASED = Measure(
    title="B-WER",
    about="words of the list of hotwords alone, speakers assigned as for cpWER",
    of_session=word_errors(are_listed=True),
    example=(*_EXAMPLE, 1.5),
    is_on_request=True,
)
UNBIASED = Measure(
    title="U-WER",
    about="words that are not in the list of hotwords, speakers assigned as for cpWER",
    of_session=word_errors(are_listed=False),
    example=(*_EXAMPLE, 0.0),
    is_on_request=True,
)
