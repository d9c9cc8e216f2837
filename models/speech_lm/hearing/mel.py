"""Whisper's log-mel spectrogram on any device, of many stretches of audio at once."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

SAMPLE_RATE_HZ, WINDOW_SAMPLES, HOP_SAMPLES = 16_000, 400, 160


@lru_cache(maxsize=8)
def _filters(bins: int, device: torch.device) -> torch.Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        num_frequency_bins=1 + WINDOW_SAMPLES // 2,
        num_mel_filters=bins,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(np.ascontiguousarray(bank.T, np.float32)).to(device)


@torch.no_grad()
def log_mel(wavs: Sequence[torch.Tensor], bins: int, most: int, *, full: bool) -> torch.Tensor:
    """Return the log-mel spectrograms (B, bins, frames) of waveforms, each as Whisper's feature extractor makes it.

    Every waveform is scaled by its own maximum. What is cut to content equals the first frames of what is padded with
    silence, because silence never holds the maximum; behind a shorter waveform's frames there are zeros, which is what
    a convolution pads its input with.

    Args:
        wavs: (N,) each, N a multiple of 160 from 320 to `most`, on one device.
        bins: mel bands.
        most: samples of the encoder's whole window.
        full: pad every waveform with silence to the whole window; else there are as many frames as the longest has.

    Source: Radford et al. 2022, "Whisper", arXiv:2212.04356, section 2.2; transformers' `WhisperFeatureExtractor`.
    """
    device, reach = wavs[0].device, WINDOW_SAMPLES // 2
    length = most if full else max(len(wav) for wav in wavs)
    padded = torch.zeros(len(wavs), length + WINDOW_SAMPLES, device=device)
    for row, wav in zip(padded, wavs, strict=True):
        row[reach : reach + len(wav)] = wav
    padded[:, :reach] = padded[:, reach + 1 : 2 * reach + 1].flip(1)
    if length == most:  # at the end of its window the extractor mirrors the sound, which elsewhere is silence
        padded[:, reach + length :] = padded[:, length - 1 : reach + length - 1].flip(1)
    with torch.autocast(device.type, enabled=False):
        window = torch.hann_window(WINDOW_SAMPLES, device=device)
        spectrum = torch.stft(padded, WINDOW_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True)
        power = (spectrum[..., :-1].abs() ** 2).contiguous()
        levels = torch.clamp(_filters(bins, device) @ power, min=1e-10).log10()
    if full:
        there = None
    else:
        ends = torch.tensor([len(wav) // HOP_SAMPLES for wav in wavs]).to(device, non_blocking=True)
        there = torch.arange(levels.shape[2], device=device) < ends[:, None, None]
        levels = levels.where(there, -10.0)
    loudest = levels.amax(dim=(1, 2), keepdim=True)
    scaled = (torch.maximum(levels, loudest - 8.0) + 4.0) / 4.0
    return scaled if there is None else scaled * there
