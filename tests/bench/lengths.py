"""Document lengths that packers are compared on, in columns."""

import numpy as np

CAPACITY = 8192


def conversation_lengths(number, seed=0):
    """Lognormal, mean 900, sigma .9, clipped to 16..8192: many short ones to fill gaps with."""
    return _lengths(number, 900, 0.9, seed)


def hard_lengths(number, seed=0):
    """Lognormal, mean 3000, sigma .5: two or three documents a pack, and little to fill gaps with."""
    return _lengths(number, 3000, 0.5, seed)


def _lengths(number, mean, sigma, seed):
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, number)
    return np.clip(np.rint(drawn), 16, CAPACITY).astype(np.int32)
