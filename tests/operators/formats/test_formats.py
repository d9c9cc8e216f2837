"""The contract of formats, held by every member of the table."""

import re

import meeteval
import pytest

from operators.errors import InputError
from operators.formats import FORMATS, format_of, read_entries
from operators.formats.uem import read_uem


def file_of(folder, name, text):
    suffix = (*FORMATS[name].suffixes, ".jsonl" if name == "nemo" else ".json")[0]
    path = folder / f"talk{suffix}"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_says_what_it_says(name, tmp_path):
    path = file_of(tmp_path, name, FORMATS[name].example)
    assert FORMATS[name].about
    assert format_of(path) == name
    assert read_entries([path]) == list(FORMATS[name].entries)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_malformed_files_give_file_line_and_reason(name, mark, tmp_path):
    text, reason = FORMATS[name].malformed
    path = file_of(tmp_path, name, mark + text)
    with pytest.raises(InputError, match=re.escape(f"{path}{reason}")):
        read_entries([path])


@pytest.mark.parametrize("name", FORMATS)
def test_a_byte_order_mark_is_no_text_and_latin1_is_named(name, tmp_path):
    path = file_of(tmp_path, name, "\ufeff" + FORMATS[name].example)
    assert read_entries([path], name=name) == list(FORMATS[name].entries)
    path.write_bytes(FORMATS[name].example.encode() + "\n;; caf\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8"):
        read_entries([path], name=name)
    with pytest.raises(InputError, match="cannot be read"):
        read_entries([tmp_path / f"none{path.suffix}"], name=name)


ODD = [
    {"session_id": "my talk", "speaker": "voice one", "start_time": 0.0, "end_time": 1.0, "words": "one two"},
    {"session_id": "my talk", "speaker": "voice_one", "start_time": 0.5, "end_time": 0.5, "words": "<three> four"},
    {"session_id": "my talk", "speaker": ";x", "start_time": 1.0, "end_time": 2.0, "words": "five"},
]


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.write])
def test_what_is_written_is_read_again(name, tmp_path):
    path = file_of(tmp_path, name, FORMATS[name].write(ODD))
    found = read_entries([path], name=name)
    words = " ".join(entry.get("words", "") for entry in found).split()
    assert len({entry["speaker"] for entry in found}) == 3
    if name != "rttm":
        assert sorted(words) == sorted(["one", "two", "<three>", "four", "five"])
    if name == "seglst":
        assert found == ODD
    else:
        assert {entry["session_id"] for entry in found} == {"my_talk" if FORMATS[name].names_session else "talk"}


@pytest.mark.parametrize("name", ["rttm", "stm", "seglst"])
def test_meeteval_reads_what_is_written(name, tmp_path):
    path = file_of(tmp_path, name, FORMATS[name].write([one for one in ODD if one["end_time"] > one["start_time"]]))
    kind = {"rttm": meeteval.io.RTTM, "stm": meeteval.io.STM, "seglst": meeteval.io.SegLST}[name]
    found = kind.load(path).to_seglst() if name != "seglst" else kind.load(path)
    assert [float(one["end_time"]) for one in found] == [1.0, 2.0]
    assert len(found.unique("speaker")) == 2


def test_a_textgrid_has_no_gaps_and_no_overlaps():
    turns = [(0.5, 2.0, "one"), (1.5, 3.0, "two"), (3.0, 3.0, "three")]
    entries = [
        {"session_id": "a", "speaker": 'an"n', "start_time": start, "end_time": end, "words": words}
        for start, end, words in turns
    ]
    text = FORMATS["textgrid"].write(entries)
    times = [float(one) for one in re.findall(r"            xm(?:in|ax) = ([\d.]+)", text)]
    assert times == [0, 0.5, 0.5, 1.5, 1.5, 3.0, 3.0, 3.001]
    assert 'name = "an""n"' in text


def test_times_are_needed_where_the_format_has_them():
    with pytest.raises(InputError, match="entry 1 of session a has no times, which CTM needs"):
        FORMATS["ctm"].write([{"session_id": "a", "speaker": "x", "words": "one"}])


def test_lines_end_at_line_feeds_alone(tmp_path):
    path = file_of(tmp_path, "stm", "talk 1 ann 0 1 good\u2028morning\r\ntalk 1 ann 1 2 day\n")
    assert [entry["words"] for entry in read_entries([path])] == ["good morning", "day"]


@pytest.mark.parametrize("time", ["NaN", "Infinity", "1e400", "-1", '"left"', "true", "[1]"])
def test_times_that_are_no_numbers_are_named(time, tmp_path):
    row = f'{{"session_id": "a", "speaker": "x", "words": "b", "start_time": {time}, "end_time": 2}}'
    path = file_of(tmp_path, "jsonl", row)
    with pytest.raises(InputError, match=r"talk.jsonl:1: .* is no time in seconds"):
        read_entries([path])


def test_a_speaker_with_a_space_in_rttm_is_named(tmp_path):
    path = file_of(tmp_path, "rttm", "SPEAKER talk 1 0.10 1.20 <NA> <NA> voice one <NA> <NA>\n")
    with pytest.raises(InputError, match="it has 11 fields instead of 8 to 10"):
        read_entries([path])


def test_short_textgrids_and_utf16_are_read(tmp_path):
    text = '"ooTextFile"\n"TextGrid"\n\n0\n4\n<exists>\n1\n"IntervalTier"\n"ann"\n0\n4\n1\n1.5\n3.5\n"say ""7"" [x]"\n'
    path = tmp_path / "talk.TextGrid"
    path.write_text(text, encoding="utf-16")
    assert read_entries([path]) == [
        {"session_id": "talk", "speaker": "ann", "start_time": 1.5, "end_time": 3.5, "words": 'say "7" [x]'}
    ]


def test_a_nemo_manifest_holds_both_sides_and_words_with_times(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "duration": 2, "text": "said", "pred_text": "heard"}\n')
    assert [read_entries([path], side)[0]["words"] for side in ("reference", "hypothesis")] == ["said", "heard"]
    path.write_text('{"audio_filepath": "a.wav", "duration": 2, "words": [{"word": "b", "start": 1, "end": 2}]}\n')
    (entry,) = read_entries([path])
    assert (entry["words"], entry["start_time"], entry["end_time"]) == ("b", 1.0, 2.0)


def test_regions_are_read_and_checked(tmp_path):
    path = tmp_path / "a.uem"
    path.write_text(";; a comment\ntalk 1 0.5 10\ntalk 1 12 13.5\n")
    assert read_uem(path) == {"talk": [(0.5, 10.0), (12.0, 13.5)]}
    path.write_text("talk 1 3 2\n")
    with pytest.raises(InputError, match=r"a.uem:1: ends at 2 s, before it starts at 3 s"):
        read_uem(path)
