"""`hubbub plan` on a corpus that is not indexed: rows, hours and what would be quarantined, from a part of the rows."""

import dataclasses
import json

import pytest

from pipelines.inspect.preview import preview
from pipelines.plan.output import Output
from pipelines.recipes.named import custom
from tests.conftest import write_corpus


def lines_of(manifest, tmp_path, **options):
    recipe = custom()
    most_rows = options.pop("most_rows", 1000)
    corpus = dataclasses.replace(recipe.corpus, manifests=(str(manifest),), **options)
    found = dict(preview(dataclasses.replace(recipe, corpus=corpus), Output(tmp_path / "out"), most_rows))
    assert not (tmp_path / "out").exists()
    return found


def test_a_sound_corpus_is_counted(tmp_path):
    said = lines_of(write_corpus(tmp_path / "corpus"), tmp_path)
    assert said["rows"] == "30 rows: 30 are used (0.3 min), 0 would be quarantined"
    assert said["splits"] == "without a split: 30 rows, 0.3 min; test speakers would be drawn"
    assert said["fit"].startswith("about 0.24 min of training speech: 200 conversations")  # of four speakers in five
    assert "bad" not in said


@pytest.mark.parametrize(("share", "stops"), [(0.0, True), (0.2, False)])
def test_rows_that_would_be_quarantined_are_counted_with_their_reasons(tmp_path, share, stops):
    manifest = write_corpus(tmp_path / "corpus")
    for name in ("s0-0", "s1-1", "s2-2"):
        (tmp_path / f"corpus/wav/{name}.wav").unlink()
    said = lines_of(manifest, tmp_path, max_bad_share=share)
    assert said["rows"] == "30 rows: 27 are used (0.3 min), 3 would be quarantined"
    assert said["bad"].startswith("3 x ")
    assert "s0-0" in said["bad"]
    assert ("a run would stop" in said["bad"]) is stops


def test_of_many_rows_some_stand_for_all(tmp_path):
    manifest = write_corpus(tmp_path / "corpus", num_speakers=6, per_speaker=10)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    splits = ("train", "train", "dev", "test", "train", "train")
    for row in rows:
        row["split"] = splits[int(row["speaker"][1])]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = lines_of(manifest, tmp_path, most_rows=30)
    assert said["rows"].startswith("60 rows, of which 30 were looked at: 60 are used (0.8 min, about)")
    assert said["splits"].split("; ")[0].startswith("train: 40 rows")
    assert "validation: 10 rows" in said["splits"]
    assert "drawn" not in said["splits"]


def test_rows_that_a_condition_leaves_out_are_neither(tmp_path):
    said = lines_of(write_corpus(tmp_path / "corpus"), tmp_path, where="speaker != 's1'")
    assert said["rows"] == "30 rows: 25 are used (0.2 min), 0 would be quarantined"
