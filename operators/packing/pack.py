"""pack: documents -> packs. Follows a packer's plan; no document is cut, and its columns stay contiguous."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.config.settings import NO_RESULT
from models.config.values import Checked, within
from operators.errors import InputError
from operators.packing.packers import PACKERS, PackerName
from operators.packing.packers.buckets import bucket_of
from operators.packing.plan import Plan
from operators.packing.related import apart, together
from operators.schema import DOCUMENTS, LOSS_SPAN, PACKED_DOCUMENT, PACKS, SEGMENT, TALKER_SPAN


@dataclass(frozen=True, kw_only=True)
class Pack(Checked, section="pack", error=InputError):
    """Packs documents, a window of them at a time; documents that do not pack well are packed with the next window."""

    capacity: int = field(default=2048, metadata=within(8, 2**24, "columns"))
    """Columns in a pack."""
    multiple_of: int = field(default=1, metadata=NO_RESULT | within(1, 2**20, "columns"))
    """What the capacity must be a multiple of, where kernels require it."""
    packer: PackerName = "best_fit"
    """Best fit; best fit at even attention cost; documents of similar length together; one document per pack."""
    related: Literal["anyhow", "together", "apart"] = "anyhow"
    """Whether best fit puts related documents into one pack, or into different ones."""
    related_by: Literal["conversation", "speakers"] = "conversation"
    """Which documents are related: pieces of one conversation, or conversations of the same speakers."""
    window_documents: int = field(default=12_000, metadata=within(1, 10**9))
    """Documents in memory at once; balanced packs take 2,048 packs' worth, and buckets all documents."""

    reads: ClassVar[pa.Schema] = DOCUMENTS
    writes: ClassVar[pa.Schema] = PACKS
    version: ClassVar[str] = "3"

    def rules(self) -> Iterator[str]:
        """Check the options against each other."""
        if self.capacity % self.multiple_of:
            yield (
                f"pack.capacity {self.capacity} is not a multiple of pack.multiple_of {self.multiple_of}; "
                f"the next is {-(-self.capacity // self.multiple_of) * self.multiple_of}"
            )
        if self.related != "anyhow" and not PACKERS[self.packer].supports_related:
            able = ", ".join(name for name, packer in PACKERS.items() if packer.supports_related)
            yield f"pack.related {self.related} goes with pack.packer {able}, not {self.packer}"

    @property
    def grouped(self) -> bool:
        """Whether the costliest packs of each window of a shard come first, for the loader to take in groups."""
        return PACKERS[self.packer].groups_costliest

    @property
    def by_length(self) -> bool:
        """Whether each bucket of document lengths is a component of its own."""
        return PACKERS[self.packer].by_length

    def fits(self, documents: pa.Table) -> pa.ChunkedArray:
        """Return a mask (documents,) of those that fit into a pack."""
        return pc.less_equal(documents["num_columns"], self.capacity)

    def plan(self, documents: pa.Table) -> Plan:
        """Return which documents share a pack."""
        lengths = documents["num_columns"].to_numpy()
        if self.related == "anyhow":
            return PACKERS[self.packer].plan(lengths, self.capacity)
        column = {"conversation": "conversation_id", "speakers": "speakers"}[self.related_by]
        arrange = {"together": together, "apart": apart}[self.related]
        return arrange(lengths, self.capacity, [str(value) for value in documents[column].to_pylist()])

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the packs; where the documents fit into one window, their order makes no difference.

        Args:
            batch: of schema DOCUMENTS.

        Returns:
            Packs of schema PACKS.

        Raises:
            ValueError: a document is empty or longer than a pack.
        """
        return pa.concat_tables([PACKS.empty_table(), *self.stream([batch])])

    def stream(self, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield packs as documents come in, with at most a window of documents and a batch in memory.

        Where batches begin and end makes no difference.

        Raises:
            ValueError: a document is empty or longer than a pack.
        """
        packer = PACKERS[self.packer]
        held = DOCUMENTS.empty_table()
        for batch in batches:
            held = pa.concat_tables([held, batch.select(DOCUMENTS.names).cast(DOCUMENTS)])
            while (size := packer.window(held["num_columns"], self.capacity, self.window_documents)) is not None:
                packs, left = self._pack_window(held.slice(0, size))
                yield packs
                held = pa.concat_tables([left, held.slice(size)])
        if held.num_rows:
            documents = held.sort_by("document_id").combine_chunks()
            yield gather(documents, self.plan(documents))

    def _pack_window(self, documents: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the packs to emit, and the documents to pack with the next window."""
        documents = documents.sort_by("document_id").combine_chunks()
        plan = self.plan(documents)
        emit = PACKERS[self.packer].settled(plan, documents["num_columns"].to_numpy(), self.capacity)
        left = np.sort(plan.take(np.flatnonzero(~emit)).rows)
        return gather(documents, plan.take(np.flatnonzero(emit))), documents.take(left)


def buckets_of(packs: pa.Table, capacity: int) -> NDArray[np.int64]:
    """Return the bucket (packs,) of each pack's longest document, in columns."""
    borders = packs["cu_seqlens"].combine_chunks()
    values, offsets = borders.values.to_numpy(), np.asarray(borders.offsets)
    longest = [int(np.diff(values[a:b]).max()) for a, b in itertools.pairwise(offsets.tolist())]
    return bucket_of(longest, capacity)


def gather(documents: pa.Table, plan: Plan) -> pa.Table:
    """Return the packs of a plan; every stream is copied once, and spans are shifted to where their document begins.

    Args:
        documents: of schema DOCUMENTS.
        plan: rows of each pack.

    Returns:
        Packs of schema PACKS, in the plan's order.
    """
    taken = documents.take(plan.rows).combine_chunks()
    lengths = taken["num_columns"].to_numpy().astype(np.int64)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    pack_starts = ends[plan.offsets[:-1]]
    sizes = np.diff(plan.offsets)
    starts = ends[:-1] - np.repeat(pack_starts, sizes)  # of each document, in its pack
    num_columns = np.diff(ends[plan.offsets])

    # Each pack has one border more than documents: where its last document ends.
    at = np.arange(len(plan.rows)) + np.repeat(np.arange(len(plan)), sizes)
    borders = np.empty(len(plan.rows) + len(plan), np.int32)
    borders[at] = starts
    borders[plan.offsets[1:] + np.arange(len(plan))] = num_columns

    first = taken["document_id"].take(plan.offsets[:-1])  # a pack is named after its first document
    entries = pa.StructArray.from_arrays(
        [_column(taken, f.name) for f in PACKED_DOCUMENT], fields=list(PACKED_DOCUMENT)
    )
    squares = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths**2)])
    columns = {
        "pack_id": first,
        "num_columns": pa.array(num_columns.astype(np.int32)),
        "sum_squares": pa.array(np.diff(squares[plan.offsets])),
        "cu_seqlens": pa.ListArray.from_arrays(
            pa.array((plan.offsets + np.arange(len(plan) + 1)).astype(np.int32)), pa.array(borders)
        ),
        "documents": pa.ListArray.from_arrays(pa.array(plan.offsets), entries),
        "segments": _spans(_column(taken, "segments"), plan, starts, SEGMENT, ("start_column",)),
        "text_tokens": _streams(_column(taken, "text_tokens"), plan),
        "codes": _bytes(_column(taken, "codes"), plan),
        "loss_spans": _spans(_column(taken, "loss_spans"), plan, starts, LOSS_SPAN, ("start_column", "end_column")),
        "talker_spans": _spans(
            _column(taken, "talker_spans"), plan, starts, TALKER_SPAN, ("start_column", "end_column")
        ),
    }
    return pa.table([columns[name] for name in PACKS.names], schema=PACKS)


