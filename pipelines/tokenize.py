"""tokenize: conversations -> mixtures -> codes, in chunks of bounded audio."""

from operators.dataset import Receipt, RowWriter
from operators.digest import canonical_json
from operators.render import with_roots
from operators.schema import AUDIO, CODES
from pipelines.partitions import Job, usable
from pipelines.simulate import conversations_of


def make_codes(job: Job) -> Receipt:
    """Make one partition of `codes`."""
    recipe = job.recipe

    def fill(writer: RowWriter) -> None:
        for conversations in conversations_of(job):
            audio = usable(recipe.render, with_roots(conversations, job.corpus_roots), writer)  # what the room hears
            codes = usable(recipe.encode, audio.select(AUDIO.names), writer)  # (K, T) of each mixture
            writer.write(codes)
            writer.count(
                audio_s=sum(codes["num_samples"].to_pylist()) / recipe.encode.spec.sample_rate_hz,
                frames=sum(codes["num_frames"].to_pylist()),
                scaled_mixtures=sum(scale < 1 for scale in audio["scale"].to_pylist()),
            )

    metadata = {"hubbub.codec": canonical_json(recipe.encode.spec)}
    return job.output.dataset("codes").commit(job.partition, CODES, metadata, fill)
