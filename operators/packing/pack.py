"""Documents to packs: gathered after a plan, no document cut, each one's columns inside its own borders."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.config.settings import NO_RESULT
from models.training.order import WINDOW_PACKS
from operators.errors import InputError
from operators.packing import plan as packing
from operators.packing.plan import Plan
from operators.schema import DOCUMENTS, LOSS_SPAN, PACKED_DOCUMENT, PACKS, SEGMENT, TALKER_SPAN


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Packs documents, a window of them at a time; what a window cannot pack well is packed with the next."""

    capacity: int = 1024
    """Columns in a pack."""
    multiple_of: int = field(default=1, metadata=NO_RESULT)
    """What the capacity must be a multiple of, where kernels ask for it."""
    packer: Literal["best_fit", "balanced", "buckets", "single"] = "best_fit"
    """Best fit; best fit with attention cost evened out; documents of like length together; one document a pack."""
    related: Literal["anyhow", "together", "apart"] = "anyhow"
    """Whether best fit puts related documents into one pack, or keeps them out of each other's."""
    related_by: Literal["conversation", "speakers"] = "conversation"
    """What makes documents related: pieces of one conversation, or conversations of the same speakers."""
    window_documents: int = 12_000
    """Documents in memory at once; balanced packs take 2,048 packs' worth, and buckets all there are."""

    reads: ClassVar[pa.Schema] = DOCUMENTS
    writes: ClassVar[pa.Schema] = PACKS
    version: ClassVar[str] = "3"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.capacity < 8:
            raise InputError("pack.capacity must be at least 8 columns")
        if self.multiple_of < 1 or self.capacity % self.multiple_of:
            raise InputError(
                f"pack.capacity {self.capacity} is no multiple of pack.multiple_of {self.multiple_of}; "
                f"the next is {-(-self.capacity // max(1, self.multiple_of)) * max(1, self.multiple_of)}"
            )
        if self.window_documents < 1:
            raise InputError("pack.window_documents is counted from 1")
        if self.related != "anyhow" and self.packer != "best_fit":
            raise InputError(f"pack.related {self.related} goes with pack.packer best_fit, not {self.packer}")

    @property
    def grouped(self) -> bool:
        """Whether the costliest packs of each window of a shard stand first, for the loader to take in groups."""
        return self.packer == "balanced"

    def fits(self, documents: pa.Table) -> pa.ChunkedArray:
        """Return, per document, whether it fits into a pack."""
        return pc.less_equal(documents["num_columns"], self.capacity)

    def plan(self, documents: pa.Table) -> Plan:
        """Return which documents share a pack."""
        lengths = documents["num_columns"].to_numpy()
        if self.related != "anyhow":
            column = {"conversation": "conversation_id", "speakers": "speakers"}[self.related_by]
            arrange = {"together": packing.together, "apart": packing.apart}[self.related]
            return arrange(lengths, self.capacity, [str(value) for value in documents[column].to_pylist()])
        planner = {
            "best_fit": packing.best_fit,
            "balanced": packing.balanced,
            "buckets": packing.buckets,
            "single": packing.single,
        }[self.packer]
        return planner(lengths, self.capacity)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the packs; where the documents fit into one window, their order makes no difference.

        Raises:
            ValueError: a document is longer than a pack.
        """
        return pa.concat_tables([PACKS.empty_table(), *self.stream([batch])])

    def stream(self, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield packs of documents as they come, with at most a window of documents in memory.

        Raises:
            ValueError: a document is longer than a pack.
        """
        held = DOCUMENTS.empty_table()
        for batch in batches:
            held = pa.concat_tables([held, batch.select(DOCUMENTS.names).cast(DOCUMENTS)])
            while (size := self._window(held)) is not None:
                packs, left = self._pack_window(held.slice(0, size))
                yield packs
                held = pa.concat_tables([left, held.slice(size)])
        if held.num_rows:
            documents = held.sort_by("document_id").combine_chunks()
            yield gather(documents, self.plan(documents))

    def _window(self, held: pa.Table) -> int | None:
        """Return how many of the documents at hand make a whole window, if they do."""
        if self.packer == "balanced":
            # A little more than is emitted: the last packs of a window wait for better company.
            ends = np.cumsum(held["num_columns"].to_numpy(), dtype=np.int64)
            size = int(np.searchsorted(ends, int((WINDOW_PACKS + WINDOW_PACKS // 64) * self.capacity))) + 1
            return size if size <= held.num_rows else None
        if self.packer == "buckets":
            return None  # a bucket's packs lie side by side in the shard
        return self.window_documents if held.num_rows >= self.window_documents else None

    def _pack_window(self, documents: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the packs that may go, and the documents that stay."""
        documents = documents.sort_by("document_id").combine_chunks()
        plan = self.plan(documents)
        if self.packer == "balanced":
            go = np.zeros(len(plan), dtype=bool)
            fullest = np.argsort(-plan.sums(documents["num_columns"].to_numpy()), kind="stable")
            go[fullest[:WINDOW_PACKS]] = True
        else:
            go = packing.finished(plan, documents["num_columns"].to_numpy(), self.capacity)
        stay = np.sort(plan.take(np.flatnonzero(~go)).rows)
        return gather(documents, plan.take(np.flatnonzero(go))), documents.take(stay)


def buckets_of(packs: pa.Table, capacity: int) -> NDArray[np.int64]:
    """Return the bucket of each pack's longest document."""
    borders = packs["cu_seqlens"].combine_chunks()
    values, offsets = borders.values.to_numpy(), np.asarray(borders.offsets)
    longest = [int(np.diff(values[a:b]).max()) for a, b in itertools.pairwise(offsets.tolist())]
    return packing.bucket_of(longest, capacity)


def gather(documents: pa.Table, plan: Plan) -> pa.Table:
    """Return the packs of a plan: every stream copied once, spans moved to where their document begins.

    Args:
        documents: rows of DOCUMENTS.
        plan: rows of each pack.
    """
    taken = documents.take(plan.rows).combine_chunks()
    lengths = taken["num_columns"].to_numpy().astype(np.int64)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    pack_starts = ends[plan.offsets[:-1]]
    sizes = np.diff(plan.offsets)
    starts = ends[:-1] - np.repeat(pack_starts, sizes)  # of each document, in its pack
    num_columns = np.diff(ends[plan.offsets])

    # One border more than documents in each pack: where its last document ends.
    at = np.arange(len(plan.rows)) + np.repeat(np.arange(len(plan)), sizes)
    borders = np.empty(len(plan.rows) + len(plan), np.int32)
    borders[at] = starts
    borders[plan.offsets[1:] + np.arange(len(plan))] = num_columns

    first = taken["document_id"].take(plan.offsets[:-1])  # a pack's name says where to look
    entries = pa.StructArray.from_arrays([_one(taken, f.name) for f in PACKED_DOCUMENT], fields=list(PACKED_DOCUMENT))
    squares = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths**2)])
    columns = {
        "pack_id": first,
        "num_columns": pa.array(num_columns.astype(np.int32)),
        "sum_squares": pa.array(np.diff(squares[plan.offsets])),
        "cu_seqlens": pa.ListArray.from_arrays(pa.array((plan.offsets + np.arange(len(plan) + 1)).astype(np.int32)),
                                               pa.array(borders)),
        "documents": pa.ListArray.from_arrays(pa.array(plan.offsets), entries),
        "segments": _spans(_one(taken, "segments"), plan, starts, SEGMENT, ("start_column",)),
        "text_tokens": _streams(_one(taken, "text_tokens"), plan),
        "codes": _bytes(_one(taken, "codes"), plan),
        "loss_spans": _spans(_one(taken, "loss_spans"), plan, starts, LOSS_SPAN, ("start_column", "end_column")),
        "talker_spans": _spans(
            _one(taken, "talker_spans"), plan, starts, TALKER_SPAN, ("start_column", "end_column")
        ),
    }  # fmt: skip
    return pa.table([columns[name] for name in PACKS.names], schema=PACKS)


def _one(table: pa.Table, name: str) -> pa.Array:
    chunks = table[name].chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays([pa.array([], table.schema.field(name).type), *chunks])


def _borders(array: pa.Array) -> NDArray[np.int64]:
    """Return where each list begins and ends among the flattened values; right for slices too."""
    offsets = np.asarray(array.offsets)
    return np.asarray(offsets - offsets[0], dtype=np.int64)


def _spans(
    lists: pa.Array, plan: Plan, starts: NDArray[np.int64], kind: pa.StructType, moved: tuple[str, ...]
) -> pa.Array:
    """Join lists of spans, each moved to its document's first column."""
    borders, values = _borders(lists), lists.flatten()
    shift = np.repeat(starts, np.diff(borders)).astype(np.int32)
    fields = [
        pa.array(values.field(field.name).to_numpy(zero_copy_only=False) + shift)
        if field.name in moved
        else values.field(field.name)
        for field in kind
    ]
    joined = pa.StructArray.from_arrays(fields, fields=list(kind))
    return pa.ListArray.from_arrays(pa.array(borders[plan.offsets].astype(np.int32)), joined)


def _streams(lists: pa.Array, plan: Plan) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(_borders(lists)[plan.offsets]), lists.flatten())


def _bytes(values: pa.Array, plan: Plan) -> pa.Array:
    """Join byte strings: the bytes stay where `take` laid them, only the borders change."""
    _, offsets, data = values.buffers()
    borders = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    return pa.Array.from_buffers(pa.large_binary(), len(plan), [None, pa.py_buffer(borders[plan.offsets].copy()), data])
