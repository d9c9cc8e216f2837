"""DER and JER by pyannote.metrics: who speaks when, whatever is said."""

from collections.abc import Callable, Sequence
from typing import Any

from operators.scoring.measures.measure import Counts, Measure, spoken
from operators.scoring.result import Conditions
from operators.scoring.sessions import Session, Turn, length_s

_EXAMPLE = ([spoken("x", "a", 0, 8), spoken("y", "b", 8, 10)], [spoken("s", "a b", 0, 10)])


def annotation(turns: Sequence[Turn]) -> Any:
    """Return the stretches longer than zero as pyannote's Annotation, overlapping ones of a speaker joined."""
    from pyannote.core import Annotation, Segment

    found = Annotation()
    for number, turn in enumerate(turns):
        if length_s(turn) > 0:
            found[Segment(turn.start_s, turn.end_s), number] = turn.speaker
    return found.support()


def regions_of(session: Session) -> Any:
    """Return where a session is scored, as pyannote's Timeline: its UEM, or from first start to last end."""
    from pyannote.core import Segment, Timeline

    if session.regions is not None:
        return Timeline([Segment(start_s, end_s) for start_s, end_s in session.regions]).support()
    turns = [turn for turn in (*session.reference, *session.hypothesis) if length_s(turn) > 0]
    starts, ends = [turn.start_s or 0.0 for turn in turns], [turn.end_s or 0.0 for turn in turns]
    return Timeline([Segment(min(starts), max(ends))] if turns else [])


def _sides(session: Session) -> tuple[Any, Any, Any]:
    def make() -> tuple[Any, Any, Any]:
        return annotation(session.reference), annotation(session.hypothesis), regions_of(session)

    sides: tuple[Any, Any, Any] = session.remember("annotations", make)
    return sides


def der(collar_s: float) -> Callable[[Session, Conditions], Counts]:
    """Return the diarization errors of a session in seconds, without `collar_s` seconds to each side of a border."""

    def of_session(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
        from pyannote.metrics.diarization import DiarizationErrorRate

        # pyannote's collar is the whole stretch that is left out, NIST's and everybody's that to one side.
        metric = DiarizationErrorRate(collar=2 * collar_s, skip_overlap=False)
        one, other, regions = _sides(session)
        found = metric.compute_components(one, other, uem=regions)
        kinds = {name: float(found[name]) for name in ("missed detection", "false alarm", "confusion")}
        kinds = {name.replace(" ", "_") + "_s": value for name, value in kinds.items()}
        return Counts(sum(kinds.values()), float(found["total"]), kinds, confusion=kinds["confusion_s"])

    return of_session


def jer(session: Session, conditions: Conditions) -> Counts:  # noqa: ARG001
    """Return the summed Jaccard errors of a session's reference speakers."""
    from pyannote.metrics.diarization import JaccardErrorRate

    one, other, regions = _sides(session)
    found = JaccardErrorRate(collar=0.0, skip_overlap=False).compute_components(one, other, uem=regions)
    return Counts(float(found["speaker error"]), float(found["speaker count"]))


DER_0 = Measure(
    title="DER",
    about="time that is missed, falsely alarmed or given to the wrong speaker, no collar, overlap scored (pyannote)",
    of_session=der(0.0),
    example=(*_EXAMPLE, 0.2),
    needs_times=True,
    needs_words=False,
)
DER_025 = Measure(
    title="DER, collar 0.25 s",
    about="DER without 0.25 s to each side of the reference's borders, overlap scored (pyannote)",
    of_session=der(0.25),
    example=(*_EXAMPLE, 1.5 / 9),
    needs_times=True,
    needs_words=False,
)
JER = Measure(
    title="JER",
    about="1 - Jaccard index of speakers, averaged over the reference's, no collar, overlap scored (pyannote)",
    of_session=jer,
    example=(*_EXAMPLE, (0.2 + 1) / 2),
    needs_times=True,
    needs_words=False,
)
