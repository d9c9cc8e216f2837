"""simulate: utterances -> `conversations` (who speaks when, and where), and `audio` where mixtures are kept."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.config.settings import key_settings
from operators.corpus import cast
from operators.corpus.cast import Cast, cast_table
from operators.corpus.normalizers import NORMALIZER
from operators.corpus.sources import with_roots
from operators.corpus.splits import SPLITS
from operators.digest import canonical_json, digest, digest_json
from operators.errors import InputError
from operators.schema import AUDIO, AUDIO_FLAC, CASTS, CONVERSATIONS, SCHEMA_VERSION, UTTERANCES, check_chain
from operators.simulate.priors import prior_of
from operators.simulate.signals.flac import to_flac
from operators.store.dataset import Partition, Receipt, RowWriter, Snapshot
from pipelines.plan.context import RunContext
from pipelines.plan.job import Job, PartitionRef, PlannedPartition
from pipelines.plan.planning import Planning
from pipelines.plan.sets import is_set
from pipelines.plan.stage import Plan, Remarks, Stage
from pipelines.recipes.recipe import Recipe
from pipelines.stages.notices import long_utterances, short_casts, turn_taking
from pipelines.stages.truth import write_truth_files
from pipelines.stages.upstream import apply_or_quarantine, in_chunks, receipt_of, seconds_of

_CASTS_PER_BATCH = 256


@dataclass(frozen=True)
class SimulatedCasts:
    """Payload of a partition of simulated conversations."""

    index: PartitionRef
    casts: tuple[Cast, ...]


@dataclass(frozen=True)
class RecordedIds:
    """Payload of a partition of recorded conversations."""

    index: PartitionRef
    conversation_ids: tuple[str, ...]


def check(recipe: Recipe) -> None:
    """Check that each operator is given the columns it reads.

    Raises:
        TypeError: names the operator and the column.
    """
    check_chain(CASTS, recipe.converse, recipe.place, recipe.render, recipe.encode)


# ------------------------------------------------------------------------------------------------------------ planning


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield items in groups of a size, the last one perhaps smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def plan_conversations(planning: Planning) -> list[PlannedPartition]:
    """Return partitions of simulated conversations, then of recorded ones, by split.

    Raises:
        InputError: a split has no conversation.
    """
    planned = [*_plan_simulated(planning), *_plan_recorded(planning)]
    tests_only = planning.checkpoint is not None or is_set(planning.recipe)
    for split in ("test",) if tests_only else SPLITS:
        if split == "validation" and not planning.recipe.casting.validation_conversations:
            continue
        if not any(one.partition.partition_id.startswith(split) for one in planned):
            raise InputError(
                f"the {split} split has no conversation; name recordings for it as {split}=PATH, or raise "
                f"--casting.{split}-conversations"
            )
    return planned


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return what all simulated conversations depend on; one object, which is hashed once."""
    return {
        "operators": {
            "cast": cast.VERSION,
            "converse": recipe.converse.version,
            "place": recipe.place.version,
            "schema": SCHEMA_VERSION,
        },
        "converse": key_settings(recipe.converse, {"prior": digest(prior_of(recipe.converse.prior))[:16]}),
        "place": key_settings(recipe.place, {name: sounds.digest for name, sounds in recipe.place.lists().items()}),
        "seed": recipe.seed,
    }


def _plan_simulated(planning: Planning) -> Iterator[PlannedPartition]:
    recipe, utterances = planning.recipe, planning.utterances
    index = planning.ref("utterances")
    row_digests = [digest(row)[:16] for row in utterances.to_pylist()]
    speaker_of = utterances["speaker"].to_pylist()
    settings = _settings(recipe)
    for split in SPLITS:
        of_split = [one for one in planning.casts if one.split == split]
        for number, group in enumerate(chunks(of_split, recipe.partitions.conversations_per_partition)):
            # Only the rows that a partition uses, in order: not the whole manifest.
            used: dict[str, dict[str, str]] = {}
            for one in group:
                for row in (*one.rows, *one.enrolments):
                    used.setdefault(speaker_of[row], {})[str(row)] = row_digests[row]
            partition = Partition(
                partition_id=f"{split}-{number:05d}",
                row_ids=tuple(one.conversation_id for one in group),
                depends={
                    **settings,
                    "casts": digest_json([_digests_of(c, row_digests) for c in group])[:32],
                    "speakers": {s: digest_json(sorted(rows.values()))[:16] for s, rows in sorted(used.items())},
                },
            )
            yield PlannedPartition(partition, SimulatedCasts(index, tuple(group)))


