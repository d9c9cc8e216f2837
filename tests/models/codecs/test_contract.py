"""The contract of docs/codecs.md, held by every member of the table `models.codecs.CODECS`.

A member brings its own test data: small weights that its file writes, or real ones in the tests' shared folder. One
that brings neither fails.
"""

import importlib.util

import numpy as np
import pytest

from models.codecs import CODECS, codec_entry, load_codec
from models.codecs.codec import encode_many, pack_codes, unpack_codes
from tests.conftest import SHARED


def example_of(name, folder):
    """A member loaded by the real code, or a skip with the reason."""
    entry = codec_entry(name)
    if entry.package and importlib.util.find_spec(entry.package) is None:
        pytest.skip(f"codec {name} needs {entry.package}, which is not installed")
    if not entry.needs_weights:
        return load_codec(name)
    if entry.example is not None:
        return load_codec(name, entry.example(folder / name))
    assert entry.shared_weights, f"codec {name} brings no test data: give its entry an example or shared_weights"
    weights = SHARED / "data" / entry.shared_weights
    if not weights.is_dir():
        pytest.skip(f"no weights of {name} at {weights} (set HUBBUB_SHARED)")
    return load_codec(name, str(weights))


@pytest.fixture(scope="module", params=CODECS)
def codec(request, tmp_path_factory):
    loaded = example_of(request.param, tmp_path_factory.mktemp("weights"))
    assert loaded.spec.name == request.param
    return loaded


def speech_of(codec, seconds, seed=0):
    number = round(seconds * codec.spec.sample_rate_hz)
    rng = np.random.default_rng(seed)
    t = np.arange(number) / codec.spec.sample_rate_hz
    tone = 0.1 * np.sin(2 * np.pi * (150 + 50 * seed) * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (tone + 0.05 * rng.standard_normal(number)).astype(np.float32)


def test_the_spec_is_consistent_and_named_as_in_the_table(codec):
    spec = codec.spec
    assert spec.name in CODECS
    assert spec.bits in (4, 8, 16)
    assert 2 <= spec.codebook_size <= 1 << spec.bits
    assert spec.num_codebooks >= 1
    assert spec.bits != 4 or spec.num_codebooks % 2 == 0  # two codes a byte
    assert spec.sample_rate_hz > 0
    assert spec.frame_rate_hz == spec.sample_rate_hz / spec.hop_samples
    assert len(spec.weights_digest) == 64
    assert spec.licence
    assert codec_entry(spec.name).about


def test_every_length_makes_exactly_the_promised_frames(codec):
    spec, wav = codec.spec, speech_of(codec, 1.2)
    hop = spec.hop_samples
    for number in (0, 1, hop - 1, hop, hop + 1, 5 * hop, 5 * hop + 1, len(wav)):
        codes = codec.encode(wav[:number])
        assert codes.dtype == np.uint16
        assert codes.shape == (spec.num_codebooks, codec.num_frames(number))
        assert codec.num_frames(number) == -(-number // hop)
        assert not codes.size or codes.max() < spec.codebook_size


def test_codes_are_a_function_of_the_recording_alone(codec):
    one, other = speech_of(codec, 0.8), speech_of(codec, 1.1, seed=1)
    alone = codec.encode(one)
    codec.encode(other)
    assert np.array_equal(codec.encode(one), alone)
    together = encode_many(codec, [other, one, one])
    assert np.array_equal(together[1], alone)
    assert np.array_equal(together[2], alone)
    assert np.array_equal(together[0], codec.encode(other))


def test_codes_are_stored_and_read_back(codec):
    codes, spec = codec.encode(speech_of(codec, 0.5)), codec.spec
    assert np.array_equal(unpack_codes(pack_codes(codes, spec.bits), spec.num_codebooks, spec.bits), codes)


def test_decoding_makes_as_many_samples_as_asked_for(codec):
    codes = codec.encode(speech_of(codec, 0.5))
    for number in (codes.shape[1] * codec.spec.hop_samples, codec.spec.sample_rate_hz // 3):
        wav = codec.decode(codes, number)
        assert wav.shape == (number,)
        assert wav.dtype == np.float32
        assert np.isfinite(wav).all()
    assert codec.decode(codes[:, :0], 10).shape == (10,)


def test_a_prefix_of_a_causal_codec_is_a_prefix_of_its_codes(codec):
    if not codec.spec.causal:
        pytest.skip("not causal")
    wav, hop = speech_of(codec, 1.0), codec.spec.hop_samples
    frames = len(wav) // hop // 2
    assert np.array_equal(codec.encode(wav[: frames * hop]), codec.encode(wav)[:, :frames])


def test_what_is_not_a_waveform_is_refused(codec):
    for bad in (np.full(4000, np.nan, np.float32), np.zeros((2, 4000), np.float32)):
        with pytest.raises(ValueError, match=r"NaN or infinity|one channel"):
            codec.encode(bad)


def test_missing_weights_are_named(codec):
    name = codec.spec.name
    if not codec_entry(name).needs_weights:
        assert load_codec(name).spec == codec.spec
        return
    with pytest.raises(ValueError, match="needs the folder of its weights"):
        load_codec(name)
