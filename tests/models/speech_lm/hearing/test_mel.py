"""Whisper's spectrogram in torch: that of transformers' own extractor, in a batch and alone."""

import numpy as np
import pytest
import torch

from models.speech_lm.hearing.mel import log_mel

transformers = pytest.importorskip("transformers")
MOST = 32_000  # two seconds: the extractor's length is an option


def sound(num_samples, seed=0, level=0.1):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(num_samples)).astype(np.float32)


def reference(wav, bins):
    extract = transformers.WhisperFeatureExtractor(feature_size=bins, chunk_length=MOST // 16_000)
    return extract(wav, sampling_rate=16_000, return_tensors="pt")["input_features"][0]


@pytest.mark.parametrize("bins", [20, 80, 128])
@pytest.mark.parametrize("num_samples", [1280, 12_800, 30_720, MOST])
def test_it_is_the_extractors_spectrogram(bins, num_samples):
    wav = sound(num_samples)
    full = log_mel([torch.from_numpy(wav)], bins, MOST, full=True)[0]
    torch.testing.assert_close(full, reference(wav, bins), rtol=0, atol=1e-5)
    content = log_mel([torch.from_numpy(wav)], bins, MOST, full=False)[0]
    assert content.shape == (bins, num_samples // 160)
    torch.testing.assert_close(content, reference(wav, bins)[:, : num_samples // 160], rtol=0, atol=1e-5)


def test_a_batch_holds_each_stretch_as_it_is_alone_and_zeros_behind_it():
    wavs = [
        torch.from_numpy(sound(n, seed, level)) for n, seed, level in ((2560, 1, 0.5), (MOST, 2, 0.01), (5120, 3, 0))
    ]
    batch = log_mel(wavs, 80, MOST, full=False)
    for row, wav in zip(batch, wavs, strict=True):
        frames = len(wav) // 160
        torch.testing.assert_close(row[:, :frames], log_mel([wav], 80, MOST, full=False)[0], rtol=0, atol=1e-6)
        assert not row[:, frames:].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_spectrogram_under_autocast_too():
    wav = torch.from_numpy(sound(12_800))
    with torch.autocast("cuda", torch.bfloat16):
        made = log_mel([wav.cuda()], 80, MOST, full=False)[0].cpu()
    torch.testing.assert_close(made, log_mel([wav], 80, MOST, full=False)[0], rtol=0, atol=1e-4)
