"""Nothing of the test side is trained on: no sentence, no sample of a voice; over spoken stories, up to the packs."""

from dataclasses import replace
from itertools import chain

import pytest

from models.sequence.documents import AUDIO
from operators.corpus.cast import Casting
from operators.corpus.normalizers.sentences import sentences_of
from operators.corpus.splits import split_rows
from operators.corpus.stories import Stories
from operators.documents.compose import Compose
from operators.packing.pack import Pack
from operators.simulate.converse import Converse
from operators.simulate.render import Render
from operators.store.shards import of_split
from operators.tokenize.encode import Encode
from pipelines.plan.output import Output
from pipelines.plan.sources import made_corpus
from pipelines.recipes.recipe import Corpus, Partitions, Recipe
from pipelines.stages import plan_recipe
from tests.golden.fingerprints import Road, index_corpus
from tests.pipelines.support import make_stale

pytest.importorskip("espeakng_loader", reason="espeak-ng (extra `demo`) is not installed")


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Conversations, codes and packs of a small corpus like the demo's: voices in pairs that tell the same stories."""
    recipe = Recipe(
        corpus=Corpus(stories=Stories(num_voices=6, stories_per_voice=2, sentences_per_story=4, num_libraries=3)),
        casting=Casting(
            train_conversations=12,
            validation_conversations=3,
            test_conversations=4,
            max_speakers=2,
            max_utterances=3,
            validation_speakers=0.34,
            test_speakers=0.34,
        ),
        converse=Converse(min_turns=2, max_turns=3, max_duration_s=10.0),
        render=Render(stems="anechoic"),
        encode=Encode(stems=True),
        compose=Compose(tasks=("asr", "asr_target", "extract", "speak"), group=4, window_s=10.0),
        pack=Pack(capacity=2048),
        partitions=Partitions(conversations_per_partition=20),
    )
    road = Road(recipe, Output(tmp_path_factory.mktemp("leaks")))
    recipe.corpus.stories.speak(made_corpus(recipe, road.output))
    index_corpus(road)
    for name in ("conversations", "codes", "packs"):
        receipts = make_stale(plan_recipe(recipe, road.output).stage(name), recipe, road.output)
        assert not any(receipt.quarantined for receipt in receipts)
        road.output.dataset(name).snapshot(receipts, {}, {})
    return road


def talks(road, split):
    return [row for row in road.output.dataset("conversations").read().to_pylist() if row["split"] == split]


def sentences(road, split):
    turns = chain.from_iterable(row["turns"] for row in talks(road, split))
    return set(chain.from_iterable(sentences_of(turn["text"], turn["text_normalized"]) for turn in turns))


def sounds(road, split):
    """Recordings that are heard in a split, in conversations or as samples of voices."""
    return {one["audio"] for row in talks(road, split) for one in (*row["turns"], *row["enrolments"])}


def trained_texts(road):
    dataset, tokenizer = road.output.dataset("packs"), road.recipe.compose.loaded_tokenizer
    packs = (row for receipt in of_split(dataset.latest().receipts, "train") for row in dataset.batches(receipt))
    return [tokenizer.show(row["text_tokens"], {}) for batch in packs for row in batch.to_pylist()]


def test_no_sentence_of_the_test_side_is_trained_on(road):
    trained = trained_texts(road)
    assert any(sentence in text for sentence in sentences(road, "train") for text in trained)
    for split in ("test", "validation"):
        held_out = sentences(road, split)
        assert len(held_out) > 2
        assert not held_out & sentences(road, "train")
        assert not [sentence for sentence in held_out for text in trained if sentence in text]
    splits = plan_recipe(road.recipe, road.output).splits
    assert not splits.unused  # pairs of voices are drawn, so that nothing need be dropped
    assert {(shared.speakers, shared.books, shared.sentences) for shared in splits.shared.values()} == {(0, 0, 0)}


def test_no_recording_of_the_test_side_is_heard_in_training(road):
    heard = {split: sounds(road, split) for split in ("train", "validation", "test")}
    assert all(heard.values())
    assert not (heard["test"] | heard["validation"]) & heard["train"]


def test_no_sample_of_a_voice_stands_in_what_its_document_asks_about(road):
    spec = road.recipe.encode.spec
    size = spec.num_codebooks * spec.bits // 8
    number = 0
    for row in talks(road, "train"):
        assert row["enrolments"]
        assert not {e["utterance_id"] for e in row["enrolments"]} & {t["utterance_id"] for t in row["turns"]}
    for batch in road.output.dataset("codes").batches(road.output.dataset("codes").latest().receipts[0]):
        for document in road.recipe.compose(batch).to_pylist():
            pieces, at = [], 0
            for segment in document["segments"]:
                if segment["kind"] == AUDIO:
                    pieces.append(document["codes"][at : at + segment["length"] * size])
                    at += segment["length"] * size
            last = {"speak": 1, "extract": 2}.get(document["task"], 1)
            for sample in pieces[:-last]:
                number += 1
                assert len(sample) > 10 * size
                assert not any(sample in sound for sound in pieces[-last:])
    assert number > 10


def test_a_pair_of_voices_in_two_splits_would_be_found(road):
    """The same corpus by the rule that looks at speakers alone: what the tests above look for is there."""
    casting = replace(road.recipe.casting, shared_text="allow", validation_conversations=0)
    table = road.output.dataset("utterances").read()
    assert any(split_rows(table, casting, seed).shared["test"].sentences for seed in range(4))
