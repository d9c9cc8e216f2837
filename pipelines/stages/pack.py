"""pack: codes -> documents -> packs, the sequences that training reads."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.digest import canonical_json
from operators.packing.pack import buckets_of
from operators.schema import CODES, DOCUMENTS, PACKS, check_chain
from operators.store.dataset import Quarantined, Receipt, RowWriter
from operators.store.shards import COMPONENT, GROUPED
from pipelines.recipes.recipe import Recipe
from pipelines.run.partitions import Job, usable
from pipelines.stages.simulate import receipt_of

PACKS_PER_RECORD_BATCH = 1024


def check(recipe: Recipe) -> None:
    """Check that each operator is given what it reads."""
    check_chain(CODES, recipe.compose, recipe.pack)


def make_packs(job: Job) -> Receipt:
    """Make one shard: the packs of one task over a group of partitions of codes."""
    recipe, source = job.recipe, job.output.dataset("codes")
    task, component = job.payload["task"], job.payload["component"]
    compose = replace(recipe.compose, tasks=(task,))

    def fill(writer: RowWriter) -> None:
        def documents() -> Iterator[pa.Table]:
            for upstream in job.payload["codes"]:
                receipt = receipt_of(source, upstream["partition_id"], upstream["key"])
                for batch in source.batches(receipt):
                    composed = usable(compose, batch, writer).cast(DOCUMENTS)  # prompt and target on the token grid
                    writer.count(documents=composed.num_rows)
                    fits = recipe.pack.fits(composed)
                    for row in composed.filter(pc.invert(fits)).select(["document_id", "num_columns"]).to_pylist():
                        reason = f"{row['num_columns']} columns, more than a pack's {recipe.pack.capacity}"
                        writer.quarantined.append(Quarantined(row_id=row["document_id"], reason=reason))
                    yield composed.filter(fits)

        for packs in _rebatched(recipe.pack.stream(documents()), PACKS_PER_RECORD_BATCH):  # no document is cut
            writer.write(packs)
            writer.count(
                columns=pc.sum(packs["num_columns"]).as_py(),
                squares=pc.sum(packs["sum_squares"]).as_py(),
                room=packs.num_rows * recipe.pack.capacity,
                text_tokens=pc.sum(pc.list_value_length(packs["text_tokens"])).as_py(),
            )
            if recipe.pack.packer == "buckets":
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
    return job.output.dataset("packs").commit(job.partition, PACKS, metadata, fill)


def _rebatched(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    held = PACKS.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while held.num_rows >= size:
            yield held.slice(0, size).combine_chunks()
            held = held.slice(size)
    if held.num_rows:
        yield held.combine_chunks()
