"""The compiled loop of rendezvous hashing."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_compiled: Callable[[Any], Any] = njit(cache=True, nogil=True)


@_compiled
def highest(candidates, address, count):
    """Return the indices of the `count` highest random weights, the highest first; ties go by the candidate itself.

    A weight scrambles candidate and address so that every input bit moves every output bit. Source: Steele et al.
    2014, "Fast splittable pseudorandom number generators" (SplitMix64's finalizer).
    """
    weights = np.empty(len(candidates), np.uint64)
    for i in range(len(candidates)):
        bits = candidates[i] ^ address
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        weights[i] = bits ^ (bits >> np.uint64(31))
    chosen = np.empty(count, np.int64)
    if count > 16:
        order = np.argsort(weights)[::-1]  # equal 64-bit weights mean equal candidates: the map is a bijection
        return order[:count].astype(np.int64)
    taken = np.zeros(len(candidates), np.bool_)
    for place in range(count):
        best = -1
        for i in range(len(candidates)):
            if not taken[i] and (best < 0 or weights[i] > weights[best]):
                best = i
        taken[best] = True
        chosen[place] = best
    return chosen
