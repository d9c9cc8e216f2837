"""Named recipes: frozen values, each made by a plain function."""

import dataclasses
from collections.abc import Callable

from models.config.options import Training
from models.config.shape import SIZES, Shape
from operators.corpus.cast import Casting
from operators.corpus.joined import Join
from operators.corpus.stories import Stories
from operators.documents.compose import Compose
from operators.packing.pack import Pack
from operators.simulate.converse import Converse
from operators.tokenize.encode import Encode
from operators.tokenize.features import Features
from pipelines.recipes.phase import Phase
from pipelines.recipes.recipe import Corpus, Evaluation, Partitions, Recipe
from pipelines.recipes.sets import SETS


def tiny() -> Recipe:
    """A minute, end to end: to see that all works, and for the tests."""
    return Recipe(
        name="tiny",
        corpus=Corpus(stories=Stories(num_voices=8, stories_per_voice=1, sentences_per_story=6)),
        casting=Casting(
            train_conversations=24, test_conversations=4, max_speakers=2, max_utterances=4, test_speakers=0.25
        ),
        converse=Converse(min_turns=2, max_turns=4, max_duration_s=12.0),
        compose=Compose(tasks=("asr", "continue"), group=4, window_s=12.0),
        pack=Pack(capacity=512),
        partitions=Partitions(conversations_per_partition=8),
        model=Shape(dim=64, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=128),
        train=Training(steps=12, packs_per_step=2, warmup_steps=2, checkpoint_every=3),
        evaluate=Evaluation(max_tokens=48),
    )


def demo() -> Recipe:
    """Eight minutes on two cores: a corpus spoken by espeak-ng, its conversations, a small model that learns."""
    return Recipe(
        name="demo",
        corpus=Corpus(stories=Stories()),
        casting=Casting(
            train_conversations=5000,
            validation_conversations=24,
            test_conversations=40,
            max_speakers=2,
            max_utterances=3,
        ),
        converse=Converse(min_turns=2, max_turns=3, max_duration_s=10.0),
        compose=Compose(tasks=("asr_timed",), group=4, window_s=10.0),
        pack=Pack(capacity=1024),
        partitions=Partitions(conversations_per_partition=1000),
        model=dataclasses.replace(SIZES["tiny"], prompt_attention="both"),
        train=Training(
            steps=1000,
            packs_per_step=3,
            packs_per_pass=3,
            lr=3e-3,
            warmup_steps=60,
            checkpoint_every=200,
            validate_every=200,
            optimizer="muon",
            activity_weight=0.2,
            tag_weight=3.0,
        ),
        evaluate=Evaluation(max_tokens=160),
    )


def stories() -> Recipe:
    """Forty minutes on two cores: the demo's voices and stories, learnt by all that helps to learn."""
    return Recipe(
        name="stories",
        corpus=Corpus(stories=Stories()),
        casting=Casting(
            train_conversations=16_000,
            validation_conversations=60,
            test_conversations=100,
            max_speakers=2,
            max_utterances=3,
        ),
        converse=Converse(min_turns=2, max_turns=3, max_duration_s=10.0),
        compose=Compose(group=2, window_s=10.0),
        pack=Pack(capacity=1024),
        partitions=Partitions(conversations_per_partition=4000),
        model=dataclasses.replace(SIZES["tiny"], prompt_attention="both"),
        train=Training(
            steps=5000,
            packs_per_step=4,
            packs_per_pass=2,
            lr=3e-3,
            warmup_steps=100,
            checkpoint_every=500,
            validate_every=500,
            hide_bands=2,
            hide_spans=2,
            optimizer="muon",
            ctc_weight=0.3,
            activity_weight=0.4,
            tag_weight=3.0,
        ),
        evaluate=Evaluation(max_tokens=160),
    )


def speechocean() -> Recipe:
    """Real read English of 52 speakers (speechocean762); the split is the manifest's, no speaker is in both."""
    return Recipe(
        name="speechocean",
        corpus=Corpus(manifests=("../shared/data/speechocean762",), language="en", licence="speechocean762"),
        casting=Casting(
            train_conversations=800,
            validation_conversations=24,
            test_conversations=40,
            max_speakers=3,
            max_utterances=4,
        ),
        converse=Converse(min_turns=2, max_turns=4, max_duration_s=20.0),
        compose=Compose(group=4, window_s=20.0),
        pack=Pack(capacity=1024),
        partitions=Partitions(conversations_per_partition=200),
        model=SIZES["tiny"],
        train=Training(steps=400, packs_per_step=4, warmup_steps=40, checkpoint_every=100),
        evaluate=Evaluation(max_tokens=200),
    )


def projector() -> Recipe:
    """A projector from --model.encoder to a text LLM (--train.start-from); then low-rank updates, then mixtures."""
    recipe = speechocean()
    return dataclasses.replace(
        recipe,
        name="projector",
        encode=Encode(codec="pcm"),
        features=Features(store="float16"),
        compose=Compose(window_s=20.0),
        model=dataclasses.replace(SIZES["tiny"], lora_rank=16),
        train=Training(
            steps=1000,
            packs_per_step=4,
            lr=1e-3,
            warmup_steps=50,
            checkpoint_every=200,
            validate_every=200,
            keep_best=1,
            ctc_weight=0.3,
            ctc_at="projector",
        ),
        evaluate=Evaluation(max_tokens=200, checkpoint="best"),
        phases=(
            Phase(name="projector", min_speakers=1, max_speakers=1, only=("projector", "tokens"), patience=3),
            Phase(name="one-talker", min_speakers=1, max_speakers=1, lr=5e-4, patience=3),
            Phase(name="mixtures", min_speakers=1, steps=2000, lr=5e-4),
        ),
    )


def fsdd() -> Recipe:
    """Real spoken digits (FSDD), ten words; its split SHARES all six speakers between train and test."""
    return Recipe(
        name="fsdd",
        corpus=Corpus(manifests=("../shared/data/fsdd",), language="en", licence="CC-BY-SA-4.0", join=Join()),
        casting=Casting(train_conversations=16_000, test_conversations=100, max_speakers=2, max_utterances=4),
        converse=Converse(min_turns=2, max_turns=6, max_duration_s=10.0),
        compose=Compose(group=2, window_s=10.0),
        pack=Pack(capacity=1024),
        partitions=Partitions(conversations_per_partition=4000),
        model=dataclasses.replace(SIZES["tiny"], prompt_attention="both"),
        train=Training(
            steps=4200,
            packs_per_step=4,
            packs_per_pass=2,
            lr=3e-3,
            warmup_steps=100,
            checkpoint_every=250,
            hide_bands=2,
            hide_spans=2,
            optimizer="muon",
            ctc_weight=0.3,
            activity_weight=0.4,
            tag_weight=3.0,
        ),
        evaluate=Evaluation(max_tokens=100),
    )


def custom() -> Recipe:
    """For corpora of your own: what is not given follows from their hours, the codec and the layout."""
    return Recipe(fit=("window", "capacity", "conversations", "steps", "size"))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "stories": stories,
    "tiny": tiny,
    "speechocean": speechocean,
    "projector": projector,
    "fsdd": fsdd,
    **SETS,
    "custom": custom,
}
