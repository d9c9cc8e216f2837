"""The length of a recording is what can be read of it, whatever its header says."""

import numpy as np
import pytest
import soundfile

from operators.corpus.sources import mp3_samples, read_header, read_source, states_length


def without_length(path, mode):
    """Write five seconds of mp3, and take out the first frame, which states the length."""
    wav = np.random.default_rng(0).normal(0, 0.1, 80_000) * np.repeat([0.0, 1.0, 0.01, 1.0, 0.0], 16_000)
    soundfile.write(path, wav, 16_000, format="MP3", bitrate_mode=mode, compression_level=0.5)
    data = path.read_bytes()
    assert states_length(data)
    first = data.index(b"\xff", 2)
    while mp3_samples(data[first:]) % 576 or states_length(data[first:]):
        first = data.index(b"\xff", first + 1)
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + data[first:])  # a tag in front, as players write
    return mp3_samples(data[first:])


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_without_a_stated_length_is_as_long_as_its_frames(tmp_path, mode):
    """libsndfile estimates 2.5 times as much for the variable one."""
    in_frames = without_length(tmp_path / "a.mp3", mode)
    assert soundfile.info(tmp_path / "a.mp3").frames != in_frames
    header = read_header(tmp_path / "a.mp3")
    assert header.num_samples == in_frames
    turn = {"audio": "a.mp3", "corpus": "c", "byte_offset": 0, "byte_length": 0, "channel": 0}
    span = {"source_rate_hz": 16_000, "source_start_sample": 0, "source_num_samples": in_frames}
    assert len(read_source({**turn, **span}, {"c": tmp_path})) == in_frames


def test_an_mp3_of_which_less_can_be_decoded_than_it_holds_is_refused_with_the_cure(tmp_path, monkeypatch):
    in_frames = without_length(tmp_path / "a.mp3", "VARIABLE")
    read = soundfile.SoundFile.blocks
    monkeypatch.setattr(soundfile.SoundFile, "blocks", lambda sound, *a, **o: [next(read(sound, 30_000, **o))])
    with pytest.raises(
        soundfile.SoundFileError, match=r"variable bit rate .* 1.88 s of 5.08 s can be read; .ffmpeg -i IN.mp3"
    ):
        read_header(tmp_path / "a.mp3")
    assert in_frames == 81_216
