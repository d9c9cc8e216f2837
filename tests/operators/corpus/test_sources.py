import numpy as np
import pytest
import soundfile

from operators.corpus.sources import read_pcm16


@pytest.mark.parametrize(("channels", "subtype"), [(1, "PCM_16"), (2, "PCM_16"), (1, "PCM_24"), (1, "FLOAT")])
def test_wav_files_read_directly_equal_those_read_by_libsndfile(tmp_path, channels, subtype):
    wave = np.random.default_rng(0).uniform(-1, 1, (5000, channels))
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype=subtype)
    expected = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)[0]
    for start, count, channel in ((0, 5000, 0), (1234, 777, channels - 1)):
        read = read_pcm16(tmp_path / "a.wav", 16_000, start, count, channel)
        if subtype == "PCM_16":
            assert np.array_equal(read, expected[start : start + count, channel])
        else:
            assert read is None
    assert read_pcm16(tmp_path / "a.wav", 8_000, 0, 10, 0) is None
    soundfile.write(tmp_path / "b.flac", wave, 16_000)
    assert read_pcm16(tmp_path / "b.flac", 16_000, 0, 10, 0) is None
