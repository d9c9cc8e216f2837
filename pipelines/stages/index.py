"""index: manifests -> `utterances` and `recordings`, on the driver, for only headers are read."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.config.settings import key_settings
from operators.corpus import index, normalizers, recorded
from operators.corpus.forms import manifests_digest
from operators.corpus.index import REPAIRS, index_utterances, tell_apart
from operators.corpus.manifest import corpus_roots
from operators.corpus.normalizers import NORMALIZER
from operators.corpus.recorded import index_recorded
from operators.corpus.sets import layouts
from operators.corpus.sets.layouts import LAYOUTS
from operators.digest import digest
from operators.errors import InputError
from operators.schema import CONVERSATIONS, SCHEMA_VERSION, UTTERANCES
from operators.store import storage
from operators.store.dataset import Dataset, Partition, Quarantined, Receipt, RowWriter
from pipelines.plan.context import RunContext, describe, refuse_above, report_stage, take_snapshot
from pipelines.plan.job import PlannedPartition
from pipelines.plan.output import Output
from pipelines.plan.planning import Planning
from pipelines.plan.sources import (
    audio_roots_of,
    given_manifests,
    made_corpus,
    manifests_of,
    people_of,
    reading_key,
    recorded_of,
)
from pipelines.plan.stage import Stage, StagePlan
from pipelines.recipes.recipe import Recipe
from pipelines.reporting import console

# ------------------------------------------------------------------------------------------------------------ planning


def plan_utterances(planning: Planning) -> list[PlannedPartition]:
    """Return the one partition of the utterances index."""
    return [PlannedPartition(index_partition(planning.recipe, planning.output))]


def index_partition(recipe: Recipe, output: Output) -> Partition:
    """Return the one partition of the utterances index.

    A recording that was written after its index is read again: where it really differs its row changes, and where it
    was only copied the row stays the same.
    """
    first = _utterances_partition(recipe, output)
    dataset = output.dataset("utterances")
    receipt = dataset.committed(first)
    if receipt is None or not manifests_of(recipe, output):
        return first
    newer = _recorded_again(recipe, output, dataset, receipt)
    if not newer:
        return first
    depends = {**first.depends, "recorded_again": digest(sorted(newer))[:32]}
    return Partition(partition_id=first.partition_id, row_ids=(), depends=depends)


def _utterances_partition(recipe: Recipe, output: Output) -> Partition:
    versions = {"manifest": index.VERSION, "schema": SCHEMA_VERSION, "normalizer": normalizers.NORMALIZER}
    manifests = manifests_of(recipe, output)
    contents = {"manifests": manifests_digest(manifests), **people_of(recipe, manifests), **reading_key(recipe)}
    return Partition(
        partition_id="utterances-00000",
        row_ids=(),
        depends={"operators": versions, **key_settings(recipe.corpus, contents)},
    )


def _recorded_again(recipe: Recipe, output: Output, dataset: Dataset, receipt: Receipt) -> list[list[Any]]:
    """Return corpus, path, size and time of every recording that was written after the index was."""
    indexed = storage.modified_at(dataset.receipt_url(receipt))
    sources = dataset.open(receipt).read_all().select(["corpus", "audio"]).group_by(["corpus", "audio"]).aggregate([])
    roots = corpus_roots(manifests_of(recipe, output))
    newer = []
    for corpus, audio in zip(sources["corpus"].to_pylist(), sources["audio"].to_pylist(), strict=True):
        with contextlib.suppress(OSError, KeyError):  # a missing file is reported when it is to be read
            status = os.stat(roots[corpus] / audio)
            if status.st_mtime > indexed:
                newer.append([corpus, audio, status.st_size, status.st_mtime_ns])
    return newer


def plan_recordings(planning: Planning) -> list[PlannedPartition]:
    """Return the one partition of the index of recorded conversations."""
    return [PlannedPartition(recordings_partition(planning.recipe))]


def recordings_partition(recipe: Recipe) -> Partition:
    """Return the one partition of the index of recorded conversations."""
    return Partition(
        partition_id="recordings-00000",
        row_ids=(),
        depends={
            "operators": {
                "recorded": recorded.VERSION,
                "sets": layouts.VERSION,
                "schema": SCHEMA_VERSION,
                "normalizer": normalizers.NORMALIZER,
            },
            "manifests": recorded.files_digest(recorded_of(recipe), LAYOUTS[recipe.corpus.layout].files),
            "layout": recipe.corpus.layout,
            "audio_roots": [folder.path.name for folder in audio_roots_of(recipe)],
            "sample_rate_hz": recipe.converse.sample_rate_hz,
            "language": recipe.corpus.language,
            "licence": recipe.corpus.licence,
            "test_share": recipe.casting.test_speakers,
            "seed": recipe.seed,
            **reading_key(recipe),
            **({"validation_share": share} if (share := _validation_share(recipe)) else {}),
        },
    )


def _validation_share(recipe: Recipe) -> float:
    """Return the share of recordings without a split that are drawn for the validation split: none by default."""
    return recipe.casting.validation_speakers if recipe.casting.validation_conversations else 0.0


# ------------------------------------------------------------------------------------------------------------- running


def make_utterances(context: RunContext, plan: StagePlan) -> None:
    """Index the utterances of single speakers; a corpus that the recipe makes itself is made first."""
    recipe, partition = context.recipe, plan.partitions[0]
    told: dict[str, float] = {}

    def read() -> tuple[pa.Table, list[Quarantined]]:
        corpus = recipe.corpus
        manifests = manifests_of(recipe, context.output)
        repairs: Counter[str] = Counter()
        utterances, bad = index_utterances(
            manifests, corpus.where, corpus.max_duration_s, corpus.language, corpus.licence, repairs=repairs
        )
        told.update({name: number for name, number in repairs.items() if number})
        utterances, ids = tell_apart(utterances, manifests, corpus.shared_speakers)
        told.update(ids_apart=len(ids.apart), ids_together=len(ids.together))
        utterances, lone = _without_lone_speakers(utterances, corpus.min_utterances_per_speaker)
        return utterances, [*bad, *lone]

    def count(utterances: pa.Table) -> dict[str, float]:
        rates, lengths = utterances["source_rate_hz"].to_pylist(), utterances["source_num_samples"].to_pylist()
        seconds = sum(n / r for n, r in zip(lengths, rates, strict=True))
        return {"audio_s": seconds, "speakers": len(set(utterances["speaker"].to_pylist())), **told}

    receipt = _index(context, plan, partition, UTTERANCES, read, count)
    made = context.snapshots["utterances"]
    fresh = partition.key in plan.fresh
    report_stage("index", fresh, f"{describe(made)}, {receipt.counts['speakers']:.0f} speakers")
    for name, about in REPAIRS.items():
        if number := receipt.counts.get(name):
            console.notice(f"{number:.0f} {about}")
    if number := receipt.counts.get("ids_apart"):
        console.notice(
            f"{number:.0f} speaker ids are in several corpora, and taken for another person in each (ID@CORPUS); if "
            "they are the same people: --corpus.shared-speakers always"
        )
    if number := receipt.counts.get("ids_together"):
        console.notice(
            f"{number:.0f} speaker ids are in several folders, and taken for one person each; if they are not: "
            "--corpus.shared-speakers never"
        )


def make_recordings(context: RunContext, plan: StagePlan) -> None:
    """Index recorded conversations."""
    recipe, partition = context.recipe, plan.partitions[0]

    def read() -> tuple[pa.Table, list[Quarantined]]:
        manifests, corpus, others = recorded_of(recipe), recipe.corpus, audio_roots_of(recipe)
        named = corpus_roots([*manifests_of(recipe, context.output), *manifests, *others])
        roots = {path: name for name, path in named.items()}
        layout, folders = LAYOUTS[corpus.layout], [folder.path for folder in others]
        return index_recorded(
            manifests,
            roots,
            recipe.converse.sample_rate_hz,
            seed=recipe.seed,
            test_share=recipe.casting.test_speakers,
            validation_share=_validation_share(recipe),
            language=corpus.language,
            licence=corpus.licence,
            read=lambda manifest: layout.read(manifest, folders),
        )

    def count(conversations: pa.Table) -> dict[str, float]:
        return {"audio_s": sum(conversations["num_samples"].to_pylist()) / recipe.converse.sample_rate_hz}

    _index(context, plan, partition, CONVERSATIONS, read, count)
    report_stage("recordings", partition.key in plan.fresh, describe(context.snapshots["recordings"]))


def _index(
    context: RunContext,
    plan: StagePlan,
    partition: Partition,
    schema: pa.Schema,
    read: Callable[[], tuple[pa.Table, list[Quarantined]]],
    count: Callable[[pa.Table], Mapping[str, float]],
) -> Receipt:
    """Commit the one partition of an index and take its snapshot, unless it is fresh and recorded."""
    dataset = context.output.dataset(plan.dataset)
    inputs = _manifest_digests(partition.depends["manifests"])
    receipt = dataset.committed(partition)
    if receipt is None:
        context.expect_work()
        rows, bad = read()
        corpus = context.recipe.corpus
        refuse_above(bad, rows.num_rows + len(bad), corpus.max_bad_share, context)
        if not rows.num_rows and inputs:
            raise InputError(f"no row of {plan.dataset} is left" + (f" where {corpus.where}" if corpus.where else ""))

        def fill(writer: RowWriter) -> None:
            writer.write(rows)
            writer.quarantined += bad
            writer.count(**count(rows))

    if receipt is None or plan.name in context.unrecorded:
        with context.stage(plan.name) as run:
            if receipt is None:
                receipt = dataset.commit(partition, schema, {"hubbub.normalizer": NORMALIZER}, fill)
            snapshot = take_snapshot(context, dataset, [receipt], inputs)
            run.reads_manifests(snapshot.inputs)
            run.wrote(snapshot)
    else:
        take_snapshot(context, dataset, [receipt], inputs)
    context.quarantined += receipt.quarantined
    return receipt


def make_corpus(context: RunContext) -> None:
    """Make the corpus of a recipe that makes its own: spoken stories, or joined utterances."""
    recipe, folder = context.recipe, made_corpus(context.recipe, context.output)
    if folder is None or folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    context.expect_work()
    if recipe.corpus.stories is not None:
        console.line("corpus", f"espeak-ng speaks stories into {folder}")
        recipe.corpus.stories.speak(folder, num_processes=os.cpu_count() or 1)
    elif recipe.corpus.join is not None:
        number = recipe.corpus.join.write(
            given_manifests(recipe), folder, recipe.seed, os.cpu_count() or 1, recipe.corpus.shared_speakers
        )
        console.line("corpus", f"{console.count(number)} joined recordings written to {folder}")


def _manifest_digests(listed: list[str]) -> dict[str, str]:
    return {f"manifest {name}": digest for _, name, digest in (text.split(":", 2) for text in listed)}


def _without_lone_speakers(utterances: pa.Table, least: int) -> tuple[pa.Table, list[Quarantined]]:
    counted = {row["values"]: row["counts"] for row in pc.value_counts(utterances["speaker"]).to_pylist()}
    lone = {speaker for speaker, number in counted.items() if number < least}
    if not lone:
        return utterances, []
    keep = pc.invert(pc.is_in(utterances["speaker"], value_set=pa.array(sorted(lone))))
    bad = [
        Quarantined(
            row_id=row["utterance_id"],
            reason=f"speaker {row['speaker']} has {counted[row['speaker']]} utterance(s), fewer than {least} "
            "(--corpus.min-utterances-per-speaker)",
        )
        for row in utterances.filter(pc.invert(keep)).select(["utterance_id", "speaker"]).to_pylist()
    ]
    return utterances.filter(keep), bad


UTTERANCES_STAGE = Stage(
    name="index",
    dataset="utterances",
    upstream=(),
    about="one speaker's recording, or a slice of it",
    partitions=plan_utterances,
    index=make_utterances,
)
RECORDINGS_STAGE = Stage(
    name="index",
    dataset="recordings",
    upstream=(),
    about="a recorded conversation with its turns",
    partitions=plan_recordings,
    index=make_recordings,
    is_used=lambda recipe: bool(recipe.corpus.recorded),
)
