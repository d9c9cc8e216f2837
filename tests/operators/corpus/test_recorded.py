"""Recorded conversations: from lhotse, STM and RTTM to the same table as simulated ones, and to the same audio."""

import numpy as np
import pytest
import soundfile

from operators.corpus.annotations import rttm, stm
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.recorded import index_recorded
from operators.corpus.segments import read_rttm, read_stm
from operators.corpus.sources import with_roots
from operators.errors import InputError
from operators.schema import CONVERSATIONS
from operators.simulate.label_check import check_labels
from operators.simulate.render import Render
from operators.simulate.rooms import Place

SEGMENTS = [
    ("ann", 0.5, 2.0, "hello there"),
    ("bob", 1.5, 3.25, "Well, hi!"),
    ("ann", 3.5, 6.0, "so it goes"),
    ("bob", 4.0, 4.5, "yes"),
    ("bob", 6.25, 7.0, "and then"),
]


def write_call(folder, name="call", rate_hz=8000, seconds=8.0, channels=1, shift_s=0.0):
    """Write two talkers of different pitch, silent between their segments; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    wav = 0.0005 * rng.standard_normal((int(rate_hz * seconds), channels))
    for speaker, start_s, end_s, _ in SEGMENTS:
        a, b = (int((t + shift_s) * rate_hz) for t in (start_s, end_s))
        b = min(b, len(wav))
        tone = 0.1 * np.sin(2 * np.pi * (200 if speaker == "ann" else 350) * np.arange(b - a) / rate_hz)
        wav[a:b, 0 if channels == 1 else ["ann", "bob"].index(speaker)] += tone
    soundfile.write(folder / f"{name}.flac", wav, rate_hz)
    lines = [f"{name} 1 {speaker} {a:.3f} {b:.3f} {text}\n" for speaker, a, b, text in SEGMENTS]
    (folder / "truth.stm").write_text("".join(lines))
    return folder


def indexed(folder, rate_hz=16_000, **options):
    manifests = [Manifest.parse(str(folder))]
    roots = {path: name for name, path in corpus_roots(manifests).items()}
    return index_recorded(manifests, roots, rate_hz, seed=0, test_share=0.2, **options)


def test_stm_becomes_turns_on_the_timeline(tmp_path):
    table, bad = indexed(write_call(tmp_path / "calls"), licence="CC0")
    assert not bad
    assert table.schema.equals(CONVERSATIONS, check_metadata=False)
    (row,) = table.to_pylist()
    assert (row["origin"], row["num_samples"], row["speakers"]) == ("recorded", 128_000, ["ann", "bob"])
    assert [t["transition"] for t in row["turns"]] == [
        "start",
        "switch_overlap",
        "switch_gap",
        "backchannel",
        "switch_gap",
    ]
    assert [t["start_sample"] for t in row["turns"]] == [8000, 24_000, 56_000, 64_000, 100_000]
    assert [t["offset_samples"] for t in row["turns"]][1:] == [-8000, 4000, -32_000, 4000]
    assert row["turns"][1]["text_normalized"] == "well hi"
    assert row["turns"][1]["source_start_sample"] == 12_000
    assert {t["licence"] for t in row["turns"]} == {"CC0"}


def test_truth_files_of_recorded_conversations_are_read_back_unchanged(tmp_path):
    table, _ = indexed(write_call(tmp_path / "calls"))
    (tmp_path / "again.rttm").write_text(rttm(table))
    (tmp_path / "again.stm").write_text(stm(table))
    segments = read_rttm([tmp_path / "again.rttm"])["call"]
    assert [(s.speaker, s.start_s, s.end_s) for s in segments] == [(who, a, b) for who, a, b, _ in SEGMENTS]
    transcribed = read_stm(tmp_path / "again.stm")["call"]
    assert [(s.speaker, s.start_s, s.end_s) for s in transcribed] == [(who, a, b) for who, a, b, _ in SEGMENTS]
    assert transcribed[1].text == "well hi"


def test_lhotse_recordings_with_several_speakers_are_conversations(tmp_path):
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

    folder = write_call(tmp_path / "sound", channels=2)
    (folder / "truth.stm").unlink()
    recording = Recording.from_file(folder / "call.flac")
    RecordingSet.from_recordings([recording]).to_file(folder / "recordings.jsonl.gz")
    supervisions = [
        SupervisionSegment(f"s{i}", "call", a, b - a, ["ann", "bob"].index(who), text=text, speaker=who)
        for i, (who, a, b, text) in enumerate(SEGMENTS)
    ]
    SupervisionSet.from_segments(supervisions).to_file(folder / "supervisions.jsonl.gz")
    (row,) = indexed(folder)[0].to_pylist()
    assert row["recording"]["channel"] == -1  # one channel per speaker: both are mixed
    assert [t["start_sample"] for t in row["turns"]] == [8000, 24_000, 56_000, 64_000, 100_000]
    roots = corpus_roots([Manifest.parse(str(folder))])
    mixture = Render()(with_roots(indexed(folder)[0], roots))["samples"][0].values.to_numpy()
    for start, end in ((8000, 24_000), (30_000, 50_000)):  # only ann, only bob
        assert np.abs(mixture[start:end]).max() > 500


def test_a_recorded_conversation_is_rendered_unchanged_at_the_level_of_speech(tmp_path):
    folder = write_call(tmp_path / "calls", rate_hz=16_000)
    table, _ = indexed(folder)
    roots = corpus_roots([Manifest.parse(str(folder))])
    placed = Place(room="simulated")(table)  # a recording has its own room
    assert placed.to_pylist() == table.to_pylist()
    mixture = Render()(with_roots(placed, roots))["samples"][0].values.to_numpy() / 32767
    wav = soundfile.read(folder / "call.flac")[0]
    spoken = np.zeros(len(wav), bool)
    for _, a, b, _ in SEGMENTS:
        spoken[int(a * 16_000) : int(b * 16_000)] = True
    assert 10 * np.log10(np.mean(mixture[spoken] ** 2)) == pytest.approx(-26, abs=0.05)
    assert np.corrcoef(mixture, wav)[0, 1] > 0.9999
    check_labels(with_roots(table, roots), Render())


def test_the_splits_of_recordings_are_known_ones(tmp_path):
    folder = write_call(tmp_path / "calls")
    roots = {folder.absolute(): "calls"}

    def indexed_as(text, **options):
        return index_recorded([Manifest.parse(text)], roots, 16_000, seed=0, test_share=0.0, **options)

    assert indexed_as(f"dev={folder}")[0]["split"].to_pylist() == ["validation"]
    with pytest.raises(InputError, match=r"held is no split; .* train, validation \(or dev, valid\) and test"):
        indexed_as(f"held={folder}")
    assert indexed_as(str(folder), validation_share=1.0)[0]["split"].to_pylist() == ["validation"]
    assert indexed_as(str(folder))[0]["split"].to_pylist() == ["train"]


def test_labels_of_another_recording_stop_the_run(tmp_path):
    folder = write_call(tmp_path / "calls", seconds=16.0, shift_s=8.0)  # audio eight seconds after its labels
    table, _ = indexed(folder)
    with pytest.raises(InputError, match="disagree"):
        check_labels(with_roots(table, corpus_roots([Manifest.parse(str(folder))])), Render())


def test_unusable_recordings_are_named(tmp_path):
    folder = write_call(tmp_path / "short", seconds=5.0)
    table, bad = indexed(folder)
    assert table.num_rows == 0
    assert "ann speaks from 3.50 s to 6.00 s, but call.flac lasts 5.00 s" in bad[0].reason
    (folder / "call.flac").write_bytes((folder / "call.flac").read_bytes()[:500])
    assert "unreadable or truncated" in indexed(folder)[1][0].reason
    (folder / "call.flac").unlink()
    with pytest.raises(InputError, match=r"names 1 recording\(s\) missing from .* the first call"):
        indexed(folder)
    (folder / "truth.stm").write_text("call 1 ann 2.0 2.0 oh\n")
    with pytest.raises(InputError, match=r"truth.stm:1: ann speaks from 2.0 s to 2.0 s"):
        indexed(folder)
    (folder / "truth.stm").unlink()
    (folder / "truth.rttm").write_text("SPEAKER call 1 2.0 -1.0 <NA> <NA> ann <NA> <NA>\n")
    with pytest.raises(InputError, match=r"truth.rttm:1: .-1.0. is no time in seconds"):
        indexed(folder)
