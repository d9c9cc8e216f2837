"""Packs read straight from memory-mapped shards: no copy but the slices that a step uses."""

import json
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.batch import GridSpec, PackedDocuments
from models.codec import CodecSpec
from models.layouts import make_layout
from operators.dataset import Dataset, Snapshot
from operators.errors import InputError


def grid_of(metadata: dict[str, str]) -> GridSpec:
    """Return what the integers of a shard mean, from its own metadata."""
    codec = CodecSpec(**json.loads(metadata["hubbub.codec"]))
    layout = json.loads(metadata["hubbub.layout"])
    return GridSpec(
        layout=make_layout(layout["name"], codec.num_codebooks, codec.codebook_size, layout["group"]),
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        bits=codec.bits,
    )


class _Column:
    """A list or binary column of one record batch: flat values and offsets, sliced right whatever the slice."""

    def __init__(self, array: Any) -> None:
        self.offsets = np.asarray(array.offsets)
        self.values = array.values  # unsliced: the offsets are absolute

    def rows(self, index: int) -> slice:
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


class _BatchView:
    """One record batch's columns as numpy views."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.pack_ids = batch.column("pack_id")
        self.num_columns = batch.column("num_columns").to_numpy()
        self.cu_seqlens = _Column(batch.column("cu_seqlens"))
        self.segments = _Column(batch.column("segments"))
        self.loss_spans = _Column(batch.column("loss_spans"))
        self.text_tokens = _Column(batch.column("text_tokens"))
        self.documents = batch.column("documents")
        self.codes = batch.column("codes")

    @staticmethod
    def _struct(column: _Column, index: int, names: tuple[str, ...]) -> NDArray[np.int32]:
        rows = column.rows(index)
        picked = [column.values.field(name).to_numpy(zero_copy_only=True)[rows] for name in names]
        return np.stack(picked, axis=1).astype(np.int32) if picked[0].size else np.zeros((0, len(names)), np.int32)

    def pack(self, index: int) -> PackedDocuments:
        spans = self.loss_spans
        return PackedDocuments(
            pack_id=self.pack_ids[index].as_py(),
            num_columns=int(self.num_columns[index]),
            cu_seqlens=self.cu_seqlens.values.to_numpy()[self.cu_seqlens.rows(index)],
            segments=self._struct(self.segments, index, ("kind", "start_column", "length")),
            text_tokens=self.text_tokens.values.to_numpy()[self.text_tokens.rows(index)],
            codes=memoryview(self.codes[index].as_buffer()),
            loss_spans=self._struct(spans, index, ("kind", "start_column", "end_column")),
            loss_weights=spans.values.field("weight").to_numpy()[spans.rows(index)],
            document_ids=tuple(d["document_id"].as_py() for d in self.documents[index]),
        )


class PackShards:
    """All packs of a snapshot, by index: a `models.training.PackSource`."""

    def __init__(self, dataset: Dataset, snapshot: Snapshot) -> None:
        """Open the shards.

        Raises:
            InputError: there are no packs, or a shard's size is not what was committed.
        """
        if not snapshot.num_rows:
            raise InputError(f"{dataset.url()} holds no packs")
        self._readers = [dataset.open(receipt) for receipt in snapshot.receipts]
        sizes = [receipt.num_rows for receipt in snapshot.receipts]
        self.shard_sizes = tuple(sizes)
        self._starts = [0, *accumulate(sizes)][:-1]
        self.metadata = dataset.metadata(snapshot.receipts[0])
        self._views: dict[int, tuple[list[int], list[_BatchView]]] = {}

    @cached_property
    def grid(self) -> GridSpec:
        """What the integers mean."""
        return grid_of(self.metadata)

    def __len__(self) -> int:
        """Return the number of packs."""
        return sum(self.shard_sizes)

    def __getitem__(self, index: int) -> PackedDocuments:
        """Return one pack."""
        shard = bisect_right(self._starts, index) - 1
        while self.shard_sizes[shard] == 0:
            shard -= 1
        if shard not in self._views:
            reader = self._readers[shard]
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            starts = [0, *accumulate(batch.num_rows for batch in batches)][:-1]
            self._views[shard] = (starts, [_BatchView(batch) for batch in batches])
        starts, views = self._views[shard]
        inside = index - self._starts[shard]
        batch = bisect_right(starts, inside) - 1
        return views[batch].pack(inside - starts[batch])
