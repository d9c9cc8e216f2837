"""Every row is used as it is, repaired and counted, or quarantined with file, line and reason."""

import json
from collections import Counter

import pytest

from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest
from tests.operators.corpus.forms.test_forms import lines, sound

NAN, INFINITY = float("nan"), float("inf")


def pair(folder, supervision=None, recording=None, sources=None):
    """A recording of two seconds with one good supervision and another."""
    sound(folder / "a.wav", seconds=2.0)
    sources = sources or [{"type": "file", "channels": [0], "source": "a.wav"}]
    lines(folder / "recordings.jsonl", [{"id": "r", "sources": sources, "sampling_rate": 16_000, **(recording or {})}])
    good = {"recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, "text": "hello there", "speaker": "x"}
    other = {**good, "id": "bad", **(supervision or {})}
    rows = [{**good, "id": "good"}, {k: v for k, v in other.items() if v != "GONE"}]
    lines(folder / "supervisions.jsonl", rows)
    return folder


def load(path, **options):
    return index_utterances([Manifest.parse(str(path))], **options)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "GONE"}, "a supervision without id"),
        ({"recording_id": "GONE"}, "it names no recording"),
        ({"recording_id": "gone"}, "there is no recording gone"),
        ({"start": "0.0"}, "start is text: '0.0'"),
        ({"start": INFINITY}, "start Infinity is no point in time"),
        ({"start": -1.0}, "start -1 s is before the recording"),
        ({"duration": INFINITY}, "duration Infinity is no length of time"),
        ({"duration": NAN}, "duration NaN is no length of time"),
        ({"duration": -0.5}, "duration -0.5 is no length of time"),
        ({"duration": True}, "duration is no number: true"),
        ({"duration": 2.5}, "ends 0.50 s earlier than in the manifest"),
        ({"channel": -1}, "there is no channel -1"),
        ({"channel": -(2**70)}, "there is no channel -1180591620717411303424"),
        ({"channel": 3}, "there is no channel 3 in its recording, which has 0"),
        ({"alignment": "x"}, "alignment is no object"),
        ({"alignment": {"word": ["x"]}}, "the times of words are no list"),
        ({"custom": "x"}, "custom is no object"),
        ({"language": 5}, "language 5 is no text"),
        ({"text": 12}, "text 12 is no text"),
        ({"speaker": None}, "no speaker"),
        ({"speaker": NAN}, "speaker NaN is no name"),
        ({"speaker": "nan"}, 'speaker "nan" is no name'),
        ({"speaker": ["s"]}, 'speaker ["s"] is no name'),
        ({"speaker": "  "}, 'speaker "  " is no name'),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_read_is_quarantined_with_file_line_and_reason(tmp_path, change, reason):
    table, (bad,) = load(pair(tmp_path, change))
    assert table["utterance_id"].to_pylist() == ["good"]
    assert bad.reason.startswith("supervisions.jsonl:2: ")
    assert reason in bad.reason
    assert bad.row_id in ("bad", "supervisions.jsonl:2")


@pytest.mark.parametrize(
    ("line", "reason"), [(b"{", "is not JSON"), (b"\xff\xfe", "is not UTF-8"), (b"[1]", "is not a JSON object")]
)
def test_a_line_that_is_no_row_is_quarantined_and_the_rest_goes_on(tmp_path, line, reason):
    path = pair(tmp_path) / "supervisions.jsonl"
    rows = path.read_bytes().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([rows[0], line, rows[1]]))  # as an editor of Windows saves it
    table, (bad,) = load(tmp_path)
    assert table.num_rows == 2
    assert bad.reason.startswith(f"supervisions.jsonl:2: the line {reason}")


@pytest.mark.parametrize(("start", "duration"), [(1.0, 1.02), (-0.05, 1.0)])
def test_times_a_little_outside_of_the_recording_are_trimmed_and_counted(tmp_path, start, duration):
    repairs = Counter()
    table, bad = load(pair(tmp_path, {"start": start, "duration": duration}), repairs=repairs)
    assert (bad, repairs) == ([], {"trimmed_ends": 1})
    row = table.to_pylist()[0]
    assert row["source_start_sample"] == max(0, start * 16_000)
    assert row["source_start_sample"] + row["source_num_samples"] == min(32_000, round((start + duration) * 16_000))


