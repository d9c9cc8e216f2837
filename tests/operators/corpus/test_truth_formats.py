"""Every truth format of the table writes recorded conversations, and says whose the words are."""

import pytest

from operators.corpus.annotations import TRUTH_FORMATS, write_truth
from operators.corpus.manifest import Manifest, corpus_roots
from operators.corpus.recorded import index_recorded
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
