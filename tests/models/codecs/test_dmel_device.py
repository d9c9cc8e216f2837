"""dMel by torch has the codes of dMel by numpy, in every cell and in any batch."""

import numpy as np
import pytest
import torch

from models.codecs import load_codec
from models.codecs.codec import encode_many
from models.codecs.dmel import DMel, DMelOnDevice
from tests.models.codecs.test_codecs import speechlike

EXACT, ROUNDED = torch.float64, torch.float32


def waves(number=16, longest=80_000):
    """Voices, noise, tones and holes, from faint to full scale, of any lengths."""
    rng = np.random.default_rng(0)
    made = [np.zeros(0, np.float32), np.zeros(5_000, np.float32), speechlike(1)]
    for seed in range(number):
        samples = int(rng.integers(1, longest))
        wave = [
            speechlike(samples, seed),
            rng.standard_normal(samples),
            speechlike(samples, seed) * (rng.random(samples) < 0.5),
            np.sin(2 * np.pi * rng.uniform(50, 7000) * np.arange(samples) / 16_000),
        ][seed % 4]
        made.append((wave * 10 ** rng.uniform(-4, 0)).astype(np.float32))
    return made


WAVES = waves()
EXPECTED = [DMel().encode(wave) for wave in WAVES]


@pytest.mark.parametrize("dtype", [EXACT, ROUNDED])
def test_all_codes_are_those_of_numpy(dtype):
    found = DMelOnDevice("cpu", dtype).encode_many(WAVES)
    for one, other in zip(found, EXPECTED, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.array_equal(one, other)


def off_by(codec, wavs):
    found = codec.encode_many(wavs)
    return np.concatenate([np.abs(a.astype(int) - b).ravel() for a, b in zip(found, EXPECTED, strict=True)])


@pytest.mark.parametrize("dtype", [EXACT, ROUNDED])
def test_without_a_second_look_at_borders_hardly_a_code_differs_and_by_one_level(dtype):
    off = off_by(DMelOnDevice("cpu", dtype, decides_borders=False), WAVES)
    assert (off > 0).mean() <= 1e-5  # 5e-7 of two million
    assert off.max() <= 1


def test_a_waveform_in_16_bits_has_other_codes():
    """Why there is no option of 16 bits: bf16's error is white, and as loud as the faint channels beside loud ones."""
    rounded = [torch.from_numpy(wave).bfloat16().float().numpy() for wave in WAVES]
    off = off_by(DMelOnDevice("cpu"), rounded)
    assert 0.01 < (off > 0).mean() < 0.5


def test_a_cell_at_a_border_is_decided_by_numpy(monkeypatch):
    """With every frame called near a border all codes are numpy's, whatever the device computed."""
    monkeypatch.setattr("models.codecs.dmel_torch._NEAR", 100.0)
    wave = WAVES[-1]
    wrong = DMelOnDevice("cpu", decides_borders=False)
    right = DMelOnDevice("cpu")
    monkeypatch.setattr(torch.Tensor, "log10", lambda self: self * 0)
    assert not np.array_equal(wrong.encode(wave), DMel().encode(wave))
    assert np.array_equal(right.encode(wave), DMel().encode(wave))


def test_few_frames_are_decided_on_the_cpu(monkeypatch):
    frames = []
    original = DMel._energies
    monkeypatch.setattr(DMel, "_energies", lambda self, rows: frames.append(len(rows)) or original(self, rows))
    DMelOnDevice("cpu").encode_many(WAVES)
    assert 0 < sum(frames) < 0.1 * sum(codes.shape[1] for codes in EXPECTED)


def test_blocks_of_frames_change_nothing(monkeypatch):
    monkeypatch.setattr("models.codecs.dmel_torch.MAX_FRAMES", 7)
    for one, other in zip(DMelOnDevice("cpu").encode_many(WAVES[:8]), EXPECTED, strict=False):
        assert np.array_equal(one, other)


def test_the_device_chooses_and_changes_neither_name_nor_digest():
    assert type(load_codec("dmel")) is DMel
    on_device = load_codec("dmel", device="cpu:0")
    assert isinstance(on_device, DMelOnDevice)
    assert on_device.spec == DMel().spec
    for one, other in zip(encode_many(on_device, WAVES[:6]), EXPECTED, strict=False):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("bad", [np.array([0.1, np.nan], np.float32), np.zeros((2, 4), np.float32)])
def test_anything_but_a_finite_waveform_is_refused(bad):
    with pytest.raises(ValueError, match=r"NaN|one channel"):
        DMelOnDevice("cpu").encode_many([WAVES[-1], bad])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_all_codes_are_those_of_numpy():
    for one, other in zip(load_codec("dmel", device="cuda").encode_many(WAVES), EXPECTED, strict=True):
        assert np.array_equal(one, other)
