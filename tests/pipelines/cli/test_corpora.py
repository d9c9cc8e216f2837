"""What a user types for a corpus of each form, up to a running index."""

import json

import pytest

from operators.corpus.forms import FORMS
from tests.operators.corpus.forms import test_forms as made
from tests.pipelines.support import hubbub

CAST = ["--casting.train-conversations", 2, "--casting.test-conversations", 1, "--casting.min-speakers", 1]
SIZES = ["--casting.max-speakers", 1, "--converse.min-turns", 1, "--converse.max-turns", 2, "--compose.window-s", 12]


def simulate(output, *arguments, check=True):
    # Both speakers read the same few sentences.
    arguments = ["--casting.shared-text", "allow", *arguments]
    return hubbub("simulate", "custom", "--output", output, "--workers", 1, *CAST, *SIZES, *arguments, check=check)


def test_a_tree_is_indexed_by_the_line_that_the_documentation_gives(tmp_path):
    made.librispeech(tmp_path / "LibriSpeech")
    split = ["--casting.split", "speaker"]
    out = simulate(tmp_path / "out", "--corpus.manifests", tmp_path / "LibriSpeech", *split).stdout
    assert "4 rows in 1 partitions" in out
    assert "2 speakers" in out


def test_rows_without_speakers_stop_with_the_reasons_and_the_way_on_which_works(tmp_path):
    for name, _, _ in made.ROWS:
        made.sound(tmp_path / f"{name}.wav")
    rows = [{"audio_filepath": f"{n}.wav", "said": t} for n, _, t in made.ROWS]
    made.lines(tmp_path / "train_manifest.json", [*rows, "{"])
    told = ["--corpus.manifests", tmp_path]
    failed = simulate(tmp_path / "out", *told, check=False)
    assert failed.returncode == 2
    error = " ".join(failed.stderr.split())
    assert "5 of 5 rows cannot be used" in error
    assert "most often: 4 x no speaker; 1 x the line is not JSON" in error
    assert "no row is left" in error
    assert "--corpus.speaker-from folder, prefix or a regular expression" in error
    assert "max-bad-share 1" not in error
    kept = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert "train_manifest.json:5: the line is not JSON" in " ".join(row["reason"] for row in kept)
    told += ["--corpus.speaker-from", "prefix", "--corpus.map", "text=said", "--corpus.max-bad-share", 0.2]
    assert "2 speakers" in simulate(tmp_path / "again", *told).stdout


def test_an_unknown_split_stops_before_work_and_lists_the_known_ones(tmp_path):
    made.nemo(tmp_path / "c")
    failed = simulate(tmp_path / "out", "--corpus.manifests", f"held={tmp_path}/c", check=False)
    assert failed.returncode == 2
    assert "held is no split" in failed.stderr
    assert not (tmp_path / "out" / "data").exists()


def test_import_writes_what_corpus_manifests_takes(tmp_path):
    made.webdataset(tmp_path / "tars")
    out = hubbub("data", "import", tmp_path / "tars", tmp_path / "plain").stdout
    assert "4 rows; use them by --corpus.manifests" in " ".join(out.split())
    assert len((tmp_path / "plain/manifest.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_documented(form):
    from cluster.session import ROOT

    words = {"lists": "NeMo", "tables": "audiofolder", "texts": "text beside it", "common_voice": "Common Voice"}
    assert words.get(form, form).lower() in (ROOT / "docs" / "corpora.md").read_text().lower()
