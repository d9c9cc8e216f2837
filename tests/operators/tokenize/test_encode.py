"""What is encoded together on a device changes no code."""

import numpy as np

from models.codecs.dmel import DMelOnDevice
from operators.tokenize.encode import Encode


def waves(number=5):
    rng = np.random.default_rng(0)
    return [rng.normal(0, 2000, int(rng.integers(0, 30_000))).astype(np.int16) for _ in range(number)]


def test_dmel_on_a_device_encodes_all_at_once_and_the_same(monkeypatch):
    batches = []
    original = DMelOnDevice.encode_many
    monkeypatch.setattr(
        DMelOnDevice, "encode_many", lambda self, wavs: batches.append(len(wavs)) or original(self, wavs)
    )
    given = waves()
    found = Encode(device="cpu:0").encode_all(given)
    assert batches == [len(given)]
    for one, other in zip(found, Encode().encode_all(given), strict=True):
        assert np.array_equal(one, other)
    assert Encode(device="cpu:0").encode_all([]) == []


def test_on_a_device_waveforms_of_like_length_are_encoded_together_by_default():
    lengths = [16_000] * 4 + [160_000]
    assert Encode(codec="pcm")._batches(lengths) == [[0], [1], [2], [3], [4]]
    assert Encode(codec="pcm", device="cpu:0")._batches(lengths) == [[0, 1, 2, 3], [4]]
    assert Encode(codec="pcm", device="cpu:0", batch_s=2.0)._batches(lengths) == [[0, 1], [2, 3], [4]]
