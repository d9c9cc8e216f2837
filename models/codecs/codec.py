"""The codec contract: audio to integer codes (K, T) and back.

`models.codecs` holds the table of codecs; a new codec is one file and one line there (docs/extending.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """The properties of a codec that data sets, layouts and models depend on; recorded with everything made with it."""

    name: str
    """The codec's name in the table `models.codecs.CODECS`."""
    sample_rate_hz: int
    """Sample rate of input and output, in Hz."""
    hop_samples: int
    """Samples from one frame to the next: the frame rate is `sample_rate_hz / hop_samples`."""
    num_codebooks: int
    """Codes per frame (K)."""
    codebook_size: int
    """Number of values of a code (V): 0 to V - 1."""
    bits: int
    """Bits of a stored code: 4, 8 or 16."""
    ordinal: bool
    """Whether neighboring codes stand for neighboring values, as the levels of a spectrogram do."""
    causal: bool
    """Whether a frame's codes depend on no sample after the frame's own hop."""
    licence: str
    """Licence of the weights, or of the constants of a codec without weights."""
    weights_digest: str
    """Digest of the weights, or of the constants of a codec without weights."""

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.sample_rate_hz / self.hop_samples


class Codec(Protocol):
    """Encodes one waveform at a time, so that no code depends on padding."""

    @property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        ...

    def num_frames(self, num_samples: int) -> int:
        """Return the exact number of frames (T) that `encode` returns for a number of samples (N)."""
        ...

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (K, T) of a waveform (N,) in [-1, 1] at the codec's sample rate; T is `num_frames(N)`.

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        ...

    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return the waveform (num_samples,) of codes (K, T), cut or padded with zeros to that length."""
        ...


@dataclass(frozen=True, kw_only=True)
class CodecEntry:
    """What a codec's module declares about it, available before any weights are loaded."""

    load: Callable[[str, int | None, str], Codec]
    """Loads the codec, given its weights (folder or hub id, "" where it has none), number of codebooks and device."""
    about: str
    """What the codec is, in a few words."""
    needs_weights: bool = True
    """Whether `--encode.weights` must be given."""
    is_continuous: bool = False
    """Whether its codes are samples rather than symbols: a model can take them as input but not predict them."""
    has_codebook_choice: bool = False
    """Whether `--encode.num-codebooks` can select fewer codebooks than the codec has."""
    runs_on_gpu: bool = False
    """Whether `--encode.device cuda` has an effect."""
    package: str = ""
    """Python module that must be installed for the codec."""
    example: Callable[[Path], str] | None = None
    """For the contract test: writes small weights to a folder and returns what `load` takes as weights."""
    shared_weights: str = ""
    """For the contract test, where no small weights can be written: folder of real ones in the tests' shared data."""


def encode_many(codec: Codec, wavs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
    """Return the codes (K, T) of each waveform (N,) in [-1, 1], batched where that cannot change a code."""
    batched = getattr(codec, "encode_many", None)
    return [codec.encode(wav) for wav in wavs] if batched is None else batched(wavs)


def in_bf16(codec: Codec) -> Codec:
    """Return a codec that computes in bf16.

    Raises:
        ValueError: it has no such precision, or too many codes would be others.
    """
    made = getattr(codec, "in_bf16", None)
    if made is None:
        raise ValueError(f"codec {codec.spec.name} computes in float32 only; use --encode.precision float32")
    other: Codec = made()
    return other


def takes_any_lengths(codec: Codec) -> bool:
    """Return whether a codec's `encode_many` takes waveforms of any lengths together without padding them."""
    return bool(getattr(codec, "takes_any_lengths", False))


def pack_codes(codes: NDArray[Any], bits: int) -> bytes:
    """Pack codes (K, T) frame by frame, so that a span of frames is a span of bytes.

    Args:
        codes: (K, T) integers below 2 ** bits; K must be even where bits is 4.
        bits: 4, 8 or 16.

    Raises:
        ValueError: a code does not fit in `bits` bits.

    >>> pack_codes(np.array([[1, 2], [3, 4]]), bits=4).hex()
    '3142'
    """
    if codes.size and (int(codes.max()) >= 1 << bits or int(codes.min()) < 0):
        raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())} do not fit in {bits} bits")
    frames = np.ascontiguousarray(codes.T)  # (T, K)
    if bits == 4:
        nibbles = frames.astype(np.uint8)
        return (nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).tobytes()
    return frames.astype("<u1" if bits == 8 else "<u2").tobytes()


def unpack_codes(data: bytes | memoryview, num_codebooks: int, bits: int) -> NDArray[np.uint16]:
    """Unpack codes (K, T): the inverse of `pack_codes`.

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
