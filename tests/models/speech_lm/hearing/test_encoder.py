"""An encoder over many stretches at once: each as if it were alone, and as transformers' own modules encode it."""

from functools import partial

import numpy as np
import pytest
import torch

from models.speech_lm.hearing.encoder import Hearing
from tests.models.support import save_small_whisper

transformers = pytest.importorskip("transformers")
COLUMNS = (1, 9, 4, 25, 9, 60)  # the small Whisper's window is 25 columns: the last stretch is longer


@pytest.fixture(scope="module", params=["whisper", "wavlm", "wav2vec2"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / request.param
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    small |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    if request.param == "whisper":
        save_small_whisper(path)
    elif request.param == "wavlm":
        transformers.WavLMModel(transformers.WavLMConfig(**small)).save_pretrained(path)
    else:
        transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**small)).save_pretrained(path)
    return str(path)


def sounds():
    rng = np.random.default_rng(0)
    return [torch.from_numpy((0.1 * rng.standard_normal(1280 * n)).astype(np.float32)) for n in COLUMNS]


@pytest.mark.parametrize("window", ["content", "full"])
@pytest.mark.parametrize("layers", [(), (0, 1, 2)])
def test_batched_equals_one_by_one(folder, window, layers):
    hearing = Hearing(folder, layers=layers, window=window)
    with torch.no_grad():
        batched = hearing(sounds(), most_frames=10**6)
        alone = [hearing([wav])[0] for wav in sounds()]
    for number, (mine, theirs) in enumerate(zip(batched, alone, strict=True)):
        assert mine.shape == (4 * COLUMNS[number], len(layers) or 1, 32)
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_as_many_stretches_as_fit_go_through_the_encoder_at_once(folder):
    hearing = Hearing(folder)
    calls = []

    def counted(real, encoder, wavs, *told):
        calls.append(len(wavs))
        return real(encoder, wavs, *told)

    for name in ("_whisper", "_convolved"):
        real = getattr(hearing, name)
        setattr(hearing, name, partial(counted, real))
    with torch.no_grad():
        hearing(sounds(), most_frames=10**6)
        # The longest stretch is three pieces of Whisper's window; others batch equal lengths only.
        assert sorted(calls) == ([8] if hearing.kind == "whisper" else [1, 1, 1, 1, 2])
        calls.clear()
        hearing(sounds(), most_frames=1)
    assert set(calls) == {1}


def test_gradients_of_updates_are_the_same_batched_and_one_by_one(folder):
    torch.manual_seed(0)
    hearing = Hearing(folder, rank=2)
    with torch.no_grad():
        for up in hearing.update_up:
            up.normal_()
    found, weights = [], torch.randn(1, 1, 32)
    for most in (10**6, 1):
        hearing.zero_grad()
        sum((states * weights).sum() for states in hearing(sounds(), most_frames=most)).backward()
        found.append([parameter.grad.clone() for parameter in hearing.parameters()])
    assert len(found[0]) == 8
    for mine, theirs in zip(*found, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_the_full_window_is_transformers_own_forward_and_content_is_another_result(tmp_path):
    torch.manual_seed(0)
    folder = save_small_whisper(tmp_path)
    wav = sounds()[1]
    whole = transformers.WhisperModel.from_pretrained(folder).encoder.eval()
    extract = transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=2)
    mel = extract(wav.numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = whole(mel, output_hidden_states=True)
        full = Hearing(folder, layers=(0, 1, 2), window="full")([wav])[0]
        for layer in range(3):
            theirs = expected.hidden_states[layer][0, : len(full)]
            torch.testing.assert_close(full[:, layer], theirs, rtol=1e-5, atol=1e-5)
        content = Hearing(folder, layers=(0, 1, 2))([wav])[0]
    # Before attention only the last frame differs, which a convolution sees the border from.
    torch.testing.assert_close(content[:-1, 0], full[:-1, 0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(content[:, 2], full[:, 2], atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_encodes_a_batch_as_the_cpu_does_each_stretch_alone(folder, dtype):
    hearing = Hearing(folder)
    with torch.no_grad():
        alone = [hearing([wav])[0] for wav in sounds()]
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            batched = hearing([wav.cuda() for wav in sounds()])
    for mine, theirs in zip(batched, alone, strict=True):
        error = (mine.float().cpu() - theirs).norm() / theirs.norm()
        assert error < (2e-2 if dtype == torch.bfloat16 else 2e-3)  # convolutions may use TF32
