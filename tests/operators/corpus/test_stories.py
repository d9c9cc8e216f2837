import itertools
from collections import defaultdict

import pyarrow as pa
import pytest

from operators.corpus.cast import Casting
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest
from operators.corpus.normalizers.sentences import is_sentence
from operators.corpus.splits import SPLITS, split_rows
from operators.corpus.stories import Stories, sentences
from operators.schema import UTTERANCES

espeak = pytest.importorskip("espeakng_loader", reason="espeak-ng (extra `demo`) is not installed")
SMALL = Stories(num_voices=4, stories_per_voice=2, sentences_per_story=2)


def test_stories_are_the_same_for_everybody():
    assert sentences(0, 3, 5) == sentences(0, 3, 5)
    assert sentences(0, 3, 5) != sentences(1, 3, 5)


def test_no_sentence_is_told_in_two_libraries_and_none_of_the_test_side_in_training():
    told = list(Stories().utterances())
    library = {name: number % 10 for number, name in enumerate(dict.fromkeys(one["speaker"] for one in told))}
    sides = defaultdict(set)
    for one in told:
        if is_sentence(one["text"]):
            sides[one["text"]].add(library[one["speaker"]])
    assert len(sides) > 400
    assert all(len(libraries) == 1 for libraries in sides.values())
    rows = [{"utterance_id": one["id"], "text": one["text"], "text_normalized": one["text"]} for one in told]
    names = [{"speaker": one["speaker"], "book": one["story"]} for one in told]
    table = pa.Table.from_pylist([a | b for a, b in zip(rows, names, strict=True)], schema=UTTERANCES)
    for seed in range(5):
        splits = split_rows(table, Casting(validation_conversations=1), seed)
        assert [len(splits.rows[split]) for split in SPLITS] == [28 * 56, 4 * 56, 8 * 56]  # nothing is dropped
        said = [{told[i]["text"] for i in splits.rows[split] if is_sentence(told[i]["text"])} for split in SPLITS]
        assert not (said[1] | said[2]) & said[0]


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
        # espeak-ng tells the start of some pairs of words only: no word is left out for that.
        assert [word.symbol for word in words] == supervision.text.split()
        assert all(a.end <= b.start + 1e-6 for a, b in itertools.pairwise(words))
        assert words[-1].end <= supervision.duration + 1e-6


def test_speaking_twice_keeps_the_first(tmp_path):
    SMALL.speak(tmp_path / "corpus")
    before = (tmp_path / "corpus/stories_recordings.jsonl.gz").stat().st_mtime_ns
    SMALL.speak(tmp_path / "corpus")
    assert (tmp_path / "corpus/stories_recordings.jsonl.gz").stat().st_mtime_ns == before