def _column(table: pa.Table, name: str) -> pa.Array:
    chunks = table[name].chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays([pa.array([], table.schema.field(name).type), *chunks])


def _borders(array: pa.Array) -> NDArray[np.int64]:
    """Return where each list begins and ends (lists + 1,) among the flattened values, of slices too."""
    offsets = np.asarray(array.offsets)
    return np.asarray(offsets - offsets[0], dtype=np.int64)


def _spans(
    lists: pa.Array, plan: Plan, starts: NDArray[np.int64], kind: pa.StructType, shifted: tuple[str, ...]
) -> pa.Array:
    """Concatenate lists of spans, each shifted to its document's first column."""
    borders, values = _borders(lists), lists.flatten()
    shift = np.repeat(starts, np.diff(borders)).astype(np.int32)
    fields = [
        pa.array(values.field(field.name).to_numpy(zero_copy_only=False) + shift)
        if field.name in shifted
        else values.field(field.name)
        for field in kind
    ]
    spans = pa.StructArray.from_arrays(fields, fields=list(kind))
    return pa.ListArray.from_arrays(pa.array(borders[plan.offsets].astype(np.int32)), spans)


def _streams(lists: pa.Array, plan: Plan) -> pa.Array:
    """Concatenate the lists of each pack's documents."""
    return pa.LargeListArray.from_arrays(pa.array(_borders(lists)[plan.offsets]), lists.flatten())


def _bytes(values: pa.Array, plan: Plan) -> pa.Array:
    """Concatenate byte strings: `take` has put the bytes in order, only the borders change."""
    _, offsets, data = values.buffers()
    borders = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    return pa.Array.from_buffers(pa.large_binary(), len(plan), [None, pa.py_buffer(borders[plan.offsets].copy()), data])
