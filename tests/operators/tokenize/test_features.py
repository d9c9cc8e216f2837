"""Features of stretches: which of them share a batch changes nothing, and how they are kept loses what is stated."""

import numpy as np
import pytest
import torch

from models.codecs.codec import pack_codes
from models.codecs.pcm import Pcm
from models.speech_lm.hearing.encoder import Hearing
from operators.errors import InputError
from operators.schema import FEATURES, STRETCHES, table
from operators.tokenize import features
from operators.tokenize.features import Features, Hear, stored
from tests.models.support import save_small_whisper

pytest.importorskip("transformers", reason="transformers (extra `codecs`) is not installed")
COLUMNS = (3, 25, 1, 11, 40, 11)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(2)
    return save_small_whisper(tmp_path_factory.mktemp("encoder"))


def sounds():
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(1280 * n)).astype(np.float32) for n in COLUMNS]


def batch():
    rows = [
        {
            "conversation_id": "c",
            "channel": 0,
            "start_frame": 7 * number,
            "num_frames": len(wav) // 1280,
            "samples": pack_codes(Pcm().encode(wav), 16),
        }
        for number, wav in enumerate(sounds())
    ]
    return table(rows, STRETCHES)


def frames(made, dtype, width=32):
    return [np.frombuffer(value.as_buffer(), dtype).reshape(-1, width) for value in made["values"]]


def test_features_are_the_encoders_frames_and_which_stretches_share_a_batch_changes_nothing(encoder):
    hearing = Hearing(encoder)
    with torch.no_grad():
        alone = [hearing([torch.from_numpy(wav)])[0][:, 0].numpy() for wav in sounds()]
    whole = Hear(Features(store="float32"), encoder)(batch())
    assert whole.schema == FEATURES
    assert whole.drop_columns(["values", "scales"]) == batch().drop_columns(["samples"])
    split = [Hear(Features(store="float32"), encoder)(batch().slice(number, 1)) for number in range(len(COLUMNS))]
    small = Hear(Features(store="float32", batch_s=0.1), encoder)(batch())
    for number, expected in enumerate(alone):
        assert len(expected) == 4 * COLUMNS[number]
        for made in (frames(whole, "<f4")[number], frames(split[number], "<f4")[0], frames(small, "<f4")[number]):
            np.testing.assert_allclose(made, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_what_is_kept_is_off_by_no_more_than_stated():
    rng = np.random.default_rng(0)
    real = (rng.standard_normal((50, 6)) * [1e-3, 1, 30, 0, 1e5, 1]).astype(np.float32)
    values, scales = stored(real, "int8")
    assert (values.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (6,))
    assert (np.abs(values * scales - real) <= np.abs(real).max(axis=0) / 254 * 1.0001).all()
    assert np.abs(values).max(axis=0).tolist() == [127, 127, 127, 0, 127, 127]
    half, none = stored(real, "float16")
    assert (half.dtype, none.shape) == (np.float16, (0,))
    inside = np.abs(real) < 65_504
    np.testing.assert_allclose(half.astype(np.float32)[inside], real[inside], rtol=2**-11, atol=2**-25)
    assert np.isfinite(half).all()
    assert not inside.all()
    whole, none = stored(real, "float32")
    assert np.array_equal(whole, real)
    assert not len(none)


def test_a_process_loads_the_encoder_once(encoder, monkeypatch):
    features._loaded.cache_clear()
    loads = []
    monkeypatch.setattr("models.speech_lm.hearing.encoder.load_encoder", lambda name: loads.append(name) or real(name))
    from models.speech_lm.hearing.load import load_encoder as real

    for _ in range(2):  # as for two partitions, each with an operator of its own
        Hear(Features(store="int8"), encoder)(batch().slice(0, 1))
    assert loads == [encoder]
    with pytest.raises(InputError, match=r"model\.encoder: .* has layers 0 to 2"):
        Hear(Features(store="int8"), encoder, (9,))(batch())
