"""pack: codes -> documents -> `packs`, the sequences that training reads, with codes or references to features."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.config.settings import key_settings
from operators.digest import canonical_json
from operators.documents.addresses import Stretch, addressed, index_of, referring
from operators.documents.compose import Compose, codec_of
from operators.documents.hotwords import WordCounts
from operators.errors import UnusableRowError
from operators.packing.pack import buckets_of
from operators.schema import CODES, DOCUMENTS, PACKS, SCHEMA_VERSION, check_chain, table
from operators.store.dataset import Partition, Quarantined, Receipt, RowWriter, Snapshot
from operators.store.shards import COMPONENT, GROUPED
from pipelines.plan.context import RunContext
from pipelines.plan.job import Job, PartitionRef, PlannedPartition
from pipelines.plan.planning import Planning
from pipelines.plan.stage import Remarks, Stage
from pipelines.recipes.recipe import Recipe
from pipelines.stages.simulate import chunks
from pipelines.stages.upstream import receipt_of, seeded_compose

PACKS_PER_RECORD_BATCH = 1024


def check(recipe: Recipe) -> None:
    """Check that each operator is given the columns it reads.

    Raises:
        TypeError: names the operator and the column.
    """
    check_chain(CODES, recipe.compose, recipe.pack)


@dataclass(frozen=True)
class PackGroup:
    """Payload of a shard: one task over a group of partitions of codes."""

    task: str
    component: str
    """Name by which a mixture weighs these packs: the task, with the origin of its conversations."""
    codes: tuple[PartitionRef, ...]
    features: tuple[PartitionRef, ...] = ()
    """Of the same conversations, where packs refer to features instead of holding codes."""


def plan_packs(planning: Planning) -> list[PlannedPartition]:
    """Return a shard for each task and group of partitions of the train split, then of the validation split.

    Simulated and recorded conversations, and tasks, are packed apart, so that the loader mixes them as it likes.
    """
    recipe, pack = planning.recipe, key_settings(planning.recipe.pack)
    features = {p.partition_id: p for p in planning.of("features")} if recipe.features.are_stored else {}
    return [
        _shard(recipe, split, f"{prefix}{task}", task, number, group, features, pack)
        for split in ("train", "validation")
        for prefix, listed in _by_origin(planning.of("codes"), split)
        for number, group in enumerate(chunks(listed, recipe.partitions.partitions_per_pack_group))
        for task in recipe.compose.tasks
    ]


def _by_origin(codes: Sequence[Partition], split: str) -> list[tuple[str, list[Partition]]]:
    """Return a split's partitions of simulated and of recorded conversations, by prefix of their components' names."""
    of_split = [partition for partition in codes if partition.partition_id.startswith(f"{split}-")]
    recorded = [p for p in of_split if p.partition_id.startswith(f"{split}-recorded-")]
    simulated = [p for p in of_split if not p.partition_id.startswith(f"{split}-recorded-")]
    return [("", simulated), ("recorded-", recorded)]


def _shard(
    recipe: Recipe,
    split: str,
    component: str,
    task: str,
    number: int,
    group: Sequence[Partition],
    features: Mapping[str, Partition],
    pack: dict[str, Any],
) -> PlannedPartition:
    compose = seeded_compose(recipe)
    heard = [features[p.partition_id] for p in group] if features else []
    partition = Partition(
        partition_id=f"{split}-{component}-{number:05d}",
        row_ids=tuple(p.partition_id for p in group),
        depends={
            "operators": {"compose": compose.version, "pack": recipe.pack.version, "schema": SCHEMA_VERSION},
            "compose": key_settings(compose, {"tasks": [task], "tokenizer": compose.loaded_tokenizer.digest}),
            "pack": pack,
            "codes": {p.partition_id: p.key for p in group},
            **({"features": {p.partition_id: p.key for p in heard}} if heard else {}),
        },
    )
    refs = [tuple(PartitionRef(p.partition_id, p.key) for p in listed) for listed in (group, heard)]
    return PlannedPartition(partition, PackGroup(task, component, *refs))


def make_packs(job: Job) -> Receipt:
    """Make one shard: the packs of one task over a group of partitions of codes."""
    recipe, source = job.recipe, job.output.dataset("codes")
    task, component = job.payload.task, job.payload.component
    compose = replace(seeded_compose(recipe), tasks=(task,))
    index = _index(job)

    def fill(writer: RowWriter) -> None:
        def codes() -> Iterator[pa.Table]:
            for upstream in job.payload.codes:
                batches = source.batches(receipt_of(source, upstream))
                yield from batches if index is None else map(addressed, batches)

        def documents() -> Iterator[pa.Table]:
            words = _words(compose, codes())
            for batch in codes():
                composed = _documents(compose, batch, writer, words)
                counted = {**compose.count_cuts(batch), **compose.count_voices(batch)}
                writer.count(documents=composed.num_rows, **counted)
                fits = recipe.pack.fits(composed)
                for row in composed.filter(pc.invert(fits)).select(["document_id", "num_columns"]).to_pylist():
                    reason = f"{row['num_columns']} columns, more than a pack's {recipe.pack.capacity}"
                    writer.quarantined.append(Quarantined(row_id=row["document_id"], reason=reason))
                kept = composed.filter(fits)
                yield kept if index is None else referring(kept, index)

        for packs in _rebatched(recipe.pack.stream(documents()), PACKS_PER_RECORD_BATCH):  # no document is cut
            writer.write(packs)
            writer.count(
                columns=pc.sum(packs["num_columns"]).as_py(),
                squares=pc.sum(packs["sum_squares"]).as_py(),
                room=packs.num_rows * recipe.pack.capacity,
                text_tokens=pc.sum(pc.list_value_length(packs["text_tokens"])).as_py(),
            )
            if recipe.pack.by_length:
                for size, number in zip(
                    *np.unique(buckets_of(packs, recipe.pack.capacity), return_counts=True), strict=True
                ):
                    writer.count(**{f"{COMPONENT}{component}-{size:06d}": int(number)})
            else:
                writer.count(**{f"{COMPONENT}{component}": packs.num_rows})
        if recipe.pack.grouped:
            writer.count(**{GROUPED: 1})

    tokenizer = recipe.compose.loaded_tokenizer
    metadata = {
        "hubbub.codec": canonical_json(recipe.encode.spec),
        "hubbub.layout": canonical_json({"name": recipe.compose.layout, "group": recipe.compose.group}),
        "hubbub.tokenizer": canonical_json({"name": tokenizer.name, "digest": tokenizer.digest}),
        "hubbub.task": task,
        "hubbub.capacity": str(recipe.pack.capacity),
        # Of everything in the recipe and upstream that these packs depend on, and of nothing else.
        "hubbub.key": job.partition.key,
    }
    if index is not None:
        metadata["hubbub.features"] = canonical_json(job.payload.features)
    return job.output.dataset("packs").commit(job.partition, PACKS, metadata, fill)


def _index(job: Job) -> dict[tuple[str, Stretch], tuple[int, int]] | None:
    """Return where the features of each stretch are; None where packs hold codes."""
    if not job.payload.features:
        return None
    source = job.output.dataset("features")
    readers = [source.open(receipt_of(source, one)) for one in job.payload.features]
    return index_of(reader.read_all().drop_columns(["values", "scales"]) for reader in readers)


def _words(compose: Compose, batches: Iterable[pa.Table]) -> WordCounts | None:
    """Return the words of a shard's conversations, where the one task uses words of other conversations.

    Which conversations those are is in the shard's key: batches, their order and other shards make no difference.
    """
    (task,) = compose.tasks
    return compose.words_of(task, (turns for batch in batches for turns in batch["turns"].to_pylist()))


def _documents(compose: Compose, batch: pa.Table, writer: RowWriter, words: WordCounts | None) -> pa.Table:
    """Return the documents of conversations; those, and windows, that cannot be used go to quarantine."""
    codec = codec_of(batch.schema)
    made: list[dict[str, Any]] = []
    unusable: list[tuple[str, str]] = []
    for row in batch.to_pylist():
        try:
            made += compose.documents(row, codec, unusable, words)
        except UnusableRowError as error:
            writer.quarantined.append(Quarantined(row_id=row["conversation_id"], reason=str(error)))
    writer.quarantined += [Quarantined(row_id=document_id, reason=reason) for document_id, reason in unusable]
    silent = sum("/silence-" in document["document_id"] for document in made)
    writer.count(unusable_windows=len(unusable), silent_windows=silent)
    return table(made, DOCUMENTS)


def _rebatched(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    held = PACKS.empty_table()
    for some in tables:
        held = pa.concat_tables([held, some])
        while held.num_rows >= size:
            yield held.slice(0, size).combine_chunks()
            held = held.slice(size)
    if held.num_rows:
        yield held.combine_chunks()


def remarks_on_packs(_: RunContext, snapshot: Snapshot) -> Remarks:
    """Say how often conversations were cut through speech, and which windows and voice samples could not be had."""
    notices: list[str] = []
    figures: dict[str, float] = {}

    def counted(*names: str) -> dict[str, int]:
        return {name: int(sum(r.counts.get(name, 0) for r in snapshot.receipts)) for name in names}

    cuts = counted("windows", "cuts_in_speech", "split_words", "split_turns", "unusable_windows", "silent_windows")
    if any(cuts[name] for name in cuts if name != "windows"):
        figures.update(cuts)
    if cuts["cuts_in_speech"]:
        share = cuts["cuts_in_speech"] / cuts["windows"]
        notices.append(
            f"{cuts['cuts_in_speech']:,} of {cuts['windows']:,} windows ({share:.1%}) end within speech without a "
            f"pause for compose.window_s: {cuts['split_words']:,} words and {cuts['split_turns']:,} turns were split"
        )
    if cuts["unusable_windows"]:
        notices.append(
            f"{cuts['unusable_windows']:,} of {cuts['windows']:,} windows could not be used, but others of their "
            "conversations could; quarantine.jsonl says why"
        )
    voices = counted("voices", "voices_inside", "voices_missing")
    if voices["voices_inside"] or voices["voices_missing"]:
        figures.update(voices)
        notices.append(
            f"of {voices['voices']:,} voice samples {voices['voices_inside']:,} are of the same conversation, outside "
            f"the window, for want of another recording of the speaker, and {voices['voices_missing']:,} are missing: "
            "these make no instruction by voice, no extraction, and are left out of scripts"
        )
    return Remarks(notices=notices, figures=figures)


PACKS_STAGE = Stage(
    name="pack",
    dataset="packs",
    upstream=("codes", "features"),
    about="one training sequence: ragged streams, `cu_seqlens`, loss spans",
    partitions=plan_packs,
    make=make_packs,
    check=check,
    remarks=remarks_on_packs,
    for_training=True,
)
