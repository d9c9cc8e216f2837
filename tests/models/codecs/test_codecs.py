import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

from models.codecs import load_codec
from models.codecs.codec import pack_codes, unpack_codes
from models.codecs.dmel import DMel, mel_filterbank


def speechlike(num_samples, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(num_samples) / 16_000
    wav = sum(np.sin(2 * np.pi * f * t) / f for f in (120, 240, 360, 1200, 2500)) * 20
    return (wav * (0.2 + 0.1 * np.sin(2 * np.pi * 3 * t)) + 0.002 * rng.standard_normal(num_samples)).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5000))
def test_dmel_makes_exactly_the_promised_number_of_frames(num_samples):
    codec = DMel()
    assert codec.encode(speechlike(num_samples)).shape == (80, codec.num_frames(num_samples))


def test_dmel_follows_its_definition():
    """The plain reference: one frame at a time, in double precision."""
    wav = speechlike(16_000)
    codes = DMel().encode(wav)
    window = np.hanning(801)[:-1]
    padded = np.pad(wav.astype(np.float64), (200, 200))
    filters = mel_filterbank(80, 513, 16_000).astype(np.float64)
    wrong = 0
    for t in range(40):
        power = np.abs(scipy.fft.rfft(padded[400 * t : 400 * t + 800] * window, 1024)) ** 2
        level = (np.log10(np.maximum(power @ filters, 1e-10)) + 5.0) / 7.5 * 16
        expected = np.clip(np.floor(level), 0, 15)
        differs = expected != codes[:, t]
        # float32 may round differently only where the value is on the edge of a bin.
        assert (np.abs(level[differs] - np.round(level[differs])) < 1e-3).all()
        wrong += int(differs.sum())
    assert wrong <= 2


def test_a_frames_codes_do_not_depend_on_samples_outside_its_window():
    wav = speechlike(40_000)
    whole = DMel().encode(wav)
    part = DMel().encode(wav[8_000:24_000])
    assert np.array_equal(part[:, 1:-1], whole[:, 21:59])


def test_codes_of_decoded_audio_are_close_to_the_codes_it_was_decoded_from():
    codec, wav = DMel(), speechlike(16_000)
    codes = codec.encode(wav)
    again = codec.decode(codes, 16_000)
    assert again.shape == (16_000,)
    assert np.abs(codec.encode(again).astype(int) - codes).mean() < 1.0


@pytest.mark.parametrize("bad", [np.array([0.1, np.nan], np.float32), np.zeros((2, 4), np.float32)])
def test_anything_but_a_finite_waveform_is_refused(bad):
    with pytest.raises(ValueError, match=r"NaN|one channel"):
        DMel().encode(bad)


def test_silence_and_empty_waveforms_are_encoded():
    assert (DMel().encode(np.zeros(1000, np.float32)) == 0).all()
    assert DMel().encode(np.zeros(0, np.float32)).shape == (80, 0)
    assert DMel().decode(np.zeros((80, 0), np.uint16), 10).shape == (10,)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([(4, 16), (8, 256), (16, 65_536)]), st.integers(1, 5), st.integers(0, 30), st.integers(0, 99))
def test_packed_codes_are_unpacked_again(size, half, num_frames, seed):
    bits, entries = size
    codes = np.random.default_rng(seed).integers(0, entries, (2 * half, num_frames))
    data = pack_codes(codes, bits)
    assert len(data) == 2 * half * num_frames * bits // 8
    assert np.array_equal(unpack_codes(data, 2 * half, bits), codes)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit in 4 bits"):
        pack_codes(np.array([[16], [0]]), 4)


def test_unknown_codecs_and_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown codec 'mimo'; choose from dmel, pcm"):
        load_codec("mimo")
    with pytest.raises(ValueError, match="needs the folder of its weights"):
        load_codec("lyra")
    with pytest.raises(ValueError, match=r"lacks soundstream_encoder\.tflite"):
        load_codec("lyra", str(tmp_path))


def test_lyra_keeps_the_contract_on_real_speech(shared):
    import soundfile

    pytest.importorskip("ai_edge_litert", reason="codec lyra's runtime (extra `lyra`) is not installed")
    codec = load_codec("lyra", str(shared / "data/lyra_v2"))
    wav, rate_hz = soundfile.read(shared / "data/lyra_v2/sample1_16kHz.wav", dtype="float32")
    assert rate_hz == codec.spec.sample_rate_hz
    codes = codec.encode(wav)
    assert codes.shape == (16, codec.num_frames(len(wav))) == (16, 173)
    assert codes.max() < codec.spec.codebook_size
    # No state is left over: the codes are the same after another recording.
    codec.encode(wav[::-1].copy())
    assert np.array_equal(codec.encode(wav), codes)
    # Causal: the codes of a prefix are a prefix of the codes.
    assert np.array_equal(codec.encode(wav[: 320 * 50]), codes[:, :50])
    decoded = codec.decode(codes, len(wav))
    assert decoded.shape == wav.shape
    envelopes = [np.abs(x[: 320 * 172].reshape(-1, 320)).mean(axis=1) for x in (wav, decoded)]
    assert np.corrcoef(*envelopes)[0, 1] > 0.9
