"""Compiled look-ups in tables of quantiles, which are at even levels from 0 to 1."""

from collections.abc import Callable
from math import erfc, sqrt
from typing import Any

from numba import njit

_compiled: Callable[[Any], Any] = njit(cache=True, nogil=True)


@_compiled
def quantile_at(table, level):
    """Return the quantile at a level, from a table (L,)."""
    place = min(max(level, 0.0), 1.0) * (len(table) - 1)
    index = min(int(place), len(table) - 2)
    return table[index] + (place - index) * (table[index + 1] - table[index])


@_compiled
def zero_crossing_level(table):
    """Return the level at which a rising table (L,) crosses 0."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if quantile_at(table, middle) < 0:
            low = middle
        else:
            high = middle
    return low


@_compiled
def normal_cdf(z):
    """Return the probability that a standard normal variable is below z."""
    return 0.5 * erfc(-z / sqrt(2.0))
