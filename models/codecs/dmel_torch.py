"""Quantized log-mel levels on a torch device, and where float32's rounding could have put a cell on another level."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_NEAR = 1e-5
"""Distance from a border, in levels, within which float32 may round to either side: in the sum over bins, in log10."""
_NEAR_BELOW_LOUDER = 1e-6
"""The same, times the ratio of a frame's amplitude to a channel's: a transform's rounding errors are as large in every
bin as in the loudest. Errors were at most a tenth of the two together, on tones, noise and speech-like sound."""
MAX_FRAMES = 16_384
"""Frames that are transformed at once: about half a gigabyte."""


@dataclass(frozen=True, kw_only=True)
class MelScale:
    """What a log-mel spectrogram is made of, and how it is quantized."""

    window: NDArray[np.float32]  # (W,)
    filterbank: NDArray[np.float32]  # (bins, channels)
    hop_samples: int
    fft_samples: int
    log_min: float
    """log10 of the energy at which the lowest level begins."""
    levels_per_decade: float
    num_levels: int


@torch.no_grad()
def quantized_on(
    device: str, samples: NDArray[np.float32], scale: MelScale, dtype: torch.dtype
) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.bool_]]]:
    """Yield codes (B, channels) of blocks of frames, and which of the frames (B,) have a cell near a border.

    Args:
        device: torch device.
        samples: (N,), of which frames begin every hop.
        scale: of the spectrogram.
        dtype: of the transform and the sums over bins.
    """
    window, filters = (torch.from_numpy(part).to(device, dtype) for part in (scale.window, scale.filterbank))
    frames = torch.from_numpy(samples).to(device).unfold(0, len(window), scale.hop_samples)
    for block in torch.split(frames, MAX_FRAMES):
        spectrum = torch.fft.rfft(block.to(dtype) * window, n=scale.fft_samples)
        power = spectrum.real.square() + spectrum.imag.square()
        energy = (power @ filters).clamp_min(1e-10)
        levels = (energy.log10() - scale.log_min) * scale.levels_per_decade
        border = levels.round().clamp(1, scale.num_levels - 1)  # beyond the outer ones levels are clipped
        louder = (power.sum(dim=1, keepdim=True) / energy).sqrt()
        is_near = (levels - border).abs() < _NEAR + _NEAR_BELOW_LOUDER * louder
        codes = levels.clamp(0, scale.num_levels - 1).to(torch.uint8)
        yield codes.cpu().numpy().astype(np.uint16), is_near.any(dim=1).cpu().numpy()
