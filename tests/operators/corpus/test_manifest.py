import gzip
import json
import os
import re

import numpy as np
import pytest
import soundfile

from operators.corpus.forms import manifests_digest
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest, corpus_roots
from operators.errors import InputError


def load(path, **options):
    return index_utterances([Manifest.parse(str(path))], **options)


def test_plain_jsonl_is_read_with_its_user_columns(corpus):
    utterances, bad = load(corpus)
    assert (utterances.num_rows, bad) == (30, [])
    row = utterances.slice(0, 1).to_pylist()[0]
    assert (row["utterance_id"], row["speaker"], row["text_normalized"]) == ("s0-0", "s0", "one one")
    assert (row["source_rate_hz"], row["source_num_samples"], row["book"]) == (16000, 6400, "a")
    assert (row["gender"], json.loads(row["user_columns"])) == ("f", {})
    assert row["audio"] == "wav/s0-0.wav"


def test_nemo_manifests_are_read_with_offsets(corpus, tmp_path):
    row = {
        "audio_filepath": str(corpus.parent / "wav/s0-4.wav"),
        "duration": 0.3,
        "offset": 0.2,
        "text": "x",
        "speaker": "a",
    }
    path = tmp_path / "nemo.json"
    path.write_text(json.dumps(row) + "\n")
    utterances, bad = load(path)
    assert bad == []
    assert utterances["source_start_sample"].to_pylist() == [3200]
    assert utterances["source_num_samples"].to_pylist() == [4800]


@pytest.fixture
def lhotse_cuts(corpus):
    from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.supervision import AlignmentItem

    recordings, supervisions = [], []
    for row in map(json.loads, corpus.read_text().splitlines()):
        recording = Recording.from_file(corpus.parent / row["audio"], recording_id=row["id"])
        recordings.append(recording)
        words = [AlignmentItem(word, 0.1 * i, 0.1) for i, word in enumerate(row["text"].split())]
        supervisions.append(
            SupervisionSegment(
                id=row["id"],
                recording_id=row["id"],
                start=0,
                duration=recording.duration,
                text=row["text"],
                speaker=row["speaker"],
                gender=row["gender"],
                custom={"book": "a", "position": row["position"]},
                alignment={"word": words},
            )
        )
    recordings, supervisions = RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions)
    return recordings, supervisions, CutSet.from_manifests(recordings, supervisions)


@pytest.mark.parametrize("kind", ["pair", "pair.gz", "cuts", "shar"])
def test_lhotse_manifests_say_what_plain_ones_say(kind, corpus, lhotse_cuts, tmp_path):
    recordings, supervisions, cuts = lhotse_cuts
    folder = tmp_path / "lhotse"
    folder.mkdir()
    if kind.startswith("pair"):
        suffix = ".jsonl.gz" if kind.endswith("gz") else ".jsonl"
        recordings.to_file(folder / f"corpus_recordings{suffix}")
        supervisions.to_file(folder / f"corpus_supervisions{suffix}")
    elif kind == "cuts":
        cuts.to_file(folder / "cuts.jsonl.gz")
    else:
        cuts.to_shar(folder, fields={"recording": "flac"}, shard_size=12)
    ours, bad = load(folder)
    plain, _ = load(corpus)
    assert bad == []
    same = ["utterance_id", "speaker", "text_normalized", "source_rate_hz", "source_num_samples", "book", "position"]
    assert ours.select(same).equals(plain.select(same))
    first = ours.slice(0, 1).to_pylist()[0]
    assert [word["word"] for word in first["words"]] == ["one", "one"]
    assert first["words"][1]["start_sample"] == 1600
    assert first["gender"] == "f"


def test_members_of_a_shar_are_read_where_they_lie(corpus, lhotse_cuts, tmp_path):
    from operators.corpus.sources import read_source

    folder = tmp_path / "shar"
    folder.mkdir()
    lhotse_cuts[2].to_shar(folder, fields={"recording": "flac"}, shard_size=12)
    manifest = Manifest.parse(str(folder))
    utterances, _ = index_utterances([manifest])
    for row in utterances.to_pylist()[::7]:
        wav, _ = soundfile.read(corpus.parent / f"wav/{row['utterance_id']}.wav", dtype="float32")
        assert row["byte_length"] > 0
        assert np.array_equal(read_source(row, corpus_roots([manifest])), wav)


