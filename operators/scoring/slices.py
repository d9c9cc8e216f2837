"""Slices: sessions by a column, numbers in ranges."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from operators.errors import InputError
from operators.scoring.sessions import Session

EDGES = {
    "overlap": (0.0, 0.1, 0.2, 0.4),
    "turn_length_s": (0.0, 1.0, 2.0, 4.0, 8.0),
    "gap_s": (-1.0, 0.0, 0.5, 1.0, 2.0),
    "snr_db": (0.0, 5.0, 10.0, 15.0, 20.0),
    "t60_s": (0.2, 0.4, 0.6, 0.8),
    "distance_m": (0.5, 1.0, 2.0, 4.0),
}
"""Ranges of columns whose values have a meaning of their own; others are cut at their quartiles."""

_FEW_VALUES = 8
UNKNOWN = "unknown"


def slices_of(column: str, sessions: Sequence[Session]) -> dict[str, list[int]]:
    """Return the places of sessions by a column's value, in order; sessions without one are `unknown`.

    Numbers with more than eight values are put in ranges: those of `EDGES`, or between quartiles.

    Raises:
        InputError: no session has the column.
    """
    values = [session.columns.get(column) for session in sessions]
    known = [value for value in values if value is not None]
    if not known:
        names = sorted({name for session in sessions for name in session.columns})
        raise InputError(f"no session has a column {column} to slice by; there are {', '.join(names) or 'none'}")
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    edges: Sequence[float] | None = EDGES.get(column) if is_number else None
    if edges is None and is_number and len(set(known)) > _FEW_VALUES:
        edges = sorted({float(edge) for edge in np.quantile(known, (0.25, 0.5, 0.75))})
    found: dict[tuple[Any, ...], list[int]] = {}
    labels: dict[tuple[Any, ...], str] = {}
    for place, value in enumerate(values):
        key, label = _slice_of(value, edges, is_number=is_number)
        labels[key] = label
        found.setdefault(key, []).append(place)
    return {labels[key]: found[key] for key in sorted(found)}


def _slice_of(value: Any, edges: Sequence[float] | None, *, is_number: bool) -> tuple[tuple[Any, ...], str]:
    """Return by what a value's slice is sorted, and its label."""
    if value is None:
        return (1, 0.0, ""), UNKNOWN
    if not is_number:
        return (0, 0.0, str(value)), str(value)
    if edges is None:
        return (0, float(value), ""), f"{value:g}"
    place = int(np.searchsorted(edges, value, side="left"))
    if place == 0:
        low = f"up to {edges[0]:g}"
    elif place == len(edges):
        low = f"above {edges[-1]:g}"
    else:
        low = f"above {edges[place - 1]:g} to {edges[place]:g}"
    return (0, float(place), ""), low
