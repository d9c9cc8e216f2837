"""Compiled loops over samples: one pass where array operations take four."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_compiled: Callable[[Any], Any] = njit(cache=True, nogil=True)


@_compiled
def to_pcm16(samples, factor):
    """Return samples (N,) times a factor as 16-bit integers: rounded to nearest, halves to even, clipped."""
    out = np.empty(len(samples), np.int16)
    for i in range(len(samples)):
        out[i] = np.int16(min(max(np.rint(samples[i] * factor), np.float32(-32768)), np.float32(32767)))
    return out
