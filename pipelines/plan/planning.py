"""What stages read to decide which partitions they must hold: the index, splits, casts, and partitions upstream."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from operators.corpus import cast
from operators.corpus.cast import Cast
from operators.corpus.splits import Splits, split_rows
from operators.digest import digest
from operators.errors import InputError
from operators.store.dataset import Partition
from pipelines.plan.job import PartitionRef, PlannedPartition
from pipelines.plan.output import Output
from pipelines.recipes.recipe import Recipe


@dataclass
class Planning:
    """What stages read to decide which partitions they must hold."""

    recipe: Recipe
    output: Output
    checkpoint: Path | None = None
    """Checkpoint to evaluate instead of the recipe's own."""
    planned: dict[str, Sequence[PlannedPartition]] = field(default_factory=dict)
    """Partitions of the data sets planned so far, by data set."""

    def of(self, dataset: str) -> list[Partition]:
        """Return the partitions of a data set upstream."""
        return [one.partition for one in self.planned[dataset]]

    def ref(self, dataset: str) -> PartitionRef:
        """Return the one partition of an index."""
        (partition,) = self.of(dataset)
        return PartitionRef(partition.partition_id, partition.key)

    @cached_property
    def utterances(self) -> pa.Table:
        """The indexed utterances.

        Raises:
            InputError: they are not indexed yet.
        """
        dataset = self.output.dataset("utterances")
        receipt = dataset.committed(self.of("utterances")[0])
        if receipt is None:
            raise InputError("the corpus is not indexed yet")
        self.index_digest = receipt.content_digest
        return dataset.open(receipt).read_all()

    @cached_property
    def splits(self) -> Splits:
        """Rows of the utterances by split."""
        return split_rows(self.utterances, self.recipe.casting, self.recipe.seed)

    @cached_property
    def casts(self) -> list[Cast]:
        """Who takes part in every conversation; read from the last plan where nothing that counts has changed.

        Planning a million casts takes minutes, reading them a second.
        """
        utterances, recipe = self.utterances, self.recipe
        values = {"casting": recipe.casting, "seed": recipe.seed, "index": self.index_digest, "version": cast.VERSION}
        values["with_enrolments"] = recipe.needs_enrolments
        path = self.output.folder / "plans" / f"casts-{digest(values)[:16]}.arrow"
        if path.exists():
            with pa.memory_map(str(path)) as source:
                columns = pa.ipc.open_file(source).read_all().to_pydict()
            return [Cast(i, s, *map(tuple, lists)) for i, s, *lists in zip(*columns.values(), strict=True)]
        casts = cast.plan_casts(
            utterances, self.splits, recipe.casting, recipe.seed, with_enrolments=recipe.needs_enrolments
        )
        if len(casts) >= 2000:
            _keep_casts(casts, path)
        return casts


def _keep_casts(casts: Sequence[Cast], path: Path) -> None:
    names = ("conversation_id", "split", "speakers", "rows", "enrolments")
    kinds = (pa.string(), pa.string(), pa.list_(pa.string()), pa.list_(pa.int64()), pa.list_(pa.int64()))
    columns = {name: pa.array([getattr(c, name) for c in casts], kind) for name, kind in zip(names, kinds, strict=True)}
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with pa.ipc.new_file(str(staged), table.schema) as writer:
        writer.write_table(table)
    os.replace(staged, path)
