"""tokenize: conversations -> mixtures -> codes, in chunks of bounded audio."""

from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from operators.digest import canonical_json
from operators.errors import UnusableRowError
from operators.evaluate.selftest import check_labels
from operators.rng import hash64
from operators.schema import AUDIO, CODES
from operators.simulate.render import with_roots
from operators.store.dataset import Receipt, RowWriter
from pipelines.recipes.recipe import Recipe
from pipelines.run.partitions import Job, usable
from pipelines.stages.simulate import conversations_of

SELF_TESTED = 2
"""Conversations of each partition whose labels are held against their sound."""


def self_test(conversations: pa.Table, recipe: Recipe) -> int:
    """Hold labels against sound; return how many conversations were.

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
        for chunk in conversations_of(job):
            conversations = with_roots(chunk, job.corpus_roots)
            tested = conversations.filter(pc.is_in(conversations["conversation_id"], value_set=pa.array(sample)))
            writer.count(self_tested=self_test(tested, recipe))
            audio = usable(recipe.render, conversations, writer)  # what the room hears
            codes = usable(recipe.encode, audio.select(AUDIO.names), writer)  # (K, T) of each mixture
            writer.write(codes)
            writer.count(
                audio_s=sum(codes["num_samples"].to_pylist()) / recipe.encode.spec.sample_rate_hz,
                frames=sum(codes["num_frames"].to_pylist()),
                scaled_mixtures=sum(scale < 1 for scale in audio["scale"].to_pylist()),
            )

    metadata = {"hubbub.codec": canonical_json(recipe.encode.spec)}
    return job.output.dataset("codes").commit(job.partition, CODES, metadata, fill)
