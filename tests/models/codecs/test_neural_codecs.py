"""Neural codecs with small random weights, saved and loaded by the real code, against the libraries called directly."""

import numpy as np
import pytest
import torch

from models.codecs import codec_entry, load_codec
from models.codecs.codec import encode_many, pack_codes, unpack_codes
from models.codecs.neural.transformers_codec import SemanticCodec

transformers = pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")


@pytest.fixture(scope="module", params=["mimi", "encodec", "dac", "xcodec", "xcodec2", "neucodec"])
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / request.param
    codec_entry(request.param).example(folder)
    return load_codec(request.param, str(folder)), folder


def noise(codec, seconds, seed=0):
    number = round(seconds * codec.spec.sample_rate_hz)
    return np.random.default_rng(seed).normal(0, 0.1, number).astype(np.float32)


def test_every_length_gives_the_promised_number_of_frames(loaded):
    codec, _ = loaded
    hop = codec.spec.hop_samples
    for number in (0, 1, hop - 1, hop, hop + 1, 7 * hop, 7 * hop + 1, codec.spec.sample_rate_hz):
        codes = codec.encode(noise(codec, 1)[:number])
        assert codes.dtype == np.uint16
        assert codes.shape == (codec.spec.num_codebooks, codec.num_frames(number)) == (len(codes), -(-number // hop))
        # With one channel per group, a single frame cannot be normalized.
        if codes.shape[1] != 1 or not isinstance(codec, SemanticCodec):
            assert codec.decode(codes, number).shape == (number,)
    assert not codes.size or codes.max() < codec.spec.codebook_size
    assert np.array_equal(unpack_codes(pack_codes(codes, codec.spec.bits), len(codes), codec.spec.bits), codes)


def test_codes_equal_those_of_the_library_called_directly(loaded):
    codec, folder = loaded
    wav = noise(codec, 0.5)
    wav = wav[: len(wav) // codec.spec.hop_samples * codec.spec.hop_samples]
    model = type(codec.model).from_pretrained(folder).eval()
    batch = torch.from_numpy(wav)[None, None]
    options = {"bandwidth": model.config.target_bandwidths[-1]} if codec.name in ("encodec", "xcodec") else {}
    if isinstance(codec, SemanticCodec):
        # Padded as the library's extractors do: a hop at the end, and for X-Codec 2 half a hop on either side.
        longer = np.pad(wav, (0, 320))
        extract = transformers.SeamlessM4TFeatureExtractor()
        padded = np.pad(longer, 160 if codec.name == "xcodec2" else 0)
        features = extract(padded, sampling_rate=16_000, return_tensors="pt")["input_features"]
        batch, options = torch.from_numpy(longer)[None, None], {"input_features": features}
    with torch.no_grad():
        expected = model.encode(batch, **options).audio_codes.reshape(codec.spec.num_codebooks, -1).numpy()
    assert np.array_equal(codec.encode(wav), expected[:, : codec.num_frames(len(wav))])


def test_batches_change_no_code_and_other_weights_have_another_digest(loaded):
    codec, folder = loaded
    wavs = [noise(codec, seconds, seed) for seed, seconds in enumerate((0.6, 1.0, 0.81))]
    for one, other in zip(encode_many(codec, wavs), [codec.encode(wav) for wav in wavs], strict=True):
        assert np.array_equal(one, other)
    equally_long = [noise(codec, 0.5, seed) for seed in range(3)]
    for one, other in zip(encode_many(codec, equally_long), [codec.encode(wav) for wav in equally_long], strict=True):
        assert np.array_equal(one, other)
    again = type(codec)(str(folder))
    assert again.spec == codec.spec
    with torch.no_grad():
        next(again.model.parameters()).add_(1.0)
    again.__dict__.pop("spec", None)
    assert again.spec.weights_digest != codec.spec.weights_digest


def test_pieces_of_long_recordings_are_exact_with_state_and_close_with_context(loaded, monkeypatch):
    codec, _ = loaded
    wav = noise(codec, 6.0)
    whole = codec.encode(wav)
    monkeypatch.setattr("models.codecs.neural.transformers_codec.PIECE_S", 2.0)
    monkeypatch.setattr("models.codecs.neural.transformers_codec.CONTEXT_S", 1.0)
    pieces = codec.encode(wav)
    assert pieces.shape == whole.shape
    same = float((pieces == whole).mean())
    if codec.name == "mimi":
        assert same == 1.0
    elif codec.name in ("dac", "encodec"):
        assert same > 0.99
    else:  # attention or normalization over the whole recording: pieces are different recordings
        assert same > 0.3


def test_invalid_waveforms_and_codes_are_refused(loaded):
    codec, _ = loaded
    with pytest.raises(ValueError, match="NaN or infinity"):
        codec.encode(np.full(4000, np.nan, np.float32))
    with pytest.raises(ValueError, match="one channel"):
        codec.encode(np.zeros((2, 4000), np.float32))
    wrong = np.full((codec.spec.num_codebooks, 3), codec.spec.codebook_size, np.int64)
    with pytest.raises(ValueError, match=r"its codebooks have \d+ entries, but a code is"):
        codec.decode(wrong, 100)
    silent = codec.encode(np.zeros(codec.spec.sample_rate_hz // 2, np.float32))
    assert silent.shape[1] == codec.num_frames(codec.spec.sample_rate_hz // 2)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="needs the folder of its weights"):
        load_codec("mimi")
    with pytest.raises(ValueError, match=r"codec mimi: folder .*none does not exist"):
        load_codec("mimi", str(tmp_path / "none"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"lacks model.safetensors"):
        load_codec("mimi", str(tmp_path))
    with pytest.raises(ValueError, match="unknown codec 'mimo'; choose from dmel, pcm"):
        load_codec("mimo", str(tmp_path))


def test_with_fewer_codebooks_the_first_are_used(tmp_path):
    codec_entry("mimi").example(tmp_path)
    four, two = load_codec("mimi", str(tmp_path)), load_codec("mimi", str(tmp_path), 2)
    wav = noise(four, 1.0)
    assert np.array_equal(four.encode(wav)[:2], two.encode(wav))
    assert two.spec.num_codebooks == 2
    with pytest.raises(ValueError, match=r"has 1 to 4 codebooks; not 5"):
        load_codec("mimi", str(tmp_path), 5)


def test_snac_interleaves_its_levels_and_separates_them_again(tmp_path):
    pytest.importorskip("snac", reason="snac (extra `codecs`) is not installed")
    codec = load_codec("snac", codec_entry("snac").example(tmp_path))
    model = codec.model
    assert (codec.spec.num_codebooks, codec.spec.hop_samples) == (7, 2048)
    wav = noise(codec, 1.0)
    codes = codec.encode(wav)
    assert codes.shape == (7, codec.num_frames(len(wav)))
    with torch.no_grad():
        levels = [level[0].numpy() for level in model.encode(torch.from_numpy(wav)[None, None])]
    frames = codes.shape[1]
    assert np.array_equal(codes[0], levels[0][:frames])
    assert np.array_equal(codes[[1, 4]].T.reshape(-1), levels[1][: 2 * frames])
    assert np.array_equal(codes[[2, 3, 5, 6]].T.reshape(-1), levels[2][: 4 * frames])
    with torch.no_grad():
        expected = model.decode([torch.from_numpy(level)[None] for level in levels]).reshape(-1).numpy()
    assert np.allclose(codec.decode(codes, len(wav)), expected[: len(wav)], atol=1e-5)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    load_codec.cache_clear()
    with pytest.raises(ValueError, match="is a pickle and is not read"):
        load_codec("snac", str(tmp_path))


def test_units_are_the_nearest_centers_and_mel_units_can_be_decoded(tmp_path):
    from models.codecs.units import Units, features_of, fit_units, save_units

    rng = np.random.default_rng(0)
    t = np.arange(16_000) / 16_000
    wavs = [
        (0.2 * np.sin(2 * np.pi * hz * t) + 0.01 * rng.normal(size=16_000)).astype(np.float32)
        for hz in (200, 800, 2000)
    ]
    for kind in ("mel", "mfcc"):
        features = features_of({"kind": kind})
        centers = fit_units([features(wav) for wav in wavs], 8, seed=0)
        assert np.array_equal(centers, fit_units([features(wav) for wav in wavs], 8, seed=0))
        save_units(tmp_path / kind, centers, {"kind": kind})
        codec = load_codec("units", str(tmp_path / kind))
        for wav in wavs:
            near = ((features(wav)[:, None] - centers[None]) ** 2).sum(-1).argmin(1)
            assert (codec.encode(wav)[0] == near).mean() > 0.99  # except ties
        assert codec.encode(wavs[0]).shape == (1, codec.num_frames(16_000))
        assert len(np.unique([np.bincount(codec.encode(wav)[0]).argmax() for wav in wavs])) == 3
    again = Units(str(tmp_path / "mel"))
    decoded = again.decode(again.encode(wavs[1]), 16_000)
    spectrum = np.abs(np.fft.rfft(decoded))
    assert abs(int(spectrum.argmax()) - 800) < 60
    with pytest.raises(ValueError, match="cannot be decoded to audio"):
        load_codec("units", str(tmp_path / "mfcc")).decode(np.zeros((1, 3), np.uint16), 100)
    with pytest.raises(ValueError, match="too few for 9 units"):
        fit_units([np.zeros((3, 2), np.float32)], 9, seed=0)


def test_units_of_the_users_own_encoder(tmp_path):
    from models.codecs.units import features_of, fit_units, save_units

    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    transformers.HubertModel(config).save_pretrained(tmp_path / "hubert")
    description = {"kind": "encoder", "weights": str(tmp_path / "hubert"), "layer": 1}
    features = features_of(description)
    wav = np.random.default_rng(0).normal(0, 0.1, 16_001).astype(np.float32)
    assert features(wav).shape == (51, 32)
    save_units(tmp_path / "units", fit_units([features(wav)], 16, seed=0), description)
    codec = load_codec("units", str(tmp_path / "units"))
    assert codec.encode(wav).shape == (1, codec.num_frames(len(wav)))
    with pytest.raises(ValueError, match="has layers 0 to 2; not 3"):
        features_of({**description, "layer": 3})


def fresh(codec, folder, device="cpu"):
    return type(codec)(str(folder), device=device)


def test_on_a_device_pieces_are_encoded_together_and_codes_stay(loaded, monkeypatch):
    codec, folder = loaded
    monkeypatch.setattr("models.codecs.neural.transformers_codec.PIECE_S", 1.0)
    monkeypatch.setattr("models.codecs.neural.transformers_codec.CONTEXT_S", 0.3)
    wav = noise(codec, 7.3)
    sizes = []

    def counted(one):
        original = one.run_encoder
        monkeypatch.setattr(
            one, "run_encoder", lambda batch, **state: sizes.append(len(batch)) or original(batch, **state)
        )
        return one

    expected = counted(fresh(codec, folder)).encode(wav)
    assert set(sizes) == {1}
    alone = len(sizes)
    sizes.clear()
    found = counted(fresh(codec, folder, "cpu:0")).encode(wav)  # a device, by the same arithmetic
    if codec.name == "mimi":  # a piece begins with the state of the one before
        assert set(sizes) == {1}
    else:
        assert max(sizes) == 4
        assert len(sizes) < alone
    assert (found == expected).mean() > 0.999


def test_long_recordings_of_one_length_are_encoded_together(loaded, monkeypatch):
    codec, folder = loaded
    monkeypatch.setattr("models.codecs.neural.transformers_codec.PIECE_S", 1.0)
    monkeypatch.setattr("models.codecs.neural.transformers_codec.CONTEXT_S", 0.3)
    seconds = (2.5, 2.2, 2.4) if codec.is_causal else (2.5, 2.5)
    wavs = [noise(codec, length, seed) for seed, length in enumerate(seconds)]
    found = fresh(codec, folder).encode_many(wavs)
    for one, wav in zip(found, wavs, strict=True):
        expected = codec.encode(wav)
        assert one.shape == expected.shape
        assert (one == expected).mean() > 0.999


def test_bf16_is_used_where_codes_stay_and_refused_elsewhere(loaded, monkeypatch):
    codec, folder = loaded
    one, types = fresh(codec, folder), []
    module = next(m for m in one.model.modules() if isinstance(m, torch.nn.Conv1d))
    module.register_forward_hook(lambda _, __, out: types.append(out.dtype))
    monkeypatch.setattr("models.codecs.neural.transformers_codec.LEAST_EQUAL", 0.0)
    rounded = one.in_bf16()
    assert rounded.spec == one.spec
    types.clear()
    rounded.encode(noise(codec, 0.5))
    assert types[0] == torch.bfloat16
    types.clear()
    one.encode(noise(codec, 0.5))
    assert types[0] == torch.float32
    monkeypatch.setattr("models.codecs.neural.transformers_codec.LEAST_EQUAL", 1.1)
    with pytest.raises(ValueError, match=r"in bf16 only .*% of the codes .* use --encode.precision float32"):
        one.in_bf16()


def test_a_machine_without_a_gpu_knows_the_spec_of_a_codec_for_one(loaded):
    codec, folder = loaded
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert fresh(codec, folder, "cuda").spec == codec.spec


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nearly_all_codes_are_those_of_a_cpu(loaded):
    codec, folder = loaded
    wav = noise(codec, 1.0)
    assert (fresh(codec, folder, "cuda").encode(wav) == codec.encode(wav)).mean() > 0.98


def test_snac_has_the_same_codes_through_a_device(tmp_path):
    pytest.importorskip("snac", reason="snac (extra `codecs`) is not installed")
    weights = codec_entry("snac").example(tmp_path)
    on_device, codec = load_codec("snac", weights, device="cpu:0"), load_codec("snac", weights)
    wav = noise(codec, 1.0)
    assert on_device.device == "cpu:0"
    assert np.array_equal(on_device.encode(wav), codec.encode(wav))
    assert load_codec("snac", weights, device="meta").spec == codec.spec
