"""One speaker id in two corpora is two people, and in two splits of one corpus the same; the user has the last word."""

import json

import pytest

from operators.corpus.index import index_utterances, tell_apart
from operators.corpus.joined import Join
from operators.corpus.manifest import Manifest
from tests.conftest import write_corpus


@pytest.fixture
def two(tmp_path):
    """Folders of the manifests of two corpora whose speakers have the same ids, but for one."""
    for name, speakers in (("one", 3), ("two", 2)):
        manifest = write_corpus(tmp_path / name, num_speakers=speakers, per_speaker=2)
        manifest.write_text(manifest.read_text().replace('"id": "', f'"id": "{name}-'))
    return tmp_path


def indexed(*texts, shared="auto", where=None):
    manifests = [Manifest.parse(text) for text in texts]
    table, ids = tell_apart(index_utterances(manifests, where)[0], manifests, shared)
    return sorted(set(table["speaker"].to_pylist())), ids


def test_one_id_in_two_corpora_is_two_people(two):
    speakers, ids = indexed(str(two / "one"), str(two / "two"))
    assert speakers == ["s0@one", "s0@two", "s1@one", "s1@two", "s2"]
    assert (ids.apart, ids.together) == (("s0", "s1"), ())


def test_splits_beside_each_other_are_one_corpus(two):
    speakers, ids = indexed(f"train={two / 'one'}", f"test={two / 'two'}")
    assert speakers == ["s0", "s1", "s2"]
    assert (ids.apart, ids.together) == ((), ("s0", "s1"))
    (two / "two").rename(two / "one/two")
    assert indexed(str(two / "one"), str(two / "one/two"))[1].together == ("s0", "s1")  # a folder inside the other


def test_the_user_has_the_last_word(two):
    both = (str(two / "one"), str(two / "two"))
    assert indexed(*both, shared="always")[0] == ["s0", "s1", "s2"]
    splits = (f"train={both[0]}", f"test={both[1]}")
    assert indexed(*splits, shared="never")[1].apart == ("s0", "s1")


def test_filters_name_people_as_the_manifests_do(two):
    both = (str(two / "one"), str(two / "two"))
    assert indexed(*both, where="speaker != 's1'")[0] == ["s0@one", "s0@two", "s2"]
    assert indexed(*both, where="corpus == 'two' or speaker == 's2'")[0] == ["s0", "s1", "s2"]


def test_utterances_are_joined_of_one_person_each(two, tmp_path):
    manifests = [Manifest.parse(str(two / name)) for name in ("one", "two")]
    assert Join(copies=1).write(manifests, tmp_path / "joined", 0) == 10
    rows = index_utterances([Manifest.parse(str(tmp_path / "joined"))])[0].to_pylist()
    assert {row["speaker"] for row in rows} == {"s0@one", "s0@two", "s1@one", "s1@two", "s2"}
    for row in rows:
        folders = {part.split("-")[0] for part in json.loads(row["user_columns"])["joined_from"]}
        assert len(folders) == 1
