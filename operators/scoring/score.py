"""Scores a hypothesis against a reference: every measure, its interval, slices and the worst sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from operators.corpus.normalizers import find_normalizer
from operators.errors import InputError
from operators.scoring.bootstrap import Units, interval, median_draws, per_recording, ratio_draws, units_of
from operators.scoring.measures import MEASURES
from operators.scoring.measures.measure import Counts, Measure
from operators.scoring.measures.streams import quiet
from operators.scoring.result import Conditions, Figure, Scores
from operators.scoring.sessions import Regions, Session, is_timed, make_sessions, reference_digest
from operators.scoring.slices import slices_of
from operators.scoring.worst import aligned_session

Entries = Sequence[Mapping[str, Any]]
Columns = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Measured:
    """Sessions of one hypothesis, and what each measure found in each of them."""

    conditions: Conditions
    sessions: Sequence[Session]
    counts: Mapping[str, Sequence[Counts]]
    left_out: Mapping[str, str]

    def select(self, places: Sequence[int]) -> "Measured":
        """Return the sessions at some places."""
        counts = {name: [found[place] for place in places] for name, found in self.counts.items()}
        return replace(self, sessions=[self.sessions[place] for place in places], counts=counts)


def measure(
    reference: Entries,
    hypothesis: Entries,
    conditions: Conditions | None = None,
    regions: Regions | None = None,
    columns: Columns | None = None,
) -> Measured:
    """Take every measure of every session.

    Args:
        reference: SegLST entries: session_id, speaker, words, start_time and end_time in seconds, which may be absent,
            and any further keys, which become columns.
        hypothesis: the same of the system.
        conditions: normalizer, collar, seed and measures.
        regions: where DER and JER are scored, by session.
        columns: more columns of sessions.

    Raises:
        InputError: an entry is malformed, sides have no session in common, a session has no region, or a normalizer or
            measure is unknown.
    """
    conditions = conditions or Conditions()
    name, normalizer = find_normalizer(conditions.normalizer)
    names = conditions.measures or tuple(
        name for name, one in MEASURES.items() if not (one.needs_audio or one.is_on_request)
    )
    if unknown := [one for one in names if one not in MEASURES]:
        raise InputError(f"there is no measure {unknown[0]}; choose from {', '.join(MEASURES)}")
    if not np.isfinite(conditions.collar_s) or conditions.collar_s < 0:
        raise InputError(f"collar_s {conditions.collar_s} is no number of seconds from 0")
    sessions = make_sessions(reference, hypothesis, normalizer.normalize, regions, columns)
    if not sessions:
        raise InputError("there is nothing to score: reference and hypothesis are empty")
    left_out = {
        **_without_words(reference, hypothesis, names),
        **_without_times(sessions, names),
        **_without_audio(sessions, names),
    }
    conditions = replace(
        conditions,
        normalizer=name,
        normalizer_version=normalizer.version(),
        uem=None if regions is None else reference_digest([replace(s, reference=()) for s in sessions]),
        measures=tuple(names),
    )
    with quiet():
        counts = {
            one: [MEASURES[one].of_session(session, conditions) for session in sessions]
            for one in names
            if one not in left_out
        }
    return Measured(conditions, sessions, counts, left_out)


def _without_words(reference: Entries, hypothesis: Entries, names: Sequence[str]) -> dict[str, str]:
    """Return why measures that need words are left out, if a side comes from a format that has none."""
    for side, entries in (("hypothesis", hypothesis), ("reference", reference)):
        if entries and not any("words" in entry for entry in entries):
            return {name: f"the {side} has no words" for name in names if MEASURES[name].needs_words}
    return {}


def _without_times(sessions: Sequence[Session], names: Sequence[str]) -> dict[str, str]:
    """Return why measures that need times are left out, if a side has turns without."""
    for side in ("hypothesis", "reference"):
        untimed = [session.session_id for session in sessions if not is_timed(getattr(session, side))]
        if untimed:
            reason = f"the {side} has turns without times in {len(untimed)} of {len(sessions)} sessions: {untimed[0]}"
            return {name: reason for name in names if MEASURES[name].needs_times}
    return {}


def _without_audio(sessions: Sequence[Session], names: Sequence[str]) -> dict[str, str]:
    """Return why measures of generated recordings are left out, if the hypothesis is of none."""
    if any(session.sound is not None for session in sessions):
        return {}
    reason = "the hypothesis has no recordings; give them with --audio"
    return {name: reason for name in names if MEASURES[name].needs_audio}


def value_of(one: Measure, counts: Sequence[Counts]) -> float | None:
    """Return a measure's value over sessions; None where there is nothing to divide by."""
    if one.is_median:
        values = [value for found in counts for value in found.values]
        return float(np.median(values)) if values else None
    base = sum(found.base for found in counts)
    return sum(found.errors for found in counts) / base if base else None


