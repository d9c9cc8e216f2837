"""Files that claim or expand to far more than they hold are refused with the reason."""

import gzip

import numpy as np
import pytest
import soundfile

from operators.corpus import formats
from operators.corpus.sources import read_header
from operators.errors import InputError


def test_a_gzip_that_expands_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_MOST_EXPANDED", 1 << 16)
    path = tmp_path / "manifest.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * (1 << 20)))
    with pytest.raises(InputError, match="expands to over"):
        list(formats.json_lines(path))


def test_a_line_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_LONGEST_LINE", 1 << 10)
    path = tmp_path / "manifest.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": "' + b"x" * (1 << 20) + b'"}'))
    with pytest.raises(InputError, match="has a line of more than"):
        list(formats.json_lines(path))


def test_a_header_that_claims_more_samples_than_its_bytes_can_hold_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    assert read_header(path).num_samples == 16_000
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the upper 4 of 36 bits of STREAMINFO's number of samples
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(soundfile.SoundFileError, match="header claims 68719476735 samples"):
        read_header(path)


def test_silence_is_not_taken_for_a_false_claim(tmp_path):
    path = tmp_path / "silence.flac"
    soundfile.write(path, np.zeros(16_000 * 600), 16_000)
    assert read_header(path).num_samples == 16_000 * 600
