"""Compares two systems on the same sessions: paired bootstrap and paired permutation test, over the same units."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from operators.errors import InputError
from operators.scoring.bootstrap import (
    Units,
    interval,
    median_draws,
    per_recording,
    ratio_draws,
    sign_flip_p,
    units_of,
)
from operators.scoring.measures import MEASURES
from operators.scoring.result import Comparison, Conditions, Difference
from operators.scoring.score import Columns, Entries, Measured, measure, settled_units, value_of
from operators.scoring.sessions import Regions, reference_digest
from operators.scoring.slices import slices_of


def compare(
    reference: Entries,
    a: Entries,
    b: Entries,
    conditions: Conditions | None = None,
    *,
    regions: Regions | None = None,
    columns: Columns | None = None,
    by: Sequence[str] = (),
) -> Comparison:
    """Return how two hypotheses of the same reference differ; see `measure` for what it takes and raises.

    A session that one system lacks counts as deleted for it. Without regions, DER and JER are scored from the first
    start to the last end of reference and system, which can differ between systems; the reference's time does not.
    """
    sides = [measure(reference, hypothesis, conditions, regions, columns) for hypothesis in (a, b)]
    named = sorted({session.session_id for side in sides for session in side.sessions})
    # Sessions that only one system invented are sessions of both.
    empty = [{"session_id": name, "speaker": "", "words": ""} for name in named]
    if any(len(side.sessions) < len(named) for side in sides):
        present = {entry["session_id"] for entry in reference}
        added = [entry for entry in empty if entry["session_id"] not in present]
        sides = [measure([*reference, *_timed(added)], side, conditions, regions, columns) for side in (a, b)]
    return compare_measured(sides[0], sides[1], by)


def _timed(entries: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
    return [{**entry, "start_time": 0.0, "end_time": 0.0} for entry in entries]


def compare_measured(a: Measured, b: Measured, by: Sequence[str] = ()) -> Comparison:
    """Return how two systems differ in what was measured of them.

    Raises:
        InputError: they were measured against different references, or under different conditions.
    """
    digests = [reference_digest(side.sessions) for side in (a, b)]
    if digests[0] != digests[1]:
        raise InputError("the two systems were scored against different references; score both against the same one")
    for name in ("normalizer", "normalizer_version", "collar_s", "reference_policy", "uem"):
        one, other = getattr(a.conditions, name), getattr(b.conditions, name)
        if one != other:
            raise InputError(f"the two systems were scored with different {name}: {one} and {other}; use the same")
    units = units_of(a.sessions, a.conditions.units)
    slices: dict[str, dict[str, tuple[Difference, ...]]] = {}
    for column in by:
        slices[column] = {}
        for label, places in slices_of(column, a.sessions).items():
            part = a.select(places)
            own = units_of(part.sessions, settled_units(a.conditions, units))
            slices[column][label] = _differences(part, b.select(places), own)
    return Comparison(
        conditions=replace(a.conditions, measures=tuple(name for name in a.counts if name in b.counts)),
        resampled=units.about,
        reference_digest=digests[0],
        num_sessions=len(a.sessions),
        differences=_differences(a, b, units),
        left_out={**a.left_out, **b.left_out},
        slices=slices,
    )


def _differences(a: Measured, b: Measured, units: Units) -> tuple[Difference, ...]:
    return tuple(_difference(name, a, b, units) for name in a.counts if name in b.counts)


def _difference(name: str, a: Measured, b: Measured, units: Units) -> Difference:
    """Return a measure of both systems, their difference, its interval and its p."""
    one, conditions = MEASURES[name], a.conditions
    values = [value_of(one, side.counts[name]) for side in (a, b)]
    difference = low = high = p = None
    if values[0] is not None and values[1] is not None:
        difference = values[0] - values[1]
        drawn = units.draws(conditions.seed, conditions.draws)
        if one.is_median:
            draws = [
                median_draws(units, drawn, [found.values for found in side.counts[name]], side.sessions)
                for side in (a, b)
            ]
        else:
            sums = [
                [
                    per_recording(units, side.sessions, [getattr(found, part) for found in side.counts[name]])
                    for part in ("errors", "base")
                ]
                for side in (a, b)
            ]
            draws = [ratio_draws(units, drawn, *own) for own in sums]
            parts = [errors / base.sum() for errors, base in sums]
            p = sign_flip_p(units, parts[0] - parts[1], conditions.seed)
        bounds = interval(draws[0] - draws[1], units, lowest=None)
        low, high = bounds or (None, None)
    return Difference(
        measure=name,
        title=one.title,
        unit=one.unit,
        a=values[0],
        b=values[1],
        difference=difference,
        low=low,
        high=high,
        p=p,
    )
