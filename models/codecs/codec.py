"""The codec contract: audio to integer codes (K, T) and back.

`models.codecs` holds the table of codecs; a new one is one file and one line there (docs/extending.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """What a data set, a layout and a model need to know of a codec; recorded with everything made by it."""

    name: str
    """The codec's name in the table `models.codecs.CODECS`."""
    sample_rate_hz: int
    """Rate of the audio that goes in and comes out."""
    hop_samples: int
    """Samples between two frames: the frame rate is `sample_rate_hz / hop_samples`."""
    num_codebooks: int
    """Codes per frame (K)."""
    codebook_size: int
    """Values a code can take: 0 to `codebook_size - 1`."""
    bits: int
    """Bits a stored code takes: 4, 8 or 16."""
    ordinal: bool
    """Whether neighboring codes mean neighboring values, as the levels of a spectrogram do."""
    causal: bool
    """Whether a frame depends on nothing after its own hop."""
    licence: str
    """Licence of the weights, or of the constants."""
    weights_digest: str
    """Digest of the weights; of the constants where there are none."""

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.sample_rate_hz / self.hop_samples


class Codec(Protocol):
    """Encodes one waveform at a time, so that no padding can touch a code."""

    @property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        ...

    def num_frames(self, num_samples: int) -> int:
        """Return exactly how many frames `encode` makes of so many samples."""
        ...

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (K, T) of a waveform (N,) in [-1, 1]; T is `num_frames(N)`.

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        ...

    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return the waveform (num_samples,) of codes (K, T)."""
        ...


@dataclass(frozen=True, kw_only=True)
class CodecEntry:
    """What is known of a codec before any weights are loaded."""

    load: Callable[[str, int | None, str], Codec]
    """Loads it, given the folder or hub id of its weights (empty where it has none), codebooks and device."""
    about: str
    """What it is, in a few words, for the documentation."""
    needs_weights: bool = True
    """Whether `--encode.weights` must be given."""
    is_continuous: bool = False
    """Whether its audio can only be input to a model, never predicted."""
    has_codebook_choice: bool = False
    """Whether fewer codebooks than all can be chosen by `--encode.num-codebooks`."""
    runs_on_gpu: bool = False
    """Whether `--encode.device cuda` speeds it up."""
    package: str = ""
    """Module that must be installed for it."""
    example: Callable[[Path], str] | None = None
    """Writes small weights to a folder and returns what `load` takes: data of the contract test."""
    shared_weights: str = ""
    """Folder of real weights below the tests' shared data, where small ones cannot be written."""


def encode_many(codec: Codec, wavs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
    """Return each waveform's codes (K, T), batched where the codec can do so without changing a code."""
    at_once = getattr(codec, "encode_many", None)
    return [codec.encode(wav) for wav in wavs] if at_once is None else at_once(wavs)


def pack_codes(codes: NDArray[Any], bits: int) -> bytes:
    """Write codes (K, T) frame by frame in the fewest bytes: so a span of frames is a span of bytes.

    Args:
        codes: integers below 2 ** bits; K must be even where bits is 4.
        bits: 4, 8 or 16.

    Raises:
        ValueError: a code needs more than `bits` bits.

    >>> pack_codes(np.array([[1, 2], [3, 4]]), bits=4).hex()
    '3142'
    """
    if codes.size and (int(codes.max()) >= 1 << bits or int(codes.min()) < 0):
        raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())} do not fit into {bits} bits")
    frames = np.ascontiguousarray(codes.T)  # (T, K)
    if bits == 4:
        nibbles = frames.astype(np.uint8)
        return (nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).tobytes()
    return frames.astype("<u1" if bits == 8 else "<u2").tobytes()


def unpack_codes(data: bytes | memoryview, num_codebooks: int, bits: int) -> NDArray[np.uint16]:
    """Read codes (K, T) back: the inverse of `pack_codes`.

    >>> unpack_codes(bytes.fromhex("3142"), num_codebooks=2, bits=4).tolist()
    [[1, 2], [3, 4]]
    """
    if bits == 4:
        pairs = np.frombuffer(data, dtype=np.uint8).reshape(-1, num_codebooks // 2)
        frames = np.empty((len(pairs), num_codebooks), dtype=np.uint16)
        frames[:, 0::2] = pairs & 15
        frames[:, 1::2] = pairs >> 4
    else:
        frames = np.frombuffer(data, dtype="<u1" if bits == 8 else "<u2").reshape(-1, num_codebooks).astype(np.uint16)
    return np.ascontiguousarray(frames.T)
