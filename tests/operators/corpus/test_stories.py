import itertools

import pytest

from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest
from operators.corpus.stories import Stories, sentences

espeak = pytest.importorskip("espeakng_loader", reason="espeak-ng (extra `demo`) is not installed")
SMALL = Stories(num_voices=4, stories_per_voice=2, sentences_per_story=2)


def test_stories_are_the_same_for_everybody():
    assert sentences(0, 3, 5) == sentences(0, 3, 5)
    assert sentences(0, 3, 5) != sentences(1, 3, 5)


def test_a_spoken_corpus_is_exact_and_reads_as_lhotse_manifests(tmp_path):
    from lhotse import RecordingSet, SupervisionSet

    assert SMALL.speak(tmp_path / "one", num_processes=2) == 16
    SMALL.speak(tmp_path / "two", num_processes=1)
    one, bad = index_utterances([Manifest.parse(str(tmp_path / "one"))])
    two, _ = index_utterances([Manifest.parse(str(tmp_path / "two"))])
    assert bad == []
    assert one["fingerprint"].equals(two["fingerprint"])
    assert len(RecordingSet.from_file(tmp_path / "one/stories_recordings.jsonl.gz")) == 16
    for supervision in SupervisionSet.from_file(tmp_path / "one/stories_supervisions.jsonl.gz"):
        words = supervision.alignment["word"]
        assert words[0].symbol == supervision.text.split()[0]
        assert all(a.end <= b.start + 1e-6 for a, b in itertools.pairwise(words))
        assert words[-1].end <= supervision.duration + 1e-6


def test_speaking_twice_keeps_the_first(tmp_path):
    SMALL.speak(tmp_path / "corpus")
    before = (tmp_path / "corpus/stories_recordings.jsonl.gz").stat().st_mtime_ns
    SMALL.speak(tmp_path / "corpus")
    assert (tmp_path / "corpus/stories_recordings.jsonl.gz").stat().st_mtime_ns == before