def test_librispeech_and_libritts_ids_give_chapter_and_position(corpus, tmp_path):
    audio = str(corpus.parent / "wav/s0-4.wav")
    rows = [
        {"id": "84-121123-0003", "speaker": "84", "text": "a b", "audio": audio},
        {"id": "84_121123_000007_000001", "speaker": "84", "text": "a b", "audio": audio},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    utterances, _ = load(path)
    assert utterances["chapter"].to_pylist() == ["121123", "121123"]
    assert utterances["position"].to_pylist() == [3000, 7001]


def broken(corpus, **change):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    rows[3] |= change
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(corpus)[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"audio": "wav/nowhere.wav"}, "missing file .*nowhere.wav"),
        ({"text": " ... "}, "text without letters"),
        ({"speaker": None}, "no speaker"),
        ({"sample_rate": 8000}, "wrong rate: 8000 Hz in the manifest"),
        ({"duration": 9.0}, "earlier than in the manifest"),
        ({"channel": 1}, "no channel 1"),
    ],
)
def test_what_cannot_be_used_is_quarantined_with_the_reason(corpus, change, reason):
    (bad,) = broken(corpus, **change)
    assert bad.row_id == "s0-3"
    assert re.search(reason, bad.reason), bad.reason


def test_a_truncated_flac_is_found_before_work_starts(corpus):
    _wav, rate_hz = soundfile.read(corpus.parent / "wav/s0-3.wav")
    path = corpus.parent / "wav/s0-3.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 4 * rate_hz), rate_hz)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (bad,) = broken(corpus, audio="wav/s0-3.flac", duration=None)
    assert "truncated" in bad.reason
    assert "s0-3.flac" in bad.reason


def test_an_overlong_utterance_is_quarantined(corpus):
    _, bad = load(corpus, max_duration_s=0.75)
    assert {row.row_id[-1] for row in bad} == {"4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "m.jsonl:1: the line is not JSON"), ("[1]", "m.jsonl:1: the line is not a JSON object")],
)
def test_lines_that_are_no_rows_are_quarantined_and_an_empty_manifest_is_named(tmp_path, text, message):
    path = tmp_path / "m.jsonl"
    path.write_text(text)
    assert message in load(path)[1][0].reason
    path.write_text("")
    with pytest.raises(InputError, match="is empty"):
        load(path)


def test_a_missing_manifest_and_a_folder_without_one_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        Manifest.parse(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="contains no manifest"):
        load(tmp_path)


def test_a_cut_off_gzip_is_named(tmp_path):
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a"}\n' * 100)[:20])
    with pytest.raises(InputError, match="cannot be read"):
        load(path)


def test_ids_must_be_unique(corpus):
    corpus.write_text(corpus.read_text() + corpus.read_text().splitlines()[0] + "\n")
    utterances, bad = load(corpus)
    assert utterances.num_rows == 30
    (doubled,) = bad
    assert doubled.row_id == "s0-0"
    assert "manifest.jsonl:31: its id is also that of the row at" in doubled.reason
    assert doubled.reason.endswith("manifest.jsonl:1")


def test_where_filters_by_our_columns_and_the_users(corpus):
    chosen, _ = load(corpus, where="gender == 'f' and duration_s < 0.55 and speaker not in ['s2']")
    assert chosen["utterance_id"].to_pylist() == ["s0-0", "s0-1", "s4-0", "s4-1"]
    for where, message in [
        ("gendr == 'f'", "did you mean gender"),
        ("text(", "is not an expression"),
        ("speaker < 3", "cannot be evaluated"),
    ]:
        with pytest.raises(InputError, match=message):
            load(corpus, where=where)


def test_the_index_depends_on_content_and_not_on_where_it_lies(corpus, tmp_path):
    import shutil

    shutil.copytree(corpus.parent, tmp_path / "elsewhere" / "corpus")
    there = tmp_path / "elsewhere" / "corpus" / "manifest.jsonl"
    assert load(corpus)[0].equals(load(there)[0])
    assert manifests_digest([Manifest.parse(str(corpus))]) == manifests_digest([Manifest.parse(str(there))])
    before = load(there)[0]["fingerprint"].to_pylist()
    wav, rate_hz = soundfile.read(there.parent / "wav/s0-0.wav")
    soundfile.write(there.parent / "wav/s0-0.wav", wav * 0.5, rate_hz, subtype="PCM_16")
    after = load(there)[0]["fingerprint"].to_pylist()
    assert [a != b for a, b in zip(before, after, strict=True)] == [True] + [False] * 29
    assert os.path.getsize(there.parent / "wav/s0-0.wav") == os.path.getsize(corpus.parent / "wav/s0-0.wav")


@pytest.mark.parametrize(("name", "rows", "speakers"), [("fsdd", 3000, 6), ("speechocean762", 1037, 52)])
def test_real_corpora_index_without_a_fault(shared, name, rows, speakers):
    utterances, bad = load(shared / "data" / name)
    assert (utterances.num_rows, len(set(utterances["speaker"].to_pylist())), bad) == (rows, speakers, [])
