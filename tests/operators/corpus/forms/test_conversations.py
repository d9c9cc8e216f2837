"""Recorded conversations as people have them: what is heard is what their turns are of, or they are refused."""

import json

import numpy as np
import pytest
import soundfile

from operators.corpus.forms.imports import import_corpus
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.recorded import files_digest, index_recorded
from operators.corpus.sources import read_source
from tests.operators.corpus.forms.test_forms import lines, sound
from tests.operators.corpus.forms.test_rows import cut


def indexed(*paths):
    manifests = [Manifest.parse(str(path)) for path in paths]
    roots = {path: name for name, path in corpus_roots(manifests).items()}
    return index_recorded(manifests, roots, 16_000, seed=0, test_share=0.0)


def supervisions(count=2, **change):
    made = {"recording_id": "r", "duration": 0.5, "channel": 0, "text": "hello"}
    rows = [{**made, "id": f"s{n}", "start": n / 2, "speaker": f"p{n}"} for n in range(count)]
    rows[-1] |= change
    return [{k: v for k, v in row.items() if v != "GONE"} for row in rows]


def pair(folder, rows, sources=None):
    sources = sources or [{"type": "file", "channels": [0], "source": "a.wav"}]
    sound(folder / "a.wav", seconds=2.0)
    lines(folder / "recordings.jsonl", [{"id": "r", "sources": sources, "sampling_rate": 16_000}])
    lines(folder / "supervisions.jsonl", rows)
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"speaker": None}, "supervision s1 names no speaker"),
        ({"duration": None}, "supervision s1 has no duration"),
        ({"duration": float("nan")}, "supervision s1: duration NaN is no length of time"),
        ({"start": "x"}, "supervision s1: start is text: 'x'"),
        ({"channel": "left"}, "supervision s1: there is no channel left in its recording"),
        ({"text": 3}, "supervision s1: text 3 is no text"),
        ({"recording_id": "GONE"}, "supervision s1: it names no recording"),
    ],
    ids=str,
)
def test_a_recording_with_a_turn_that_cannot_be_read_is_quarantined(tmp_path, change, reason):
    _, bad = indexed(pair(tmp_path, supervisions(**change)))
    assert [one.reason for one in bad] == [f"supervisions.jsonl:2: {reason}" + ", which has 0" * ("channel" in change)]


def test_channels_in_several_files_are_refused_and_the_named_command_makes_one_of_them(tmp_path):
    sources = [{"type": "file", "channels": [n], "source": f"{name}.wav"} for n, name in enumerate("ab")]
    sound(tmp_path / "in" / "b.wav", seconds=2.0)
    table, (bad,) = indexed(pair(tmp_path / "in", supervisions(channel=1), sources))
    assert table.num_rows == 0
    assert "its channels are in 2 files" in bad.reason
    assert f"`hubbub data import {tmp_path}/in FOLDER --recorded`" in bad.reason
    manifest = Manifest(path=tmp_path / "in", is_recorded=True)
    assert import_corpus(manifest, tmp_path / "out") == (2, {})
    (row,) = indexed(tmp_path / "out")[0].to_pylist()
    assert [turn["channel"] for turn in row["turns"]] == [0, 1]
    for turn, name in zip(row["turns"], "ab", strict=True):
        own = soundfile.read(tmp_path / "in" / f"{name}.wav", dtype="float32")[0]
        start = turn["source_start_sample"]
        heard = read_source(turn, {turn["corpus"]: tmp_path / "out"})
        assert np.array_equal(heard, own[start : start + len(heard)])


def test_mixed_cuts_are_refused_by_name_and_the_named_command_mixes_them(tmp_path):
    sound(tmp_path / "in" / "a.wav", seconds=2.0)
    tracks = [{"cut": cut(one), "offset": offset, "type": "MonoCut"} for one, offset in (("x", 0), ("y", 0.25))]
    for track in tracks:
        track["cut"]["recording"] |= {"num_samples": 32_000, "duration": 2.0}
    lines(tmp_path / "in" / "cuts.jsonl", [{"id": "m", "type": "MixedCut", "tracks": tracks}, cut("alone")])
    table, (bad,) = indexed(tmp_path / "in")
    assert table.num_rows == 1
    assert "cuts.jsonl:1: it is a MixedCut of 2 supervisions" in bad.reason
    number, problems = import_corpus(Manifest(path=tmp_path / "in", is_recorded=True), tmp_path / "out")
    assert (number, problems) == (3, {})
    row = next(row for row in indexed(tmp_path / "out")[0].to_pylist() if len(row["turns"]) == 2)
    assert [(turn["speaker"], turn["start_sample"]) for turn in row["turns"]] == [("x", 0), ("y", 4000)]
    own = soundfile.read(tmp_path / "in" / "a.wav", dtype="float32")[0][1600:9600]
    sum_of_both = np.pad(own, (0, 4000)) + np.pad(own, (4000, 0))
    heard = read_source(row["recording"], {row["recording"]["corpus"]: tmp_path / "out"})
    assert np.allclose(heard, sum_of_both, atol=1e-5)