def figures_of(measured: Measured, units: Units) -> tuple[Figure, ...]:
    """Return the figure of each measure over all sessions."""
    conditions = measured.conditions
    drawn = units.draws(conditions.seed, conditions.draws)
    found = []
    for name, counts in measured.counts.items():
        one = MEASURES[name]
        value = value_of(one, counts)
        bounds = None
        if value is not None and one.is_median:
            values = [own.values for own in counts]
            bounds = interval(median_draws(units, drawn, values, measured.sessions), units)
        elif value is not None:
            sums = (
                per_recording(units, measured.sessions, [getattr(own, side) for own in counts])
                for side in ("errors", "base")
            )
            lowest = -1.0 if one.unit == "cosine" else 0.0
            bounds = interval(ratio_draws(units, drawn, *sums), units, lowest)
        if bounds and one.more_is_better and one.unit in ("share", "cosine"):
            bounds = (bounds[0], min(1.0, bounds[1]))  # no draw can be above it, but its expanded interval can
        greedy = sum(own.is_greedy for own in counts)
        base = sum(own.base for own in counts)
        found.append(
            Figure(
                measure=name,
                title=one.title,
                unit=one.unit,
                value=value,
                low=bounds[0] if bounds else None,
                high=bounds[1] if bounds else None,
                base=base,
                counts=_summed(counts),
                confusion=_confusion(one, counts, measured.counts, base),
                num_sessions=len(counts),
                note=f"greedy assignment in {greedy} of {len(counts)} sessions" if greedy else None,
            )
        )
    return tuple(found)


def _summed(counts: Sequence[Counts]) -> dict[str, float]:
    sums = {"errors": sum(found.errors for found in counts)}
    for found in counts:
        for kind, number in (found.kinds or {}).items():
            sums[kind] = sums.get(kind, 0.0) + number
    return sums


def _confusion(
    one: Measure, counts: Sequence[Counts], others: Mapping[str, Sequence[Counts]], base: float
) -> float | None:
    """Return the share of the base that is wrong by its speaker alone."""
    if not base:
        return None
    if one.without_speakers in others:
        forgiven = others[one.without_speakers or ""]
        return sum(own.errors - other.errors for own, other in zip(counts, forgiven, strict=True)) / base
    if all(own.confusion is not None for own in counts):
        return sum(own.confusion or 0.0 for own in counts) / base
    return None


def score(
    reference: Entries,
    hypothesis: Entries,
    conditions: Conditions | None = None,
    *,
    regions: Regions | None = None,
    columns: Columns | None = None,
    by: Sequence[str] = (),
    num_worst: int = 20,
) -> Scores:
    """Return all scores of a hypothesis; see `measure` for what it takes and raises.

    Args:
        reference: SegLST entries.
        hypothesis: SegLST entries.
        conditions: normalizer, collar, seed and measures.
        regions: where DER and JER are scored, by session.
        columns: more columns of sessions.
        by: columns to slice by.
        num_worst: how many of the sessions with the most word errors are aligned.
    """
    return scores_of(measure(reference, hypothesis, conditions, regions, columns), by, num_worst)


def scores_of(measured: Measured, by: Sequence[str] = (), num_worst: int = 20) -> Scores:
    """Return all scores of what was measured.

    Raises:
        InputError: there is no such column to slice by.
    """
    sessions, conditions = measured.sessions, measured.conditions
    units = units_of(sessions, conditions.units)
    slices: dict[str, dict[str, tuple[Figure, ...]]] = {}
    for column in by:
        slices[column] = {}
        for label, places in slices_of(column, sessions).items():
            part = measured.select(places)
            slices[column][label] = figures_of(part, units_of(part.sessions, settled_units(conditions, units)))
    with quiet():
        worst = tuple(aligned_session(_by_one(sessions[place]), conditions) for place in _worst(measured, num_worst))
    return Scores(
        conditions=conditions,
        resampled=units.about,
        reference_digest=reference_digest(sessions),
        num_sessions=len(sessions),
        num_recordings=len(units.recordings),
        only_in_reference=sum(not session.hypothesis for session in sessions if session.reference),
        only_in_hypothesis=sum(not session.reference for session in sessions if session.hypothesis),
        figures=figures_of(measured, units),
        left_out=measured.left_out,
        slices=slices,
        worst=worst,
        sessions=[_row(measured, place) for place in range(len(sessions))],
    )


def settled_units(conditions: Conditions, units: Units) -> str:
    """Return what slices are resampled by: what the whole is, for a slice says less about names."""
    is_of_speakers = "speakers, in" in units.about or "share no speaker" in units.about
    return "speakers" if is_of_speakers and conditions.units != "recordings" else "recordings"


def _worst(measured: Measured, number: int) -> list[int]:
    """Return the places of the sessions with the most word errors, by cpWER where it was taken."""
    name = next((one for one in ("cpwer", "wer", *measured.counts) if one in measured.counts), None)
    if name is None:
        return []
    counts = measured.counts[name]
    order = sorted(range(len(counts)), key=lambda i: (-counts[i].errors, measured.sessions[i].session_id))
    return [place for place in order if counts[place].errors > 0][:number]


def _by_one(session: Session) -> Session:
    """Return a session of a generated recording with one speaker: all that is heard there has one name."""
    if session.sound is None:
        return session
    return replace(session, reference=tuple(replace(turn, speaker="wanted") for turn in session.reference), memory={})


def _row(measured: Measured, place: int) -> dict[str, Any]:
    session = measured.sessions[place]
    figures = {name: value_of(MEASURES[name], [found[place]]) for name, found in measured.counts.items()}
    return {"session_id": session.session_id, "recording_id": session.recording_id, **session.columns, **figures}
