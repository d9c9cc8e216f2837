"""What every stage's `make` uses: partitions upstream, and operators that send unusable rows to quarantine."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from operators.documents.compose import Compose
from operators.errors import InputError, UnusableRowError
from operators.schema import Operator
from operators.store.dataset import Dataset, Quarantined, Receipt, RowWriter
from pipelines.plan.job import PartitionRef
from pipelines.recipes.recipe import Recipe

MAX_CHUNK_S = 600.0
"""Audio that is in memory at a time: 10 minutes at 16 kHz are 19 MB of int16, and as much again while it is made."""


def receipt_of(dataset: Dataset, ref: PartitionRef) -> Receipt:
    """Return the receipt of a committed partition.

    Raises:
        InputError: it was removed in the meantime.
    """
    receipt = dataset.committed_by_key(ref.partition_id, ref.key)
    if receipt is None:
        raise InputError(f"partition {ref.partition_id} of {dataset.url()} is missing; run again to rebuild it")
    return receipt


def apply_or_quarantine(
    operator: Operator, rows: pa.Table, writer: RowWriter, id_column: str = "conversation_id"
) -> pa.Table:
    """Apply an operator; rows that it cannot use go to quarantine with the reason, and the others are returned."""
    try:
        return operator(rows)
    except UnusableRowError as error:
        if rows.num_rows == 1:
            writer.quarantined.append(Quarantined(row_id=rows[id_column][0].as_py(), reason=str(error)))
            return operator.writes.empty_table()
    made = [apply_or_quarantine(operator, rows.slice(i, 1), writer, id_column) for i in range(rows.num_rows)]
    return pa.concat_tables([part for part in made if part.num_rows] or made[:1])


def seconds_of(conversations: pa.Table) -> list[float]:
    """Return the length of each conversation in seconds."""
    rates = conversations["sample_rate_hz"].to_pylist()
    return [n / r for n, r in zip(conversations["num_samples"].to_pylist(), rates, strict=True)]


def in_chunks(dataset: Dataset, ref: PartitionRef) -> Iterator[pa.Table]:
    """Yield the conversations of a partition in chunks of at most MAX_CHUNK_S, or of one longer conversation."""
    for batch in dataset.batches(receipt_of(dataset, ref)):
        seconds, start = 0.0, 0
        for i, length in enumerate(seconds_of(batch)):
            if seconds and seconds + length > MAX_CHUNK_S:
                yield batch.slice(start, i - start)
                seconds, start = 0.0, i
            seconds += length
        yield batch.slice(start)


def seeded_compose(recipe: Recipe) -> Compose:
    """Return the recipe's `compose`, with the recipe's seed where it has none of its own."""
    compose = recipe.compose
    return replace(compose, seed=recipe.seed if compose.seed is None else compose.seed)
