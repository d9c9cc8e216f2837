"""Convolution of all turns of a conversation with the impulse responses of their speakers, by one overlap-add."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy  # its modules are loaded when they are used
from numpy.typing import NDArray

CONVOLUTION_FFT = 32_768
"""Samples of a transform: with responses of half a second, three quarters of each are new."""
_BLOCKS_PER_CHUNK = 16


@dataclass
class PlacedSignal:
    """A stretch of one speaker's signal on the timeline."""

    speaker: int
    start: int
    """In samples."""
    samples: NDArray[np.float32]
    """(N,)"""

    @property
    def end(self) -> int:
        """Sample after the last one."""
        return self.start + len(self.samples)


def convolve(
    signals: Iterable[PlacedSignal], responses: NDArray[np.float32], num_samples: int, *, apart: bool = False
) -> NDArray[np.float32]:
    """Return the sum of all signals, each convolved with its speaker's response.

    One overlap-add for all: a speaker's turns that share a block are transformed together, spectra of all speakers are
    summed before the one inverse transform of a block, and blocks without speech are skipped.

    Args:
        signals: by start; read when they are needed, then released.
        responses: (S, M, L) from each speaker to each microphone; their sample 0 answers sample 0.
        num_samples: length N of the timeline; reverberation after it is left out.
        apart: whether speakers are kept apart.

    Returns:
        (1, M, N) float32, or (S, M, N) where speakers are kept apart.
    """
    num_speakers, num_microphones, length = responses.shape
    size = max(CONVOLUTION_FFT, 1 << (4 * length - 1).bit_length())
    block = size - length + 1
    spectra = scipy.fft.rfft(responses, n=size, axis=2)
    out = np.zeros((num_speakers if apart else 1, num_microphones, num_samples), np.float32)
    waiting = iter(signals)
    active: list[PlacedSignal] = []
    following = next(waiting, None)
    for chunk in range(0, num_samples, _BLOCKS_PER_CHUNK * block):
        stop = chunk + _BLOCKS_PER_CHUNK * block
        while following is not None and following.start < stop:
            active.append(following)
            following = next(waiting, None)
        blocks, dry = _blocks(active, chunk, min(stop, num_samples), block, size, apart=apart)
        active = [signal for signal in active if signal.end > stop]
        if not blocks:
            continue
        spectrum = scipy.fft.rfft(dry, axis=1)
        speakers = [speaker for _, speaker in blocks]
        # Rows whose spectra are summed before the inverse transform begin at these.
        groups = [i for i in range(len(blocks)) if apart or not i or blocks[i][0] != blocks[i - 1][0]]
        for microphone in range(num_microphones):
            product = spectrum * spectra[speakers, microphone]
            if len(groups) < len(blocks):
                product = np.add.reduceat(product, groups, axis=0)
            for group, wet in zip(groups, scipy.fft.irfft(product, n=size, axis=1), strict=True):
                number, speaker = blocks[group]
                begin = chunk + number * block
                span = out[speaker if apart else 0, microphone, begin : begin + size]
                span += wet[: len(span)]
    return out


def _blocks(
    signals: list[PlacedSignal], begin: int, end: int, block: int, size: int, *, apart: bool
) -> tuple[list[tuple[int, int]], NDArray[np.float32]]:
    """Return block number and speaker of each row, and the rows (R, size) of signals from begin to end.

    Rows of one block are adjacent, or rows of one speaker where speakers are kept apart.
    """
    spans = [
        (signal, number, max(signal.start, begin + number * block), min(signal.end, end, begin + (number + 1) * block))
        for signal in signals
        for number in range((max(signal.start, begin) - begin) // block, -(-(min(signal.end, end) - begin) // block))
    ]
    blocks = sorted(
        {(number, signal.speaker) for signal, number, _, _ in spans}, key=lambda key: key[::-1] if apart else key
    )
    row_of = {key: row for row, key in enumerate(blocks)}
    rows = np.zeros((len(blocks), size), np.float32)
    for signal, number, low, high in spans:
        first = begin + number * block
        samples = signal.samples[low - signal.start : high - signal.start]
        rows[row_of[number, signal.speaker], low - first : high - first] += samples
    return blocks, rows
