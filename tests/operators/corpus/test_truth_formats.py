"""Every truth format of the table writes recorded conversations, and says whose the words are."""

import pyarrow as pa
import pytest

from operators.corpus.annotations import TRUTH_FORMATS, names_in_fields, write_truth
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.recorded import index_recorded
from operators.corpus.sources import with_roots
from operators.errors import InputError
from operators.formats.rttm import read_rttm_entries
from operators.formats.stm import read_stm_entries
from operators.simulate.label_check import check_labels
from operators.simulate.render import Render
from tests.golden.fingerprints import RATE_HZ, write_corpus


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    _, recorded = write_corpus(tmp_path_factory.mktemp("truth") / "corpus")
    manifests = [Manifest.parse(f"train={recorded}")]
    roots = {path: name for name, path in corpus_roots(manifests).items()}
    table, bad = index_recorded(manifests, roots, RATE_HZ, seed=0, test_share=0.2, language="en", licence="CC0")
    assert not bad
    return table


@pytest.mark.parametrize("kind", TRUTH_FORMATS)
def test_a_format_names_what_it_writes(conversations, kind):
    text = write_truth(conversations, kind, hop_samples=400)
    assert TRUTH_FORMATS[kind].about
    if kind == "ctm":  # words without times are left out of it
        return
    assert "meeting0" in text
    assert "meeting1" in text
    assert ("bob" in text) == (kind != "sot")  # serialized output has tags by arrival


def test_suffixes_tell_formats_apart():
    assert len({one.suffix for one in TRUTH_FORMATS.values()}) == len(TRUTH_FORMATS)


NAMES = {"ann": "voice one", "bob": "voice_one"}
"""Two names that would be one, were white space replaced alone."""


@pytest.fixture(scope="module")
def spaced(conversations):
    """The conversations, with white space in the names of speakers and of recordings."""
    rows = conversations.to_pylist()
    for row in rows:
        row["conversation_id"] = row["conversation_id"].replace("meeting", "my\tmeeting ")
        row["speakers"] = [NAMES[one] for one in row["speakers"]]
        for turn in row["turns"]:
            turn["speaker"] = NAMES[turn["speaker"]]
    rows[0]["turns"][0]["text_normalized"] = "<unsure> good morning"
    return pa.Table.from_pylist(rows, schema=conversations.schema)


@pytest.mark.parametrize("kind", ["rttm", "stm"])
def test_names_with_white_space_are_read_back_and_stay_apart(conversations, spaced, kind, tmp_path):
    import meeteval
    from pyannote.database.util import load_rttm

    path = tmp_path / f"a.{kind}"
    path.write_text(write_truth(spaced, kind, hop_samples=400))
    sessions, speakers = names_in_fields(spaced)
    assert len({*sessions.values()}) == 2
    assert sorted(speakers.values()) == ["voice_one", "voice_one_2"]
    read = {"rttm": read_rttm_entries, "stm": read_stm_entries}[kind](path, "reference")
    turns = [(row, turn) for row in spaced.to_pylist() for turn in row["turns"]]
    assert [(one["session_id"], one["speaker"]) for one in read] == [
        (sessions[row["conversation_id"]], speakers[turn["speaker"]]) for row, turn in turns
    ]
    if kind == "stm":  # a text that begins as a label does is not read as one
        assert [one["words"] for one in read] == [turn["text_normalized"] for _, turn in turns]
        assert len(meeteval.io.load(str(path))) == len(turns)
    else:
        assert {name: len(found.labels()) for name, found in load_rttm(path).items()} == dict.fromkeys(
            sessions.values(), 2
        )


def test_labels_are_checked_by_the_names_that_they_are_written_under(spaced, tmp_path_factory):
    _, recorded = write_corpus(tmp_path_factory.mktemp("checked") / "corpus")
    (root,) = {row["recording"]["corpus"] for row in spaced.to_pylist()}
    check_labels(with_roots(spaced, {root: recorded}), Render())


def test_labels_that_cannot_be_read_back_stop_the_run(spaced, tmp_path_factory, monkeypatch):
    from operators.simulate import label_check

    _, recorded = write_corpus(tmp_path_factory.mktemp("unreadable") / "corpus")
    (root,) = {row["recording"]["corpus"] for row in spaced.to_pylist()}
    monkeypatch.setattr(label_check, "rttm", lambda table: ";; nothing\n")
    with pytest.raises(InputError, match="cannot be read back"):
        check_labels(with_roots(spaced, {root: recorded}), Render())
