"""Who speaks when in generated dialogues against a reference's times: the simulator's scorecard, with intervals.

The figures are those of `operators.simulate.realism`; intervals resample what all scores resample.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.corpus.segments import Segment
from operators.scoring.bootstrap import Units, interval, per_recording, ratio_draws, units_of
from operators.scoring.result import Conditions, Figure
from operators.scoring.sessions import Session
from operators.simulate.realism import MEASURES, scorecard, values_of
from operators.simulate.turn_taking import TurnAnalysis, analyze_turns, shares

Floats = NDArray[np.float64]
Timings = Mapping[str, Sequence[Segment]]
"""Who speaks when, by session."""

SHARES: Mapping[str, tuple[str, str, str]] = {
    "silence_share": ("silence", "total_s", "time without speech"),
    "overlap_share": ("overlap", "speech_s", "speech of two or more"),
    "three_speaker_share": ("three", "speech_s", "speech of three or more"),
}
"""Of each share: its name in `shares`, what it is a share of, and its title."""


def timings_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Segment]]:
    """Return who speaks when in each session of SegLST entries; those without times or length are left out."""
    found: dict[str, list[Segment]] = {}
    for entry in entries:
        start_s, end_s = entry.get("start_time"), entry.get("end_time")
        if start_s is not None and end_s is not None and end_s > start_s:
            found.setdefault(entry["session_id"], []).append(Segment(start_s, end_s, entry["speaker"]))
    return found


def timing_scores(
    made: Timings, wanted: Timings, sessions: Sequence[Session], conditions: Conditions
) -> tuple[tuple[Figure, ...], dict[str, str], dict[str, Any]]:
    """Compare the timing of generated dialogues with wanted ones.

    Args:
        made: of generated recordings.
        wanted: of the reference.
        sessions: of all recordings; those that are in `made` are resampled.
        conditions: units, seed and draws of the bootstrap.

    Returns:
        Figures; why a measure is left out, by its name; and the whole scorecard, as JSON takes it.
    """
    own = [session for session in sessions if made.get(session.session_id)]
    talks = [analyze_turns(session.session_id, made[session.session_id]) for session in own]
    real = [analyze_turns(name, segments) for name, segments in sorted(wanted.items()) if segments]
    units = units_of(own, conditions.units)
    drawn = units.draws(conditions.seed, conditions.draws)
    place = {name: number for number, name in enumerate(units.recordings)}
    rows = np.array([place[session.recording_id] for session in own])
    figures: list[Figure] = []
    left_out: dict[str, str] = {}
    for measure in MEASURES:
        groups = [np.asarray(values_of(measure, talk), np.float64) for talk in talks]
        theirs = np.array([value for talk in real for value in values_of(measure, talk)], np.float64)
        ours = np.concatenate([np.zeros(0), *groups])
        if not len(ours) or not len(theirs):
            side = "generated recordings" if not len(ours) else "reference"
            left_out |= dict.fromkeys((f"{measure}_ks", f"{measure}_w1"), f"there is no {measure} in the {side}")
            continue
        of_recording = np.repeat(rows, [len(group) for group in groups])
        figures += _distances(measure, ours, theirs, of_recording, np.maximum(units.weights(drawn), 0.0), units)
    for name, (share, of, title) in SHARES.items():
        parts, others = ([shares(talk) for talk in side] for side in (talks, real))
        sums = [per_recording(units, own, [part[share] * part[of] for part in parts])]
        sums.append(per_recording(units, own, [part[of] for part in parts]))
        bounds = interval(ratio_draws(units, drawn, *sums), units)
        there = sum(part[share] * part[of] for part in others) / sum(part[of] for part in others)
        figures.append(
            Figure(
                measure=name,
                title=title,
                unit="share",
                value=float(sums[0].sum() / sums[1].sum()),
                low=bounds[0] if bounds else None,
                high=min(1.0, bounds[1]) if bounds else None,
                base=float(sums[1].sum()),
                counts={"errors": float(sums[0].sum())},
                confusion=None,
                num_sessions=len(own),
                note=f"wanted {there:.1%}",
            )
        )
    return tuple(figures), left_out, _card(talks, real)


def _distances(
    measure: str, ours: Floats, theirs: Floats, of_recording: NDArray[np.int64], weights: Floats, units: Units
) -> list[Figure]:
    """Return the Kolmogorov-Smirnov and Wasserstein-1 distances of values (N,) to others (M,).

    Args:
        measure: what the values are of.
        ours: values of the generated recordings, in seconds.
        theirs: values of the reference, in seconds.
        of_recording: the recording (N,) that each of ours is from.
        weights: how much recordings count in each draw (B, R).
        units: what is drawn.
    """
    points = np.union1d(ours, theirs)
    below = np.searchsorted(np.sort(theirs), points, side="right") / len(theirs)
    at = np.searchsorted(points, ours)

    def distances(weight: Floats) -> tuple[float, float]:
        own = np.bincount(at, weights=weight, minlength=len(points)).cumsum()
        apart = np.abs(own / own[-1] - below) if own[-1] > 0 else np.ones(len(points))
        return float(apart.max()), float((apart[:-1] * np.diff(points)).sum())

    values = distances(np.ones(len(ours)))
    draws = np.array([distances(weight[of_recording]) for weight in weights])
    medians = f"median {np.median(ours):.2f} s, wanted {np.median(theirs):.2f} s"
    found = []
    for place, (name, title, unit, highest) in enumerate(
        (("ks", "KS", "distance", 1.0), ("w1", "Wasserstein", "s", math.inf))
    ):
        bounds = interval(draws[:, place], units)
        found.append(
            Figure(
                measure=f"{measure}_{name}",
                title=f"{measure}, {title}",
                unit=unit,
                value=values[place],
                low=bounds[0] if bounds else None,
                high=min(highest, bounds[1]) if bounds else None,
                base=float(len(ours)),
                counts={},
                confusion=None,
                num_sessions=len(np.unique(of_recording)),
                note=medians,
            )
        )
    return found


def _card(talks: Sequence[TurnAnalysis], real: Sequence[TurnAnalysis]) -> dict[str, Any]:
    """Return the simulator's scorecard; what cannot be computed of so few conversations is None."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: dict[str, Any] = _finite(scorecard(talks, real))
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
