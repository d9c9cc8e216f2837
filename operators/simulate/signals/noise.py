"""Noise: pink noise generated in blocks, and recorded noise looped without a seam."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import scipy  # its modules are loaded when they are used
from numpy.typing import NDArray

from operators.rng import rng

# 1/f within half a decibel from 20 Hz to 0.45 of the rate: Smith 2011, "Spectral Audio Signal Processing", 6.14.2.
_PINK_ZEROS = np.array([0.049922035, -0.095993537, 0.050612699, -0.004408786])
_PINK_POLES = np.array([1.0, -2.494956002, 2.017265875, -0.522189400])
_BLOCK = 1 << 20


@cache
def _pink_power() -> float:
    """Return the power of filtered white noise of unit power: the energy of the filter's impulse response."""
    impulse = np.zeros(1 << 16)
    impulse[0] = 1.0
    return float(np.sum(scipy.signal.lfilter(_PINK_ZEROS, _PINK_POLES, impulse) ** 2))


def pink_noise_blocks(num_samples: int, seed: int, name: str) -> Iterator[NDArray[np.float32]]:
    """Yield blocks (N,) of noise of unit power with a 1/f spectrum, so that hours of it fit in memory.

    Args:
        num_samples: total length.
        seed: the recipe's seed.
        name: what the noise belongs to; every name has its own noise.
    """
    draw = rng(seed, "noise", name)
    zeros, poles = (x.astype(np.float32) for x in (_PINK_ZEROS / np.sqrt(_pink_power()), _PINK_POLES))
    state = np.zeros(len(poles) - 1, dtype=np.float32)
    for start in range(0, num_samples, _BLOCK):
        white = draw.standard_normal(min(_BLOCK, num_samples - start), dtype=np.float32)
        block, state = scipy.signal.lfilter(zeros, poles, white, zi=state)
        yield block


def pink_noise(num_samples: int, seed: int, name: str) -> NDArray[np.float32]:
    """Return noise (num_samples,) of unit power with a 1/f spectrum."""
    return np.concatenate([np.zeros(0, np.float32), *pink_noise_blocks(num_samples, seed, name)])


def extend(noise: NDArray[np.float32], num_samples: int, rate_hz: int) -> NDArray[np.floating]:
    """Return noise (N,) repeated to (num_samples,), each seam cross-faded by the halves of a Hann window of a second.

    This is how LibriMix lengthens noises (Cosentino et al. 2020, "LibriMix", arXiv:2005.11262): its samples are the
    same, and double precision where anything was repeated.

    Raises:
        ValueError: the noise is no longer than a seam.
    """
    if len(noise) >= num_samples:
        return noise[:num_samples]
    rise = np.hanning(rate_hz // 2 * 2 + 1)[: rate_hz // 2 + 1]
    if len(noise) <= len(rise):
        raise ValueError(f"noise of {len(noise) / rate_hz:.2f} s is too short to be repeated")
    out: NDArray[np.floating] = noise
    while len(out) < num_samples:
        seam = out[-len(rise) :] * rise[::-1] + noise[: len(rise)] * rise
        out = np.concatenate([out[: -len(rise)], seam, noise[len(rise) :]])
    return out[:num_samples]


def loop(noise: NDArray[np.float32], num_samples: int, rate_hz: int) -> NDArray[np.float32]:
    """Return noise (N, channels) looped to (num_samples, channels), with cross-fades of at most half a second."""
    if len(noise) >= num_samples:
        return noise[:num_samples]
    fade = min(len(noise) // 2, rate_hz // 2)
    rise = np.sqrt((np.arange(fade, dtype=np.float32) + 0.5) / max(1, fade))[:, None]
    body = noise.copy()
    body[:fade] = body[:fade] * rise + noise[len(noise) - fade :] * rise[::-1]
    body = body[: len(noise) - fade]  # its end continues in its beginning, which fades in
    first = noise[: len(noise) - fade]
    rest = np.tile(body, (-(-(num_samples - len(first)) // len(body)), 1))
    return np.concatenate([first, rest])[:num_samples]
