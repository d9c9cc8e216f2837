"""Splits: what manifests name is kept, what they do not name is drawn, and nothing held out is trained on."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from operators.corpus.cast import Casting, plan_casts
from operators.corpus.splits import SPLITS, split_rows
from operators.errors import InputError
from operators.schema import UTTERANCES

CASTING = Casting(train_conversations=6, test_conversations=2, max_speakers=2, test_speakers=0.2)
VALIDATED = replace(CASTING, validation_conversations=2, validation_speakers=0.2)


def table(rows):
    """Utterances without audio: (speaker, split, text) each, with book and chapter where there are more."""
    names = ("speaker", "split", "text_normalized", "book", "chapter")
    listed = [
        {"utterance_id": f"u{i:04d}", "corpus": "c", "position": i, **dict(zip(names, row, strict=False))}
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(listed, schema=UTTERANCES)


def named(*splits, speakers_each=3, utterances=2):
    """A table of speakers s00, s01, ... with as many in each of the splits, in order."""
    return table(
        [
            (f"s{number * speakers_each + s:02d}", split, f"a{u}")
            for number, split in enumerate(splits)
            for s in range(speakers_each)
            for u in range(utterances)
        ]
    )


def speakers_of(utterances, splits):
    listed = utterances["speaker"].to_pylist()
    return {split: {listed[i] for i in splits.rows[split]} for split in SPLITS}


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validation", "development", "Dev", "dev-clean"])
def test_a_validation_split_is_kept_under_any_of_its_names(name):
    utterances = named("train", name, "test")
    splits = split_rows(utterances, VALIDATED, 0)
    assert speakers_of(utterances, splits)["validation"] == {"s03", "s04", "s05"}
    assert splits.source == "manifest"
    casts = plan_casts(utterances, splits, VALIDATED, 0)
    assert [c.conversation_id for c in casts if c.split == "validation"] == ["validation-000000", "validation-000001"]
    assert all(set(c.speakers) <= {"s03", "s04", "s05"} for c in casts if c.split == "validation")


def test_a_named_split_is_never_trained_on_unless_it_is_called_train():
    for names in (("train", "dev"), ("dev", None), ("test", None), ("train", "dev", None)):
        utterances = named(*names, speakers_each=5)
        splits = split_rows(utterances, CASTING, 0)
        listed = utterances["split"].to_pylist()
        trained = {listed[i] for i in splits.rows["train"]}
        assert trained == ({"train"} if "train" in names else {None}), names
        if "test" not in names:  # drawn from what would be trained on
            assert {listed[i] for i in splits.rows["test"]} == trained
            assert "the manifest's own, but for a seeded draw of test speakers" in splits.describe()
    assert "10 rows without a split are in no split" in splits.describe()


def test_an_unknown_split_is_refused_by_name_and_count():
    utterances = named("train", "held", "test", "train_dev")
    with pytest.raises(InputError, match=r"held \(6 rows\), train_dev \(6 rows\); name them by SPLIT=PATH"):
        split_rows(utterances, CASTING, 0)
    assert split_rows(utterances, replace(CASTING, split="speaker"), 0).source == "speaker"


def test_a_validation_split_is_drawn_only_where_it_is_asked_for():
    utterances = named(None, speakers_each=20)
    plain, asked = (split_rows(utterances, casting, 0) for casting in (CASTING, VALIDATED))
    assert not len(plain.rows["validation"])
    before, after = speakers_of(utterances, plain), speakers_of(utterances, asked)
    assert before["test"] == after["test"]
    assert len(after["validation"]) == 4
    assert after["train"] == before["train"] - after["validation"]
    assert not after["validation"] & after["test"]
    both = named("train", "test", speakers_each=10)
    drawn = split_rows(both, VALIDATED, 0)
    assert (drawn.source, drawn.drawn) == ("both", ("validation",))
    assert len(drawn.rows["test"]) == 20
    with pytest.raises(InputError, match="name no validation split"):
        split_rows(both, replace(VALIDATED, split="manifest"), 0)
    few = replace(VALIDATED, validation_speakers=0.01, test_speakers=0.01)
    splits = split_rows(utterances, few, 0)
    assert len(speakers_of(utterances, splits)["validation"]) == few.max_speakers
    with pytest.raises(InputError, match=r"raise --casting.test-speakers"):
        plan_casts(utterances, splits, few, 0)


def test_every_row_is_in_one_split_at_most():
    rng = np.random.default_rng(0)
    names = [None, "train", "dev", "test"]
    for _ in range(20):
        utterances = table([(f"s{rng.integers(8)}", names[rng.integers(4)], "a") for _ in range(60)])
        rows = split_rows(utterances, VALIDATED, int(rng.integers(9))).rows
        assert len(np.unique(np.concatenate(list(rows.values())))) == sum(map(len, rows.values()))
