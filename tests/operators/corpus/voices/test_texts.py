import json

import pytest

from operators.corpus.voices.texts import read_texts
from operators.errors import InputError


def test_lines_json_and_librispeech_give_the_same_texts_each_once(tmp_path):
    wanted = ["the dog ran home", "it was dark"]
    (tmp_path / "a.txt").write_text("the dog ran home\n\nit was dark\nIt was dark.\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in wanted))
    folder = tmp_path / "libri" / "84" / "121"
    folder.mkdir(parents=True)
    (folder / "84-121.trans.txt").write_text("84-121-0000 THE DOG RAN HOME\n84-121-0001 IT WAS DARK\n")
    (folder / "README.txt").write_text("not a transcript\n")
    for path in (tmp_path / "a.txt", tmp_path / "a.jsonl", tmp_path / "libri", folder / "84-121.trans.txt"):
        assert read_texts(path) == (wanted, [])
    assert read_texts(tmp_path / "libri", "librispeech") == (wanted, [])


def test_the_shared_transcripts_of_librispeech_are_read(shared):
    path = shared / "data" / "librispeech_devclean_text"
    if not path.is_dir():
        pytest.skip(f"no transcripts at {path}")
    texts, bad = read_texts(path, "librispeech")
    assert 2_600 < len(texts) <= 2_703
    assert bad == []
    assert texts[0] == "mister quilter is the apostle of the middle classes and we are glad to welcome his gospel"


def test_a_line_that_cannot_be_spoken_is_told_by_place_and_reason(tmp_path):
    (tmp_path / "a.txt").write_text("hello there\n...\na\x07bell\n" + "far " * 300 + "\n")
    texts, bad = read_texts(tmp_path / "a.txt")
    assert texts == ["hello there"]
    assert [one["row_id"] for one in bad] == ["a.txt:2", "a.txt:3", "a.txt:4"]
    assert [one["reason"].split(";")[0] for one in bad] == [
        "it holds no word",
        "it holds a control character",
        "it has 1,199 characters",
    ]
    (tmp_path / "b.jsonl").write_text('{"text": "hello"}\n{"text": 3}\n[1]\nhello\n')
    assert [one["row_id"] for one in read_texts(tmp_path / "b.jsonl")[1]] == ["b.jsonl:2", "b.jsonl:3", "b.jsonl:4"]


@pytest.mark.parametrize(
    ("name", "content", "form", "message"),
    [
        ("a.txt", "...\n", "auto", "no text that can be spoken; a.txt:1: it holds no word"),
        ("a.txt", "hello there\n", "librispeech", "does not begin with an id"),
        ("sub/a.txt", "hello\n", "auto", r"no \*.trans.txt"),
    ],
)
def test_what_holds_no_texts_is_refused(tmp_path, name, content, form, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_texts(path if path.parent == tmp_path else path.parent, form)
