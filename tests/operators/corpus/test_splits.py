"""Splits: what manifests name is kept, what they do not name is drawn, and nothing held out is trained on."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from operators.corpus.cast import Casting, plan_casts
from operators.corpus.normalizers import normalize
from operators.corpus.normalizers.sentences import is_sentence
from operators.corpus.splits import SPLITS, split_rows
from operators.errors import InputError
from operators.schema import UTTERANCES

CASTING = Casting(train_conversations=6, test_conversations=2, max_speakers=2, test_speakers=0.2)
VALIDATED = replace(CASTING, validation_conversations=2, validation_speakers=0.2)


def table(rows):
    """Utterances without audio: (speaker, split, text) each, with book and chapter where there are more."""
    names = ("speaker", "split", "text_normalized", "book", "chapter")
    listed = [
        {"utterance_id": f"u{i:04d}", "text": row[2], "position": i, **dict(zip(names, row, strict=False))}
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
    assert len(speakers_of(utterances, splits)["test"]) == few.min_speakers
    plan_casts(utterances, splits, few, 0)
    many = replace(few, max_speakers=3)
    with pytest.raises(InputError, match=r"raise --casting.test-speakers"):
        plan_casts(utterances, split_rows(utterances, many, 0), many, 0)


def test_every_row_is_in_one_split_at_most():
    rng = np.random.default_rng(0)
    names = [None, "train", "dev", "test"]
    for _ in range(20):
        utterances = table([(f"s{rng.integers(8)}", names[rng.integers(4)], "a") for _ in range(60)])
        rows = split_rows(utterances, VALIDATED, int(rng.integers(9))).rows
        assert len(np.unique(np.concatenate(list(rows.values())))) == sum(map(len, rows.values()))


def sentence(number):
    """A sentence of seven words, another one for each number."""
    return f"sentence number {number} is said in tests"


def said(utterances, splits, split):
    listed = utterances["text_normalized"].to_pylist()
    return {listed[i] for i in splits.rows[split] if is_sentence(listed[i])}


def test_speakers_who_read_the_same_are_drawn_together_and_nothing_is_dropped():
    pairs = table([(f"s{s:02d}", None, sentence(100 * (s // 2) + u)) for s in range(20) for u in range(4)])
    for seed in range(5):
        splits = split_rows(pairs, replace(CASTING, test_speakers=0.2), seed)
        assert sum(map(len, splits.rows.values())) == 80
        assert len(splits.rows["test"]) == 16
        assert not said(pairs, splits, "test") & said(pairs, splits, "train")
        assert "no sentence of 5 words is in both" in splits.describe()
    apart = split_rows(pairs, replace(CASTING, shared_text="allow"), 1)
    assert apart.shared["test"].sentences == len(said(pairs, apart, "test") & said(pairs, apart, "train")) > 0
    assert f"test SHARES {apart.shared['test'].sentences} sentences of 5 words or more" in apart.describe()


def test_where_everybody_reads_the_same_each_text_is_kept_on_one_side():
    everybody = table([(f"s{s:02d}", None, sentence(u)) for s in range(10) for u in range(40)])
    splits = split_rows(everybody, VALIDATED, 0)
    texts = [said(everybody, splits, split) for split in SPLITS]
    assert set.union(*texts) == {sentence(u) for u in range(40)}
    assert sum(map(len, texts)) == 40
    assert all(texts)
    assert len(texts[0]) > 15
    kept = sum(map(len, splits.rows.values()))
    assert sum(splits.unused.values()) == 400 - kept > 0
    assert "of train whose text is in another split are in no split" in splits.describe()
    short = table([(f"s{s:02d}", None, f"one two {u}") for s in range(10) for u in range(40)])
    assert sum(map(len, split_rows(short, VALIDATED, 0).rows.values())) == 400


def test_whole_books_are_on_one_side_where_there_are_many():
    def corpus(num_books):
        texts = ((s, u, sentence(1000 * s + u)) for s in range(10) for u in range(num_books * 3))
        return table([(f"s{s:02d}", None, text, f"book {u // 3}") for s, u, text in texts])

    many, one = corpus(12), corpus(1)
    splits = split_rows(many, CASTING, 0)
    books = many["book"].to_pylist()
    sides = [{books[i] for i in splits.rows[split]} for split in ("train", "test")]
    assert all(sides)
    assert not sides[0] & sides[1]
    splits = split_rows(one, CASTING, 0)  # one book cannot be on both sides: its sentences are the texts
    assert sum(map(len, splits.rows.values())) == one.num_rows
    assert "test SHARES 1 book with train" in splits.describe()


def test_a_manifests_own_split_keeps_what_it_holds_out():
    rows = [("a", "train", sentence(u)) for u in range(10)] + [("b", "dev", sentence(u)) for u in range(5, 12)]
    utterances = table([*rows, *(("a", "test", sentence(u)) for u in range(8, 14))])
    splits = split_rows(utterances, CASTING, 0)
    assert said(utterances, splits, "train") == {sentence(u) for u in range(5)}
    assert said(utterances, splits, "validation") == {sentence(u) for u in range(5, 8)}
    assert said(utterances, splits, "test") == {sentence(u) for u in range(8, 14)}
    assert splits.unused == {
        "of train whose text is in another split": 5,
        "of validation whose text is in another split": 4,
    }
    assert "test SHARES 1 speaker with train" in splits.describe()
    allowed = split_rows(utterances, replace(CASTING, shared_text="allow"), 0)
    assert {split: shared.sentences for split, shared in allowed.shared.items()} == {"validation": 5, "test": 2}


def test_a_sentence_within_a_punctuated_utterance_is_found():
    utterances = table([("a", "train", ""), ("b", "test", sentence(1)), ("c", "train", sentence(2))])
    long = f"Well then. {sentence(1).capitalize()}. Yes!"
    for name, text in (("text", long), ("text_normalized", normalize(long))):
        listed = utterances[name].to_pylist()
        column = pa.array([text, *listed[1:]], pa.string())
        utterances = utterances.set_column(utterances.schema.get_field_index(name), name, column)
    assert split_rows(utterances, CASTING, 0).rows["train"].tolist() == [2]


def test_a_connected_part_that_is_too_large_is_divided():
    """Speakers 0 to 9 are linked by chains of sentences: none of them is left out of the draw."""
    chain = table(
        [(f"s{s:02d}", None, sentence(text)) for s in range(10) for text in (s, s + 1, *(100 * s + 200,) * 3)]
    )
    splits = split_rows(chain, replace(CASTING, test_speakers=0.3), 0)
    assert len(speakers_of(chain, splits)["test"]) == 3
    assert splits.shared["test"].sentences == splits.shared["test"].speakers == 0
    assert 0 < sum(splits.unused.values()) <= 6
