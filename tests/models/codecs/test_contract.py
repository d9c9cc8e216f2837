"""The contract of docs/codecs.md, checked for every codec in the table `models.codecs.CODECS`.

An entry declares its test data: an `example` that writes small weights, or the folder of real ones in the tests' shared
data. A codec that needs weights and declares neither fails.
"""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from models.codecs import CODECS, codec_entry, load_codec, reload_codec
from models.codecs.codec import encode_many, pack_codes, unpack_codes
from tests.conftest import SHARED


def weights_of(name, folder):
    """Test weights of a codec, None where it needs none; skips where its package or the shared data are missing."""
    entry = codec_entry(name)
    has_data = not entry.needs_weights or entry.example is not None or entry.shared_weights
    assert has_data, f"codec {name} has no test data: give its entry an example or shared_weights"
    if entry.package and importlib.util.find_spec(entry.package) is None:
        pytest.skip(f"codec {name} needs {entry.package}, which is not installed")
    if not entry.needs_weights:
        return None
    if entry.example is not None:
        return entry.example(folder / name)
    weights = SHARED / "data" / entry.shared_weights
    if not weights.is_dir():
        pytest.skip(f"no weights of {name} at {weights} (set HUBBUB_SHARED)")
    return str(weights)


@pytest.fixture(scope="module", params=CODECS)
def loaded(request, tmp_path_factory):
    """A codec loaded by the real code, and its weights."""
    weights = weights_of(request.param, tmp_path_factory.mktemp("weights"))
    return load_codec(request.param, weights), weights


@pytest.fixture
def codec(loaded):
    return loaded[0]


def speech_of(codec, seconds, seed=0):
    number = round(seconds * codec.spec.sample_rate_hz)
    rng = np.random.default_rng(seed)
    t = np.arange(number) / codec.spec.sample_rate_hz
    tone = 0.1 * np.sin(2 * np.pi * (150 + 50 * seed) * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (tone + 0.05 * rng.standard_normal(number)).astype(np.float32)


def test_the_spec_is_consistent_and_named_as_in_the_table(codec, request):
    spec = codec.spec
    assert spec.name in CODECS
    assert f"[{spec.name}]" in request.node.name
    assert spec.bits in (4, 8, 16)
    assert 2 <= spec.codebook_size <= 1 << spec.bits
    assert spec.num_codebooks >= 1
    assert spec.bits != 4 or spec.num_codebooks % 2 == 0  # two codes a byte
    assert spec.sample_rate_hz > 0
    assert spec.frame_rate_hz == spec.sample_rate_hz / spec.hop_samples
    assert len(spec.weights_digest) == 64
    assert spec.licence
    assert codec_entry(spec.name).about


def test_every_length_gives_exactly_the_promised_number_of_frames(codec):
    spec, wav = codec.spec, speech_of(codec, 1.2)
    hop = spec.hop_samples
    for number in (0, 1, hop - 1, hop, hop + 1, 5 * hop, 5 * hop + 1, len(wav)):
        codes = codec.encode(wav[:number])
        assert codes.dtype == np.uint16
        assert codes.shape == (spec.num_codebooks, codec.num_frames(number))
        assert codec.num_frames(number) == -(-number // hop)
        assert not codes.size or codes.max() < spec.codebook_size


def test_codes_are_a_function_of_the_recording_alone(codec):
    wav, longer, equally_long = speech_of(codec, 0.8), speech_of(codec, 1.1, seed=1), speech_of(codec, 0.8, seed=2)
    before = wav.copy()
    codes = codec.encode(wav)
    assert np.array_equal(wav, before)  # the input is not altered
    expected = [codes, codec.encode(longer), codec.encode(equally_long)]
    assert np.array_equal(codec.encode(wav), codes)
    for batch in ([], [0], [1, 0, 0], [0, 2, 0]):  # batched where lengths are equal; for causal codecs, always
        batched = encode_many(codec, [(wav, longer, equally_long)[i] for i in batch])
        assert len(batched) == len(batch)
        for i, found in zip(batch, batched, strict=True):
            assert np.array_equal(found, expected[i])


def test_the_spec_and_the_weights_load_the_same_codec_again(loaded):
    codec, weights = loaded
    wav = speech_of(codec, 0.5)
    load_codec.cache_clear()
    again = reload_codec(codec.spec, weights)
    assert again is not codec
    assert again.spec == codec.spec
    assert np.array_equal(again.encode(wav), codec.encode(wav))


def test_fewer_codebooks_can_be_chosen_where_the_entry_declares_so(loaded):
    codec, weights = loaded
    if not codec_entry(codec.spec.name).has_codebook_choice:
        pytest.skip("no choice of codebooks")
    fewer = reload_codec(replace(codec.spec, num_codebooks=2), weights)
    assert fewer.spec.num_codebooks == 2 < codec.spec.num_codebooks
    assert np.array_equal(fewer.encode(speech_of(codec, 0.5)), codec.encode(speech_of(codec, 0.5))[:2])


def test_codes_are_stored_and_read_back(codec):
    codes, spec = codec.encode(speech_of(codec, 0.5)), codec.spec
    assert np.array_equal(unpack_codes(pack_codes(codes, spec.bits), spec.num_codebooks, spec.bits), codes)


def test_decoding_returns_the_requested_number_of_samples(codec):
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


def test_anything_but_a_finite_waveform_is_refused(codec):
    one_bad_sample = np.zeros(4000, np.float32)
    one_bad_sample[3999] = np.inf
    for bad in (np.full(4000, np.nan, np.float32), one_bad_sample, -one_bad_sample):
        with pytest.raises(ValueError, match="NaN or infinity"):
            codec.encode(bad)
    for bad in (np.zeros((2, 4000), np.float32), np.zeros((1, 4000), np.float32)):
        with pytest.raises(ValueError, match="one channel"):
            codec.encode(bad)


def test_missing_weights_are_named(codec):
    name = codec.spec.name
    if not codec_entry(name).needs_weights:
        assert load_codec(name).spec == codec.spec
        return
    with pytest.raises(ValueError, match="needs the folder of its weights"):
        load_codec(name)


def test_a_codec_without_test_data_fails(monkeypatch, tmp_path):
    untested = replace(codec_entry("dmel"), needs_weights=True, package="not_installed_anywhere")
    monkeypatch.setitem(sys.modules, "models.codecs.untested", SimpleNamespace(CODEC=untested))
    monkeypatch.setitem(CODECS, "untested", "models.codecs.untested")
    with pytest.raises(AssertionError, match="codec untested has no test data"):
        weights_of("untested", tmp_path)


def test_the_table_is_light():
    """A recipe lists codecs by name: that must import neither them nor what they run on."""
    code = "import sys, models.codecs; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout
    for module in (
        "'torch'",
        "'transformers'",
        "'snac'",
        "'ai_edge_litert'",
        *(f"'{name}'" for name in CODECS.values()),
    ):
        assert module not in imported