def _digests_of(one: Cast, rows: Sequence[str]) -> list[Any]:
    """Return a cast's speakers and the digests of the rows that it holds."""
    lists = (one.rows, one.enrolments) if one.enrolments else (one.rows,)
    return [one.speakers, *([rows[row] for row in listed] for listed in lists)]


def _plan_recorded(planning: Planning) -> Iterator[PlannedPartition]:
    """Yield partitions of recorded conversations, as they were indexed."""
    if "recordings" not in planning.planned:
        return
    index, rows = planning.ref("recordings"), planning.recordings.to_pylist()
    indexed = [(row["split"], row["conversation_id"], digest(row)[:16]) for row in rows]
    for split in SPLITS:
        of_split = [(name, hashed) for of, name, hashed in indexed if of == split]
        for number, group in enumerate(chunks(of_split, planning.recipe.partitions.recordings_per_partition)):
            ids = tuple(name for name, _ in group)
            partition = Partition(
                partition_id=f"{split}-recorded-{number:05d}",
                row_ids=ids,
                depends={
                    "operators": {"schema": SCHEMA_VERSION},
                    "recordings": digest([hashed for _, hashed in group])[:32],
                },
            )
            yield PlannedPartition(partition, RecordedIds(index, ids))


def render_settings(recipe: Recipe, *, with_stems: bool) -> dict[str, Any]:
    """Return what a mixture depends on beyond its conversation, and its stems where they are used."""
    settings = key_settings(recipe.render)
    return settings if with_stems else {name: value for name, value in settings.items() if name != "stems"}


def plan_audio(planning: Planning) -> list[PlannedPartition]:
    """Return a partition of mixtures for each partition of conversations."""
    recipe = planning.recipe
    operators = {"render": recipe.render.version, "schema": SCHEMA_VERSION}
    settings = {"operators": operators, "render": render_settings(recipe, with_stems=True)}
    return [_downstream(upstream, settings) for upstream in planning.of("conversations")]


def _downstream(upstream: Partition, settings: dict[str, Any]) -> PlannedPartition:
    depends = {**settings, "conversations": upstream.key}
    partition = Partition(partition_id=upstream.partition_id, row_ids=upstream.row_ids, depends=depends)
    return PlannedPartition(partition, PartitionRef(upstream.partition_id, upstream.key))


# -------------------------------------------------------------------------------------------------------------- making


def make_conversations(job: Job) -> Receipt:
    """Make one partition of `conversations`."""
    return _take_recorded(job) if isinstance(job.payload, RecordedIds) else _simulate(job)


def _simulate(job: Job) -> Receipt:
    recipe, payload = job.recipe, job.payload
    dataset = job.output.dataset("utterances")
    utterances = dataset.open(receipt_of(dataset, payload.index)).read_all().select(UTTERANCES.names)

    def fill(writer: RowWriter) -> None:
        for casts in chunks(payload.casts, _CASTS_PER_BATCH):
            conversations = recipe.converse(cast_table(utterances, casts, recipe.seed))  # who speaks when
            conversations = recipe.place(conversations)  # where they sit, and the noise around them
            writer.write(conversations)
            writer.count(
                audio_s=sum(seconds_of(conversations)),
                turns=sum(len(turns) for turns in conversations["turns"].to_pylist()),
                clipped_offsets=sum(conversations["num_clipped_offsets"].to_pylist()),
                short_casts=sum(
                    len(heard) < len(one.speakers)
                    for one, heard in zip(casts, conversations["speakers"].to_pylist(), strict=True)
                ),
            )

    metadata = {
        "hubbub.converse": canonical_json(recipe.converse),
        "hubbub.place": canonical_json(key_settings(recipe.place, {})),
        "hubbub.normalizer": NORMALIZER,
    }
    return job.output.dataset("conversations").commit(job.partition, CONVERSATIONS, metadata, fill)


