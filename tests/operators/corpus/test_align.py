"""Forced alignment against word times that are known exactly, and what cannot be aligned."""

import json

import numpy as np
import pytest

from operators.corpus.align import PocketSphinx, aligner_of
from operators.corpus.index import index_utterances
from operators.corpus.manifest import Manifest
from operators.corpus.sources import read_source
from operators.errors import InputError, UnusableRowError

pytest.importorskip("pocketsphinx", reason="pocketsphinx (extra `align`) is not installed")


def test_words_are_found_where_espeak_says_that_it_speaks_them(tmp_path):
    pytest.importorskip("espeakng_loader", reason="espeak-ng (extra `demo`) is not installed")
    from operators.corpus.stories import Stories

    Stories(num_voices=3, stories_per_voice=1, sentences_per_story=4).speak(tmp_path / "stories")
    utterances, _ = index_utterances([Manifest.parse(str(tmp_path / "stories"))])
    aligner, off = PocketSphinx(), []
    roots = dict.fromkeys(set(utterances["corpus"].to_pylist()), tmp_path / "stories")
    for row in utterances.to_pylist():
        try:
            found = aligner.align(read_source(row, roots), row["source_rate_hz"], row["text_normalized"].split())
        except UnusableRowError:
            continue
        assert [word.word for word in found] == row["text_normalized"].split()
        if len(found) == len(row["words"]):  # espeak-ng says some pairs of words as one
            begun = [word["start_sample"] / row["source_rate_hz"] for word in row["words"]]
            off += [abs(word.start_s - begin) for word, begin in zip(found, begun, strict=True)]
    assert len(off) > 30
    assert np.median(off) < 0.06


def test_what_is_not_said_or_not_known_is_refused():
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    with pytest.raises(UnusableRowError, match="not in the dictionary: xyzzyx"):
        PocketSphinx().align(noise, 16_000, ["hello", "xyzzyx"])
    with pytest.raises(UnusableRowError, match="the text was not found in the sound"):
        PocketSphinx().align(noise[:800], 16_000, ["a", "very", "long", "sentence", "that", "nobody", "says"] * 8)
    with pytest.raises(InputError, match="no aligner for language 'hu'"):
        aligner_of("hu")


def test_a_corpus_is_written_with_word_times_and_read_back(tmp_path, shared):
    import soundfile

    from pipelines.upkeep.align import align_corpus

    source = shared / "data/speechocean762"
    rows = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()[:6]]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/manifest.jsonl").write_text(
        "".join(json.dumps({**row, "audio": str(source / row["audio"])}) + "\n" for row in rows)
    )
    align_corpus([str(tmp_path / "in")], tmp_path / "out", "en", workers=1)
    utterances, bad = index_utterances([Manifest.parse(str(tmp_path / "out"))])
    assert not bad
    assert utterances.num_rows == 6
    before, _ = index_utterances([Manifest.parse(str(tmp_path / "in"))])
    for name in ("utterance_id", "speaker", "text_normalized", "split", "source_num_samples"):
        assert utterances[name].to_pylist() == before[name].to_pylist()
    for row in utterances.to_pylist():
        assert [w["word"] for w in row["words"]] == row["text_normalized"].split()
        samples = soundfile.read(row["audio"])[0]
        for word in row["words"]:
            assert 0 <= word["start_sample"] <= word["start_sample"] + word["num_samples"] <= len(samples)
