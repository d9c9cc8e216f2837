import json

import numpy as np
import pytest
import soundfile

from operators.corpus.voices.drawing import Part
from operators.corpus.voices.speaking import RATE_HZ, Journal, journal_of, key_of, speak_part, spoken
from operators.errors import UnusableRowError
from tests.operators.corpus.voices.tones import Tones

TEXTS = ("the first one", "unspeakable things", "the second one is longer", "a mute one", "the last one")
PART = Part("tones", "A", "train", TEXTS, 1000.0)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def whole(tmp_path):
    """The files of a run that nothing interrupted."""
    list(speak_part(Tones(), PART, tmp_path / "whole"))
    return files(tmp_path / "whole")


def test_rows_tell_what_is_in_the_files_and_what_cannot_be_said_is_told_with_the_reason(tmp_path, whole):
    rows = Journal.read(journal_of(tmp_path / "whole", PART)).rows
    assert [row["text"] for row in rows] == list(TEXTS)
    assert [row.get("reason") for row in rows] == [None, "it is unspeakable", None, "the voice says nothing", None]
    assert len(whole) == 3 + 1
    for row in rows:
        if "audio" in row:
            samples, rate_hz = soundfile.read(tmp_path / "whole" / row["audio"])
            assert rate_hz == row["sample_rate"] == RATE_HZ
            assert len(samples) / RATE_HZ == row["duration"] == len(row["text"].split()) / 2
            assert row["speaker"] == "tones-A"
            assert (row["gender"], row["split"], row["program"]) == ("m", "train", "tones 1")


def test_a_voice_ends_with_the_text_that_reaches_its_duration_and_goes_on_from_there(tmp_path, whole):
    folder = tmp_path / "short"
    short = Part("tones", "A", "train", TEXTS, 2.0)
    assert sum(spoken_s for spoken_s, _ in speak_part(Tones(), short, folder)) == 4.0
    assert len(Journal.read(journal_of(folder, short)).rows) == 3
    synthesizer = Tones()
    list(speak_part(synthesizer, PART, folder))
    assert [text for _, text in synthesizer.said] == list(TEXTS[3:])
    assert files(folder) == whole
    journal = Journal.read(journal_of(folder, PART))
    rows, sum_s = journal.until(2.0)  # a shorter run takes as much of it as it would have spoken
    assert ([row["text"] for row in rows], sum_s) == (list(TEXTS[:3]), 4.0)


@pytest.mark.parametrize("kept", range(1, 6))
def test_a_run_that_died_within_a_line_or_a_file_goes_on_to_the_same_bytes(tmp_path, whole, kept):
    folder = tmp_path / "died"
    list(speak_part(Tones(), PART, folder))
    path = journal_of(folder, PART)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
    for audio in (folder / "audio").rglob("*.flac"):  # of the last files only the beginning was on the disk
        audio.write_bytes(audio.read_bytes()[:40])
    synthesizer = Tones()
    list(speak_part(synthesizer, PART, folder))
    assert files(folder) == whole
    list(speak_part(synthesizer := Tones(), PART, folder))
    assert synthesizer.said == []  # all is there


def test_a_journal_is_of_its_texts_side_and_program(tmp_path):
    key = key_of(PART, Tones())
    other = Tones()
    other.program = "tones 2"
    changed = [
        key_of(PART, other),
        key_of(Part("tones", "A", "test", TEXTS, 1000.0), Tones()),
        key_of(Part("tones", "A", "train", TEXTS[::-1], 1000.0), Tones()),
        key_of(Part("tones", "B", "train", TEXTS, 1000.0), Tones()),
    ]
    assert len({key, *changed}) == 5
    assert key_of(Part("tones:elsewhere", "A", "train", TEXTS, 1.0), Tones()) == key  # hours and place are the run's
    assert Journal.read(tmp_path / "none") is None


def test_speech_is_resampled_and_what_is_no_speech_refused():
    samples = spoken(Tones(), "A", "four words of speech")
    assert samples.dtype == np.float32
    assert len(samples) == 2 * RATE_HZ
    spectrum = np.abs(np.fft.rfft(samples))
    (peak_hz,) = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)[[spectrum.argmax()]]
    assert peak_hz == pytest.approx(100 + sum(map(ord, "Afour words of speech")) % 300, abs=1)

    class Broken(Tones):
        def speak(self, voice, text):
            return np.full(100, np.nan if text == "nan" else 0.0, np.float32)[: 0 if text == "empty" else None]

    for text, reason in (("nan", "no numbers"), ("silence", "says nothing"), ("empty", "says nothing")):
        with pytest.raises(UnusableRowError, match=reason):
            spoken(Broken(), "A", text)


def test_the_journal_is_no_manifest(tmp_path, whole):
    from operators.corpus.forms import manifest_rows
    from operators.corpus.manifest import Manifest

    rows = [row for row in Journal.read(journal_of(tmp_path / "whole", PART)).rows if "audio" in row]
    (tmp_path / "whole" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(list(manifest_rows(Manifest.parse(str(tmp_path / "whole"))))) == 3