def _take_recorded(job: Job) -> Receipt:
    """Copy recorded conversations from their index."""
    recordings = job.output.dataset("recordings")
    receipt = receipt_of(recordings, job.payload.index)
    names = pa.array(job.payload.conversation_ids)

    def fill(writer: RowWriter) -> None:
        for batch in recordings.batches(receipt):
            rows = batch.filter(pc.is_in(batch["conversation_id"], value_set=names))
            writer.write(rows)
            writer.count(audio_s=sum(seconds_of(rows)), turns=sum(len(turns) for turns in rows["turns"].to_pylist()))

    metadata = {"hubbub.normalizer": NORMALIZER}
    return job.output.dataset("conversations").commit(job.partition, CONVERSATIONS, metadata, fill)


def make_audio(job: Job) -> Receipt:
    """Make one partition of `audio`: mixtures as FLAC."""

    def fill(writer: RowWriter) -> None:
        for conversations in in_chunks(job.output.dataset("conversations"), job.payload):
            audio = apply_or_quarantine(job.recipe.render, with_roots(conversations, job.roots), writer)
            writer.write(to_flac(audio.select(AUDIO.names)))
            writer.count(audio_s=sum(seconds_of(audio)))

    return job.output.dataset("audio").commit(job.partition, AUDIO_FLAC, {}, fill)


# ------------------------------------------------------------------------------------------------------------- telling


def casting_summary(plan: Plan) -> str:
    """Return how often speakers and utterances are cast, and how evenly; empty where all conversations are recorded."""
    speakers: Counter[str] = Counter()
    utterances: Counter[int] = Counter()
    for payload in plan.stage("conversations").payloads.values():
        if isinstance(payload, SimulatedCasts):
            for one in payload.casts:
                speakers.update(one.speakers)
                utterances.update(one.rows)
    if not speakers:
        return ""
    parts = []
    for name, counted in (("speaker", speakers), ("utterance", utterances)):
        times = np.array(list(counted.values()))
        parts.append(f"each {name} is cast {times.mean():.1f} times (sd {times.std():.1f}, at most {times.max()})")
    return "; ".join([*parts, *_fewer_speakers(plan)])


def _fewer_speakers(plan: Plan) -> list[str]:
    """Return, of splits with fewer speakers than conversations have by default, how many they have."""
    casting = plan.recipe.casting
    if casting.max_speakers is not None:
        return []
    found: dict[str, set[str]] = {}
    for payload in plan.stage("conversations").payloads.values():
        if isinstance(payload, SimulatedCasts):
            for one in payload.casts:
                found.setdefault(one.split, set()).update(one.speakers)
    return [
        f"the {split} split has {len(speakers)} speakers, so its conversations have no more"
        for split, speakers in found.items()
        if len(speakers) < casting.most_speakers
    ]


def remarks_on_conversations(context: RunContext, snapshot: Snapshot) -> Remarks:
    """Compare turn-taking with the prior, warn of long utterances, and write truth files where asked."""
    recipe, output = context.recipe, context.output
    text, figures = turn_taking(recipe, output.dataset("conversations"), snapshot)
    utterances = output.dataset("utterances").read(context.snapshots["utterances"])
    notices = [long_utterances(recipe, utterances), short_casts(recipe, snapshot)]
    paths = []
    if context.options.truth:
        paths = write_truth_files(output, snapshot, context.options.truth, recipe.encode.spec.hop_samples)
    return Remarks(
        lines=[("realism", text), *(("truth", path) for path in paths)],
        notices=list(filter(None, notices)),
        figures={f"realism.{name}": value for name, value in figures.items()},
    )


CONVERSATIONS_STAGE = Stage(
    name="simulate",
    dataset="conversations",
    upstream=("utterances", "recordings"),
    about="turns on a timeline, in samples; room, seats and noise",
    partitions=plan_conversations,
    make=make_conversations,
    check=check,
    remarks=remarks_on_conversations,
)
AUDIO_STAGE = Stage(
    name="simulate",
    dataset="audio",
    upstream=("conversations",),
    about="a mixture and its stems as FLAC",
    partitions=plan_audio,
    make=make_audio,
    is_used=lambda recipe: recipe.render.keep_audio,
)