@pytest.mark.parametrize(
    "words",
    [
        [["hello", 0.5, -0.3], ["there", 0.8, 0.1]],
        [["hello", 7.0, 1.0], ["there", 8.0, 0.1]],
        [["hello", -3.0, 1.0], ["there", 0.8, 0.1]],
        [["hello", 0.9, 0.1], ["there", 0.1, 0.1]],
        [["goodbye", 0.1, 0.2]],
    ],
)
def test_word_times_that_cannot_be_true_are_dropped_and_counted(tmp_path, words):
    repairs = Counter()
    table, bad = load(pair(tmp_path, {"alignment": {"word": words}}), repairs=repairs)
    assert (bad, repairs, table["words"].to_pylist()) == ([], {"dropped_words": 1}, [[], []])


def test_word_times_are_inside_of_their_utterance(tmp_path):
    repairs, times = Counter(), [["hello", -0.01, 0.5, None], ["there", 0.5, 0.52, None]]
    table, _ = load(pair(tmp_path, {"alignment": {"word": times}}), repairs=repairs)
    (row,) = [row for row in table.to_pylist() if row["words"]]
    assert not repairs
    assert [(w["start_sample"], w["num_samples"]) for w in row["words"]] == [(0, 7840), (8000, 8000)]


def test_a_channel_is_read_from_the_source_that_holds_it(tmp_path):
    sound(tmp_path / "b.wav", seconds=2.0)
    sources = [{"type": "file", "channels": [n], "source": f"{name}.wav"} for n, name in ((0, "a"), (2, "b"))]
    table, bad = load(pair(tmp_path, {"channel": 2}, sources=sources))
    assert not bad
    assert sorted(zip(table["audio"].to_pylist(), table["channel"].to_pylist(), strict=True)) == [
        ("a.wav", 0),
        ("b.wav", 0),
    ]


def test_what_lhotse_alone_can_make_is_refused(tmp_path):
    _, bad = load(pair(tmp_path, recording={"transforms": [{"name": "Speed", "kwargs": {"factor": 0.9}}]}))
    assert "is transformed" in bad[0].reason
    _, bad = load(pair(tmp_path, sources=[{"type": "command", "channels": [0], "source": "cat a.wav"}]))
    assert "source is command" in bad[0].reason


def cut(name="c", **change):
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16_000}
    said = {"id": name, "recording_id": "r", "start": 0.0, "duration": 0.5, "text": "hello", "speaker": name}
    made = {"id": name, "type": "MonoCut", "start": 0.1, "duration": 0.5, "channel": 0, "recording": recording}
    return {**made, "supervisions": [said], **change}


def test_every_cut_is_used_or_quarantined(tmp_path):
    sound(tmp_path / "a.wav", seconds=2.0)
    mixed = {
        "id": "m",
        "type": "MixedCut",
        "tracks": [{"cut": cut("x"), "offset": 0}, {"cut": cut("y"), "offset": 0.3}],
    }
    rows = [
        cut(),
        mixed,
        {**mixed, "id": "again"},
        cut("silent", supervisions=[]),
        {"id": "pad", "type": "PaddingCut", "duration": 1.0},
        cut("features", recording=None, features={"type": "fbank"}),
        cut("early", supervisions=[{**cut()["supervisions"][0], "start": -0.4}]),
    ]
    lines(tmp_path / "cuts.jsonl", rows)
    table, bad = load(tmp_path)
    assert table["utterance_id"].to_pylist() == ["c", "x", "y"]
    reasons = " | ".join(one.reason for one in bad)
    for one in (
        "cuts.jsonl:4: a MonoCut without supervisions: nobody speaks in it",
        "cuts.jsonl:5: a PaddingCut without a list of supervisions",
        "cuts.jsonl:6: a cut without recording: it has features only",
        "cuts.jsonl:7: start -0.3 s is before the recording",
    ):
        assert one in reasons


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/x.wav", "file:///etc/x.wav", "simplecache::file:///x.wav", "ftp://a/x.wav", "local:///x.wav"],
)
def test_urls_that_are_of_no_object_store_are_not_opened(tmp_path, url, monkeypatch):
    from operators.store.cache import Cache

    monkeypatch.setattr(Cache, "default", lambda: pytest.fail("it was opened"))
    lines(tmp_path / "m.jsonl", [{"id": "u", "audio": url, "text": "hello", "speaker": "s"}])
    table, (bad,) = load(tmp_path / "m.jsonl")
    assert table.num_rows == 0
    assert f"m.jsonl:1: {url}: " in bad.reason
    assert "URLs " in bad.reason


def test_a_gzip_cut_short_keeps_the_rows_before_and_says_so(tmp_path):
    import gzip

    sound(tmp_path / "a.wav")
    rows = [{"id": f"u{i}", "audio": "a.wav", "text": "hello", "speaker": "s"} for i in range(3000)]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path / "m.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    table, (bad,) = load(tmp_path / "m.jsonl.gz")
    assert 100 < table.num_rows < 3000
    assert "the file is damaged from here on" in bad.reason
