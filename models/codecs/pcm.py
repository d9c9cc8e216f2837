"""pcm: 16-bit samples in frames of 80 ms, for models with a pretrained speech encoder.

It compresses nothing: a frame's codes are its 1,280 samples. All stages between simulation and training work as with
any other codec; an hour takes 115 MB. A model can take such audio as input but not predict it.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.codecs.codec import CodecEntry, CodecSpec

ZERO = 1 << 15
"""The code of silence."""
FRAMES_PER_COLUMN = 4
"""Frames of a speech encoder, 50 a second, in a frame of this codec: a column of a pack."""


class Pcm:
    """Encodes a waveform as its own samples."""

    SAMPLE_RATE_HZ, HOP_SAMPLES = 16_000, 1280

    @property
    def spec(self) -> CodecSpec:
        """The fixed properties."""
        meaning = f"pcm:{self.SAMPLE_RATE_HZ}:{self.HOP_SAMPLES}:{ZERO}"
        return CodecSpec(
            name="pcm",
            sample_rate_hz=self.SAMPLE_RATE_HZ,
            hop_samples=self.HOP_SAMPLES,
            num_codebooks=self.HOP_SAMPLES,
            codebook_size=1 << 16,
            bits=16,
            ordinal=True,
            causal=True,
            licence="none needed",
            weights_digest=hashlib.blake2b(meaning.encode(), digest_size=32).hexdigest(),
        )

    def num_frames(self, num_samples: int) -> int:
        """Return ceil(num_samples / 1280); the last frame is padded with silence.

        >>> Pcm().num_frames(1281)
        2
        """
        return -(-num_samples // self.HOP_SAMPLES)

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (1280, T) of a waveform (N,) in [-1, 1].

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        if wav.ndim != 1:
            raise ValueError(f"pcm takes one channel (N,), not {wav.shape}")
        if not np.isfinite(wav).all():
            raise ValueError("the waveform holds NaN or infinity")
        codes = np.full(self.num_frames(len(wav)) * self.HOP_SAMPLES, ZERO, np.uint16)
        levels = np.clip(np.rint(wav * 32768.0), -ZERO, ZERO - 1).astype(np.int32)
        codes[: len(wav)] = (levels + ZERO).astype(np.uint16)
        return codes.reshape(-1, self.HOP_SAMPLES).T

    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return the waveform (num_samples,) of codes (1280, T): what was encoded, rounded to 16 bits."""
        wav = (codes.T.reshape(-1).astype(np.float32) - ZERO) / 32768.0
        return np.pad(wav, (0, max(0, num_samples - len(wav))))[:num_samples]


def _load(_: str, num_codebooks: int | None, __: str) -> Pcm:
    if num_codebooks is not None:
        raise ValueError("pcm has no codebooks to choose from; leave out --encode.num-codebooks")
    return Pcm()


CODEC = CodecEntry(
    load=_load, about="16-bit samples, for models with a pretrained encoder", needs_weights=False, is_continuous=True
)
