"""tokenize: conversations -> mixtures -> `codes`, in chunks of bounded audio; codes -> `features` of an encoder."""

from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from models.config.settings import key_settings
from operators.corpus.sources import with_roots
from operators.digest import canonical_json, to_jsonable
from operators.documents.addresses import stretches, windowing_key
from operators.errors import UnusableRowError
from operators.rng import hash64
from operators.schema import AUDIO, CODES, FEATURES, SCHEMA_VERSION, STRETCHES
from operators.simulate.label_check import check_labels
from operators.store.dataset import Partition, Receipt, RowWriter
from operators.tokenize.features import Hear
from pipelines.plan.header import digest_of_encoder
from pipelines.plan.job import Job, PartitionRef, PlannedPartition
from pipelines.plan.planning import Planning
from pipelines.plan.stage import Stage
from pipelines.recipes.recipe import Recipe
from pipelines.stages.simulate import render_settings
from pipelines.stages.upstream import apply_or_quarantine, in_chunks, receipt_of, seeded_compose

SELF_TESTED = 2
"""Conversations of each partition whose labels are checked against their audio."""


def plan_codes(planning: Planning) -> list[PlannedPartition]:
    """Return a partition of codes for each partition of conversations."""
    recipe = planning.recipe
    settings = {
        "operators": {
            "render": recipe.render.version,
            "encode": recipe.encode.version,
            "schema": SCHEMA_VERSION,
        },
        "render": render_settings(recipe, with_stems=recipe.encode.stems),
        "encode": key_settings(recipe.encode, {"codec": to_jsonable(recipe.encode.spec)}),
    }
    return [
        PlannedPartition(
            Partition(
                partition_id=upstream.partition_id,
                row_ids=upstream.row_ids,
                depends={**settings, "conversations": upstream.key},
            ),
            PartitionRef(upstream.partition_id, upstream.key),
        )
        for upstream in planning.of("conversations")
    ]


def self_test(conversations: pa.Table, recipe: Recipe) -> int:
    """Check labels against the audio; return the number of conversations that were checked.

    Raises:
        InputError: they disagree.
    """
    tested = 0
    for number in range(conversations.num_rows):
        with suppress(UnusableRowError):  # rendering quarantines it, with the reason
            check_labels(conversations.slice(number, 1), recipe.render)
            tested += 1
    return tested


def make_codes(job: Job) -> Receipt:
    """Make one partition of `codes`."""
    recipe = job.recipe
    sample = sorted(job.partition.row_ids, key=hash64)[:SELF_TESTED]

    def fill(writer: RowWriter) -> None:
        for chunk in in_chunks(job.output.dataset("conversations"), job.payload):
            conversations = with_roots(chunk, job.roots)
            tested = conversations.filter(pc.is_in(conversations["conversation_id"], value_set=pa.array(sample)))
            writer.count(self_tested=self_test(tested, recipe))
            audio = apply_or_quarantine(recipe.render, conversations, writer)  # mixtures, in memory only
            codes = apply_or_quarantine(recipe.encode, audio.select(AUDIO.names), writer)  # (K, T) of each mixture
            writer.write(codes)
            writer.count(
                audio_s=sum(codes["num_samples"].to_pylist()) / recipe.encode.spec.sample_rate_hz,
                frames=sum(codes["num_frames"].to_pylist()),
                scaled_mixtures=sum(scale < 1 for scale in audio["scale"].to_pylist()),
            )

    metadata = {"hubbub.codec": canonical_json(recipe.encode.spec)}
    return job.output.dataset("codes").commit(job.partition, CODES, metadata, fill)


def plan_features(planning: Planning) -> list[PlannedPartition]:
    """Return a partition of features for each partition of codes that is packed."""
    recipe = planning.recipe
    hear = Hear.of(recipe.features, recipe.model)
    settings = {
        "operators": {"features": Hear.version, "compose": recipe.compose.version, "schema": SCHEMA_VERSION},
        "stored": key_settings(recipe.features),
        "encoder": {
            "digest": digest_of_encoder(hear.encoder),
            "layers": hear.layers,
            "window": hear.window,
            **({"tail_s": hear.tail_s} if hear.tail_s else {}),
        },
        "windows": windowing_key(seeded_compose(recipe)),
    }
    return [
        PlannedPartition(
            Partition(
                partition_id=upstream.partition_id,
                row_ids=upstream.row_ids,
                depends={**settings, "codes": upstream.key},
            ),
            PartitionRef(upstream.partition_id, upstream.key),
        )
        for upstream in planning.of("codes")
        if not upstream.partition_id.startswith("test-")  # evaluation cuts windows of its own
    ]


def make_features(job: Job) -> Receipt:
    """Make one partition of `features`."""
    from models.speech_lm.hearing.load import STACK  # with torch, which planning does without

    recipe, source = job.recipe, job.output.dataset("codes")
    compose, hear, codec = seeded_compose(recipe), Hear.of(recipe.features, recipe.model), recipe.encode.spec
    hearing = hear.loaded

    def fill(writer: RowWriter) -> None:
        for batch in source.batches(receipt_of(source, job.payload)):  # as much audio as a chunk of tokenize
            made = hear(pa.concat_tables([STRETCHES.empty_table(), *stretches(batch, compose)]).combine_chunks())
            writer.write(made)
            frames = sum(made["num_frames"].to_pylist())
            writer.count(audio_s=frames / codec.frame_rate_hz, frames=frames)

    told = {
        "dtype": recipe.features.store,
        "layers": len(hearing.layers),
        "width": hearing.width,
        "frames_per_frame": STACK,
        "tail_frames": hearing.tail_frames,
        "encoder": digest_of_encoder(hear.encoder),
        "window": hear.window,
    }
    metadata = {"hubbub.codec": canonical_json(codec), "hubbub.features": canonical_json(told)}
    return job.output.dataset("features").commit(job.partition, FEATURES, metadata, fill)


CODES_STAGE = Stage(
    name="tokenize",
    dataset="codes",
    upstream=("conversations",),
    about="codes of a mixture and its stems, turns in frames",
    partitions=plan_codes,
    make=make_codes,
    uses_gpu=lambda recipe: recipe.encode.device != "cpu",
    keeps_model=True,
)
FEATURES_STAGE = Stage(
    name="tokenize",
    dataset="features",
    upstream=("codes",),
    about="an encoder's frames of one stretch of audio that documents hold",
    partitions=plan_features,
    make=make_features,
    is_used=lambda recipe: recipe.features.are_stored,
    uses_gpu=lambda recipe: recipe.features.device != "cpu",
    keeps_model=True,
    for_training=True,
)
