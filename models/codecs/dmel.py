"""dMel: log-mel channels quantized to 16 levels; a codec without weights, and the default.

Source: Bai et al. 2024, "dMel: Speech Tokenization Made Simple", arXiv:2407.15835, section 2.1: per-channel
uniform quantization of the log-mel spectrogram. The constants are fixed, so that the same audio has the same codes
everywhere.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.codecs.codec import CodecEntry, CodecSpec

if TYPE_CHECKING:
    import torch


def mel_filterbank(num_channels: int, num_bins: int, sample_rate_hz: int) -> NDArray[np.float32]:
    """Return triangular filters (B, M) for B spectral bins and M channels, equally spaced on the HTK mel scale.

    Their peaks are 1; bins are equally spaced from 0 Hz to half the sample rate.
    """

    def to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2595.0 * np.log10(1.0 + hz / 700.0)

    edges_mel = np.linspace(0.0, to_mel(np.array([sample_rate_hz / 2]))[0], num_channels + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, sample_rate_hz / 2, num_bins)[:, None]
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


class DMel:
    """80 log-mel channels of 50 ms windows every 25 ms, each quantized to 16 uniform levels over a fixed range.

    Frame t is centered on its own hop: its window extends 200 samples to either side of samples
    [400 t, 400 t + 400); the recording is padded with silence. N samples make ceil(N / 400) frames.
    """

    SAMPLE_RATE_HZ = 16_000
    NUM_CHANNELS = 80
    NUM_LEVELS = 16
    WINDOW_SAMPLES = 800
    HOP_SAMPLES = 400
    FFT_SAMPLES = 1024
    # log10 of mel energy: in read speech at -26 dBFS, 1 % of the cells are below LOG_MIN and 0.3 % above LOG_MAX.
    LOG_MIN = -5.0
    LOG_MAX = 2.5
    BLOCK_FRAMES = 128

    @cached_property
    def spec(self) -> CodecSpec:
        """The codec's fixed properties."""
        constants = (
            self.SAMPLE_RATE_HZ,
            self.NUM_CHANNELS,
            self.NUM_LEVELS,
            self.WINDOW_SAMPLES,
            self.HOP_SAMPLES,
            self.FFT_SAMPLES,
            self.LOG_MIN,
            self.LOG_MAX,
        )
        return CodecSpec(
            name="dmel",
            sample_rate_hz=self.SAMPLE_RATE_HZ,
            hop_samples=self.HOP_SAMPLES,
            num_codebooks=self.NUM_CHANNELS,
            codebook_size=self.NUM_LEVELS,
            bits=4,
            ordinal=True,
            causal=False,  # a window extends 200 samples past its hop
            licence="none: constants",
            weights_digest=hashlib.blake2b(repr(constants).encode(), digest_size=32).hexdigest(),
        )

    @cached_property
    def _filterbank(self) -> NDArray[np.float32]:
        return mel_filterbank(self.NUM_CHANNELS, self.FFT_SAMPLES // 2 + 1, self.SAMPLE_RATE_HZ)

    @cached_property
    def _window(self) -> NDArray[np.float32]:
        return np.hanning(self.WINDOW_SAMPLES + 1)[:-1].astype(np.float32)

    def num_frames(self, num_samples: int) -> int:
        """Return ceil(num_samples / 400)."""
        return -(-num_samples // self.HOP_SAMPLES)

    def _pad(self, wav: NDArray[np.float32]) -> NDArray[np.float32]:
        side = (self.WINDOW_SAMPLES - self.HOP_SAMPLES) // 2
        tail = self.num_frames(len(wav)) * self.HOP_SAMPLES - len(wav)
        return np.pad(wav, (side, tail + side))

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (80, T) of a 16 kHz waveform (N,) in [-1, 1].

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        codes = np.empty((self.num_frames(len(wav)), self.NUM_CHANNELS), dtype=np.uint16)
        for start, block in self._blocks(wav):
            codes[start : start + len(block)] = self.quantized(block)
        return codes.T  # a view: frames are contiguous, as they are stored

    def quantized(self, energies: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log10 mel energies (T, 80) as levels from 0 to 15, not yet cut to whole numbers."""
        scale = np.float32(self.NUM_LEVELS / (self.LOG_MAX - self.LOG_MIN))
        level = (energies - np.float32(self.LOG_MIN)) * scale
        return np.asarray(np.clip(level, 0, self.NUM_LEVELS - 1), np.float32)

    def log_mel(self, wav: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log10 mel energies (T, 80) of a 16 kHz waveform (N,) in [-1, 1].

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        blocks = [block for _, block in self._blocks(wav)]
        return np.concatenate([np.zeros((0, self.NUM_CHANNELS), np.float32), *blocks])

    def checked(self, wav: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a waveform (N,) as it is.

        Raises:
            ValueError: it is not one-dimensional, or holds NaN or infinity.
        """
        if wav.ndim != 1:
            raise ValueError(f"dmel takes one channel (N,), not {wav.shape}")
        if not np.isfinite(wav).all():
            raise ValueError("the waveform holds NaN or infinity")
        return wav

    def _blocks(self, wav: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the first frame and the log10 mel energies (B, 80) of each block of frames."""
        if not len(self.checked(wav)):
            return
        frames = np.lib.stride_tricks.sliding_window_view(self._pad(wav.astype(np.float32)), self.WINDOW_SAMPLES)
        yield from self._energies(frames[:: self.HOP_SAMPLES])

    def _energies(self, frames: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the first frame and the log10 mel energies (B, 80) of each block of frames (T, 800)."""
        from scipy.fft import rfft

        # The matrix product always has the same shape, so that its rounding does not depend on the length of the
        # recording: the same samples have the same codes in any recording.
        # Buffers are reused: page faults of new ones take longer than the transform.
        power = np.zeros((self.BLOCK_FRAMES, self.FFT_SAMPLES // 2 + 1), dtype=np.float32)
        windowed = np.zeros((self.BLOCK_FRAMES, self.FFT_SAMPLES), dtype=np.float32)
        for start in range(0, len(frames), self.BLOCK_FRAMES):
            rows = frames[start : start + self.BLOCK_FRAMES]
            np.multiply(rows, self._window, out=windowed[: len(rows), : self.WINDOW_SAMPLES])
            spectrum = rfft(windowed[: len(rows)], axis=1)
            np.multiply(spectrum.real, spectrum.real, out=power[: len(rows)])
            power[: len(rows)] += spectrum.imag * spectrum.imag
            energy = (power @ self._filterbank)[: len(rows)]
            yield start, np.log10(np.maximum(energy, 1e-10))

    def decode(self, codes: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        """Return a waveform (num_samples,) at 16 kHz of codes (80, T), by Griffin-Lim from the centers of the levels.

        Sources: Griffin & Lim 1984; fast variant with momentum .99, Perraudin et al. 2013. The filterbank's
        pseudo-inverse, clipped at zero, maps mel channels to spectral bins.

        Raises:
            ValueError: a code is not one of the levels.
        """
        if codes.size and int(codes.max()) >= self.NUM_LEVELS:
            raise ValueError(f"codec dmel has {self.NUM_LEVELS} levels, but a code is {int(codes.max())}")
        width = (self.LOG_MAX - self.LOG_MIN) / self.NUM_LEVELS
        levels = self.LOG_MIN + (codes.T.astype(np.float32) + np.float32(0.5)) * np.float32(width)
        levels[codes.T == 0] = -np.inf  # the lowest level is silence, not its center
        return self.from_log_mel(levels, num_samples)

    def from_log_mel(self, levels: NDArray[np.float32], num_samples: int) -> NDArray[np.float32]:
        """Return a waveform (num_samples,) at 16 kHz from log10 mel energies (T, 80; -inf is silence), by Griffin-Lim.

        Source: as `decode`.
        """
        if not len(levels):
            return np.zeros(num_samples, dtype=np.float32)
        energy = 10.0**levels
        magnitude = np.sqrt(np.maximum(energy @ np.linalg.pinv(self._filterbank), 0.0))  # (T, bins)
        angles = np.exp(2j * np.pi * np.random.Generator(np.random.Philox(key=0)).random(magnitude.shape))
        previous = np.zeros_like(angles)
        for _ in range(32):
            rebuilt = self._spectrum(self._overlap_add(magnitude * angles))
            angles = rebuilt + 0.99 * (rebuilt - previous)
            angles /= np.maximum(np.abs(angles), 1e-8)
            previous = rebuilt
        side = (self.WINDOW_SAMPLES - self.HOP_SAMPLES) // 2
        wav = self._overlap_add(magnitude * angles)[side:]
        wav = np.pad(wav, (0, max(0, num_samples - len(wav))))[:num_samples]
        return np.clip(wav, -1.0, 1.0).astype(np.float32)

    def _spectrum(self, padded: NDArray[np.float64]) -> NDArray[np.complex128]:
        from scipy.fft import rfft

        frames = np.lib.stride_tricks.sliding_window_view(padded, self.WINDOW_SAMPLES)[:: self.HOP_SAMPLES]
        return np.asarray(rfft(frames * self._window, n=self.FFT_SAMPLES, axis=1))

    def _overlap_add(self, spectrum: NDArray[np.complex128]) -> NDArray[np.float64]:
        from scipy.fft import irfft

        frames = irfft(spectrum, n=self.FFT_SAMPLES, axis=1)[:, : self.WINDOW_SAMPLES] * self._window
        length = (len(frames) - 1) * self.HOP_SAMPLES + self.WINDOW_SAMPLES
        wav, weight = np.zeros(length), np.zeros(length)
        for t, frame in enumerate(frames):
            span = slice(t * self.HOP_SAMPLES, t * self.HOP_SAMPLES + self.WINDOW_SAMPLES)
            wav[span] += frame
            weight[span] += self._window**2
        return wav / np.maximum(weight, 1e-3)


class DMelOnDevice(DMel):
    """dMel of many waveforms at once on a torch device, with the codes of `DMel` in every cell.

    The device computes in float64. A cell whose value is so near the border of two levels that float32's rounding may
    have put it on either side is decided by `DMel` itself, on the CPU: one to some frames in a hundred.
    """

    takes_any_lengths: ClassVar[bool] = True

    def __init__(self, device: str, dtype: "torch.dtype | None" = None, *, decides_borders: bool = True) -> None:
        """Take the device.

        Args:
            device: torch device.
            dtype: of the transform and the sums over bins; float64 by default.
            decides_borders: whether cells near a border are decided by `DMel`; without, a few codes are off by one.
        """
        self.device, self.dtype, self.decides_borders = device, dtype, decides_borders

    def encode(self, wav: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return codes (80, T) of a 16 kHz waveform (N,) in [-1, 1].

        Raises:
            ValueError: the waveform is not one-dimensional, or holds NaN or infinity.
        """
        return self.encode_many([wav])[0]

    def encode_many(self, wavs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Return the codes (80, T) of each 16 kHz waveform (N,) in [-1, 1], of any lengths.

        Raises:
            ValueError: a waveform is not one-dimensional, or holds NaN or infinity.
        """
        import torch

        from models.codecs.dmel_torch import MelScale, quantized_on

        counts = [self.num_frames(len(self.checked(wav))) for wav in wavs]
        if not sum(counts):
            return [np.zeros((self.NUM_CHANNELS, 0), np.uint16) for _ in wavs]
        # Padded waveforms are whole hops long, so that the frames of all of them are equally spaced when they are
        # concatenated: T of a waveform, and one across the border to the next, which is dropped.
        samples = np.concatenate([self._pad(wav.astype(np.float32)) for wav in wavs if len(wav)])
        scale = MelScale(
            window=self._window,
            filterbank=self._filterbank,
            hop_samples=self.HOP_SAMPLES,
            fft_samples=self.FFT_SAMPLES,
            log_min=self.LOG_MIN,
            levels_per_decade=self.NUM_LEVELS / (self.LOG_MAX - self.LOG_MIN),
            num_levels=self.NUM_LEVELS,
        )
        blocks = quantized_on(self.device, samples, scale, self.dtype or torch.float64)
        codes, is_near = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        if self.decides_borders and is_near.any():
            frames = np.lib.stride_tricks.sliding_window_view(samples, self.WINDOW_SAMPLES)[:: self.HOP_SAMPLES]
            rows = np.flatnonzero(is_near)
            for first, block in self._energies(frames[rows]):
                codes[rows[first : first + len(block)]] = self.quantized(block)
        found, start = [], 0
        for count in counts:
            found.append(codes[start : start + count].T)
            start += count + bool(count)
        return found


def _load(_: str, num_codebooks: int | None, device: str) -> DMel:
    if num_codebooks not in (None, DMel.NUM_CHANNELS):
        raise ValueError(f"dmel has {DMel.NUM_CHANNELS} channels; num_codebooks cannot be {num_codebooks}")
    return DMel() if device == "cpu" else DMelOnDevice(device)


CODEC = CodecEntry(
    load=_load, about="80 log-mel channels in 16 levels, 40 frames/s", needs_weights=False, runs_on_gpu=True
)
