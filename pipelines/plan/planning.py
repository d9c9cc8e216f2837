"""What stages read to decide which partitions they must hold: the index, splits, casts, and partitions upstream."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from operators.corpus import cast
from operators.corpus.cast import Cast
from operators.corpus.splits import Splits, split_rows
from operators.digest import digest, digest_bytes
from operators.errors import InputError
from operators.store import storage
from operators.store.dataset import Partition
from pipelines.plan.fitting import Speech, fit
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

    def fit(self) -> str:
        """Give the recipe the numbers that it leaves to the corpus; return a line that says them."""
        if not self.recipe.fit:
            return ""
        recordings = self.recordings if "recordings" in self.planned else None
        self.recipe, said = fit(self.recipe, Speech.of(self.utterances, self.splits, recordings)["train"])
        return said

    @cached_property
    def recordings(self) -> pa.Table:
        """The indexed recorded conversations.

        Raises:
            InputError: they are not indexed yet.
        """
        dataset, index = self.output.dataset("recordings"), self.ref("recordings")
        receipt = dataset.committed_by_key(index.partition_id, index.key)
        if receipt is None:
            raise InputError("the recorded conversations are not indexed yet")
        return dataset.open(receipt).read_all()

    @cached_property
    def casts(self) -> list[Cast]:
        """Who takes part in every conversation; read from the last plan where nothing that counts has changed.

        Planning a million casts takes minutes, reading them a second.
        """
        utterances, recipe = self.utterances, self.recipe
        values = {"casting": recipe.casting, "seed": recipe.seed, "index": self.index_digest, "version": cast.VERSION}
        values["with_enrolments"] = recipe.needs_enrolments
        folder, name = self.output.folder / "plans", f"casts-{digest(values)[:16]}"
        for path in folder.glob(f"{name}-*.arrow"):
            data = path.read_bytes()
            if digest_bytes(data)[:16] == path.stem.rpartition("-")[2]:  # else it is damaged, and made again
                columns = pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pydict()
                return [Cast(i, s, *map(tuple, lists)) for i, s, *lists in zip(*columns.values(), strict=True)]
        casts = cast.plan_casts(
            utterances, self.splits, recipe.casting, recipe.seed, with_enrolments=recipe.needs_enrolments
        )
        if len(casts) >= 2000:
            _keep_casts(casts, folder, name)
        return casts


def _keep_casts(casts: Sequence[Cast], folder: Path, name: str) -> None:
    """Write casts to a file whose name holds the digest of its bytes."""
    names = ("conversation_id", "split", "speakers", "rows", "enrolments")
    kinds = (pa.string(), pa.string(), pa.list_(pa.string()), pa.list_(pa.int64()), pa.list_(pa.int64()))
    columns = {name: pa.array([getattr(c, name) for c in casts], kind) for name, kind in zip(names, kinds, strict=True)}
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    storage.replace_bytes(data, str(folder / f"{name}-{digest_bytes(data)[:16]}.arrow"))
