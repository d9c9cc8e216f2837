"""Levels, edges and the integer format of signals."""

import numpy as np
from numpy.typing import NDArray

from operators.simulate.signals import level_kernels as kernels

SILENT = 1e-12
"""Mean square up to which a signal counts as silent."""
_PEAK = 0.99
_BLOCK = 65_536


def mean_square(samples: NDArray[np.float32]) -> float:
    """Return the mean square of samples of any shape, summed in blocks so that rounding does not grow with length."""
    flat = samples.reshape(-1)
    if not len(flat):
        return 0.0
    blocks = [flat[i : i + _BLOCK] for i in range(0, len(flat), _BLOCK)]
    return sum(float(np.dot(block, block)) for block in blocks) / len(flat)


def scale_below_clipping(peak: float) -> float:
    """Return the factor that brings an absolute peak to .99 of full scale; 1 where it is not above that."""
    return _PEAK / peak if peak > _PEAK else 1.0


def fade_edges(samples: NDArray[np.float32], rate_hz: int, fade_s: float = 0.005) -> NDArray[np.float32]:
    """Return samples (N,) with both ends faded by a raised cosine: parts cut out of speech would click."""
    length = min(len(samples) // 2, round(fade_s * rate_hz))
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(1, length))).astype(np.float32)
    out = samples.copy()
    out[:length] *= ramp
    out[len(out) - length :] *= ramp[::-1]
    return out


def as_written(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """Return samples (N,) as the 16-bit integers that soundfile writes to a PCM_16 file, so that given mixtures agree.

    libsndfile scales by 2^31 in the samples' own precision, rounds, clips, and drops the lower half: sums of 16-bit
    samples are written as they are.
    """
    scaled = np.rint(samples * samples.dtype.type(2.0**31))
    clipped = np.clip(scaled.astype(np.float64), -(2.0**31), 2.0**31 - 1)
    return (clipped.astype(np.int64) >> 16).astype(np.int16)


def to_pcm16(samples: NDArray[np.float32], scale: float) -> NDArray[np.int16]:
    """Return samples (N,) times a scale as 16-bit integers; 1 is 32,767."""
    return np.asarray(kernels.to_pcm16(samples, np.float32(scale * 32767)))