def test_labels_are_of_the_sound_beside_them(tmp_path):
    for part in ("train", "test"):
        for day, word in (("monday", "one"), ("tuesday", "two")):
            sound(tmp_path / part / day / "session.wav", seconds=2.0, seed=ord(word[0]))
            lines(tmp_path / part / day / "session.stm", [f"session 1 ann 0.0 1.0 {word}"])
    table, bad = indexed(f"train={tmp_path}/train", f"test={tmp_path}/test")
    assert not bad
    rows = table.to_pylist()
    assert [row["conversation_id"] for row in rows] == [
        f"{part}-{day}-session" for part in ("test", "train") for day in ("monday", "tuesday")
    ]
    for row in rows:
        assert ("monday" in row["recording"]["audio"]) == (row["turns"][0]["text"] == "one")
    sound(tmp_path / "train" / "monday" / "session.flac")
    _, (bad,) = indexed(f"train={tmp_path}/train")
    assert "which monday/session.flac and monday/session.wav may be" in bad.reason


def test_textgrid_and_ctm_files_label_the_sound_beside_them(tmp_path):
    sound(tmp_path / "a" / "talk.wav", seconds=4.0)
    words = ["talk 1 0.0 0.3 so 1.0 lex ann", "talk 1 0.4 0.3 well 1.0 lex ann", "talk 1 2.0 0.5 yes 1.0 lex ann"]
    lines(tmp_path / "a" / "talk.ctm", words)
    (row,) = indexed(tmp_path / "a")[0].to_pylist()
    assert [(turn["text"], turn["start_sample"]) for turn in row["turns"]] == [("so well", 0), ("yes", 32_000)]
    assert [word["start_sample"] for word in row["turns"][0]["words"]] == [0, 6400]
    sound(tmp_path / "b" / "talk.wav", seconds=4.0)
    grid = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n4\n<exists>\n1\n"IntervalTier"\n"bob"\n0\n4\n2\n'
    (tmp_path / "b" / "talk.TextGrid").write_text(grid + '0\n1.5\n"hi there"\n1.5\n4\n""\n')
    (row,) = indexed(tmp_path / "b")[0].to_pylist()
    assert [(turn["speaker"], turn["text"], turn["num_samples"]) for turn in row["turns"]] == [
        ("bob", "hi there", 24_000)
    ]


def test_a_nemo_row_names_an_rttm_file(tmp_path):
    sound(tmp_path / "a.wav", seconds=4.0)
    rttm = lines(
        tmp_path / "rttm" / "a.rttm",
        [f"SPEAKER a 1 {t} 1.0 <NA> <NA> {who} <NA> <NA>" for t, who in ((0, "x"), (2, "y"))],
    )
    row = {"audio_filepath": "a.wav", "offset": 0, "duration": None, "text": "-", "rttm_filepath": "rttm/a.rttm"}
    path = lines(tmp_path / "input_manifest.json", [row])
    for place in (tmp_path, path):
        (row,) = indexed(place)[0].to_pylist()
        assert [(turn["speaker"], turn["start_sample"]) for turn in row["turns"]] == [("x", 0), ("y", 32_000)]
    before = files_digest([Manifest(path=path)])
    rttm.write_text(rttm.read_text().replace(" x ", " z "))
    assert files_digest([Manifest(path=path)]) != before


def test_paths_start_from_the_manifest_or_from_where_lhotse_ran(tmp_path, monkeypatch):
    rows = supervisions()
    pair(tmp_path / "manifests", rows, [{"type": "file", "channels": [0], "source": "corpus/b.wav"}])
    sound(tmp_path / "corpus" / "b.wav", seconds=2.0)
    _, (bad,) = indexed(tmp_path / "manifests")
    assert f"missing file {tmp_path}/manifests/corpus/b.wav or " in bad.reason
    monkeypatch.chdir(tmp_path)
    table, bad = indexed("manifests")
    assert (table.num_rows, bad) == (1, [])
    assert (
        json.loads((tmp_path / "manifests" / "recordings.jsonl").read_text())["sources"][0]["source"] == "corpus/b.wav"
    )
