"""Packs read straight from memory-mapped shards: no copy but the slices that a step uses."""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.codecs.codec import CodecSpec
from models.layouts import make_layout
from models.sequence.documents import GridSpec, PackedDocuments
from models.training.order import Span
from operators.digest import merkle_root
from operators.errors import InputError
from operators.store import storage
from operators.store.cache import Cache
from operators.store.dataset import Dataset, Receipt, Snapshot
from operators.store.frames import FeaturePartitions

COMPONENT = "packs of "
"""Prefix of a receipt's counts of packs by component; packs of one component are contiguous in a shard."""
GROUPED = "packs in windows sorted by cost"


def of_split(receipts: Sequence[Receipt], split: Literal["train", "validation"]) -> list[Receipt]:
    """Return the receipts of one split's packs: a snapshot holds those of all splits."""
    return [receipt for receipt in receipts if receipt.partition_id.startswith(f"{split}-")]


_CHECKS = 4
"""Local shards whose digests are taken at once: hashing lets other threads run."""
_OPEN_REMOTE_SHARDS = 16
"""Copies of remote shards held open at once: a mapped file keeps its disk space though it was evicted."""


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
    """A list or binary column of one record batch: flat values and absolute offsets."""

    def __init__(self, array: Any) -> None:
        self.offsets = np.asarray(array.offsets)
        self.values = array.values

    def rows(self, index: int) -> slice:
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


class _BatchView:
    """One record batch's columns as numpy views, each made when first asked for."""

    def __init__(self, batch: pa.RecordBatch, features: FeaturePartitions | None) -> None:
        self._batch = batch
        self._features = features
        self.num_columns = batch.column("num_columns").to_numpy()
        self.sum_squares = batch.column("sum_squares").to_numpy()
        tokens = batch.column("text_tokens")
        self.text_offsets: list[int] = np.asarray(tokens.offsets).tolist()  # plain integers slice faster
        self.text_values = tokens.values.to_numpy()

    @cached_property
    def _cu_seqlens(self) -> _Column:
        return _Column(self._batch.column("cu_seqlens"))

    @cached_property
    def _segments(self) -> _Column:
        return _Column(self._batch.column("segments"))

    @cached_property
    def _loss_spans(self) -> _Column:
        return _Column(self._batch.column("loss_spans"))

    @cached_property
    def _talker_spans(self) -> _Column:
        return _Column(self._batch.column("talker_spans"))

    @staticmethod
    def _struct(column: _Column, index: int, names: tuple[str, ...]) -> NDArray[np.int32]:
        rows = column.rows(index)
        picked = [column.values.field(name).to_numpy(zero_copy_only=True)[rows] for name in names]
        return np.stack(picked, axis=1).astype(np.int32) if picked[0].size else np.zeros((0, len(names)), np.int32)

    def pack(self, index: int) -> PackedDocuments:
        spans = self._loss_spans
        pack = PackedDocuments(
            pack_id=self._batch.column("pack_id")[index].as_py(),
            num_columns=int(self.num_columns[index]),
            cu_seqlens=self._cu_seqlens.values.to_numpy()[self._cu_seqlens.rows(index)],
            segments=self._struct(self._segments, index, ("kind", "start_column", "length")),
            text_tokens=self.text_values[self.text_offsets[index] : self.text_offsets[index + 1]],
            codes=memoryview(self._batch.column("codes")[index].as_buffer()),
            loss_spans=self._struct(spans, index, ("kind", "start_column", "end_column")),
            loss_weights=spans.values.field("weight").to_numpy()[spans.rows(index)],
            talker_spans=self._struct(self._talker_spans, index, ("talker", "start_column", "end_column")),
        )
        return pack if self._features is None else replace(pack, codes=b"", features=self._features.of(pack))


class PackShards:
    """All packs of one split of a snapshot, by index: a `models.training.loader.PackSource`."""

    def __init__(
        self,
        dataset: Dataset,
        snapshot: Snapshot,
        on_bad_shard: Literal["stop", "skip"] = "stop",
        cache: Cache | None = None,
        split: Literal["train", "validation"] = "train",
    ) -> None:
        """Check the local shards, several at a time; each is opened when first asked for.

        Raises:
            InputError: there are no packs of the split, or a shard is missing or damaged, and the policy is to stop.
        """
        self._dataset = dataset
        self._cache = cache or Cache.default()
        self._remote = not storage.is_local(dataset.root)
        receipts, self.skipped = self._usable(of_split(snapshot.receipts, split), on_bad_shard)
        """Shards left out, and why."""
        self._receipts = [receipt for receipt in receipts if receipt.num_rows]
        if not self._receipts:
            raise InputError(f"{dataset.url()} holds no packs of the {split} split")
        self._starts = [0, *accumulate(receipt.num_rows for receipt in self._receipts)]
        self._views: dict[int, tuple[list[int], list[_BatchView]]] = {}
        self._coming: dict[int, Future[None]] = {}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="prefetch")
        self.digest = merkle_root((r.partition_id, r.content_digest) for r in receipts)

    def _usable(
        self, receipts: Sequence[Receipt], policy: Literal["stop", "skip"]
    ) -> tuple[list[Receipt], dict[str, str]]:
        there = self._dataset.committed_names() if self._remote else None
        good, bad = [], {}

        def fault_of(receipt: Receipt) -> str:
            url = self._dataset.rows_url(receipt)
            if there is not None:
                is_there = f"{receipt.partition_id}-{receipt.key}" in there
                return "" if is_there else f"{url} is missing; run again to rebuild it"
            try:
                features = self._features(self._dataset.open(receipt))
                if features is not None:
                    features.check()
            except InputError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(_CHECKS, thread_name_prefix="check") as pool:
            faults = list(pool.map(fault_of, receipts))
        for receipt, fault in zip(receipts, faults, strict=True):
            url = self._dataset.rows_url(receipt)
            if fault and policy == "stop":
                raise InputError(f"{fault}; or continue without it: --train.on-bad-shard skip")
            if fault:
                bad[url] = fault
            else:
                good.append(receipt)
        return good, bad

    def _features(self, reader: pa.ipc.RecordBatchFileReader) -> FeaturePartitions | None:
        """Return the features that a shard refers to, where it does."""
        named = (reader.schema.metadata or {}).get(b"hubbub.features")
        return named and FeaturePartitions(Dataset(self._dataset.root, "features"), json.loads(named))

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Metadata of the first shard."""
        return self._dataset.metadata(self._receipts[0])

    @cached_property
    def grid(self) -> GridSpec:
        """What the integers mean."""
        return grid_of(self.metadata)

    @cached_property
    def components(self) -> Mapping[str, Sequence[Span]]:
        """Where the packs of each component are, from the receipts alone."""
        found: dict[str, list[Span]] = {}
        for first, receipt in zip(self._starts, self._receipts, strict=False):
            grouped = bool(receipt.counts.get(GROUPED))
            counts = {name: int(n) for name, n in sorted(receipt.counts.items()) if name.startswith(COMPONENT)}
            at = first
            for name, number in (counts or {f"{COMPONENT}all": receipt.num_rows}).items():
                found.setdefault(name.removeprefix(COMPONENT), []).append(Span(at, number, grouped))
                at += number
        return found

    def __len__(self) -> int:
        """Return the number of packs."""
        return self._starts[-1]

    def _open(self, shard: int) -> tuple[list[int], list[_BatchView]]:
        if shard in self._coming:
            self._coming.pop(shard).result()
        receipt = self._receipts[shard]
        reader = self._dataset.open(receipt)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        starts = [0, *accumulate(batch.num_rows for batch in batches)]
        if starts[-1] != receipt.num_rows:
            url = self._dataset.rows_url(receipt)
            raise InputError(f"{url} holds {starts[-1]} packs, but {receipt.num_rows} were committed")
        if self._remote and len(self._views) >= _OPEN_REMOTE_SHARDS:
            self._views.pop(next(iter(self._views)))
        features = self._features(reader)
        self._views[shard] = (starts, [_BatchView(batch, features) for batch in batches])
        return self._views[shard]

    def _view(self, index: int) -> tuple[_BatchView, int]:
        """Return the record batch that holds a pack, and the pack's row in it."""
        shard = bisect_right(self._starts, index) - 1
        starts, views = self._views.get(shard) or self._open(shard)
        inside = index - self._starts[shard]
        batch = bisect_right(starts, inside) - 1
        return views[batch], inside - starts[batch]

    def __getitem__(self, index: int) -> PackedDocuments:
        """Return one pack."""
        view, row = self._view(index)
        return view.pack(row)

    def size(self, index: int) -> tuple[int, int]:
        """Return a pack's columns, and the sum of its documents' squared columns."""
        view, row = self._view(index)
        return int(view.num_columns[row]), int(view.sum_squares[row])

    def text_tokens(self, index: int) -> NDArray[np.int32]:
        """Return a pack's text tokens (N,), a view into the shard."""
        shard = bisect_right(self._starts, index) - 1
        starts, views = self._views.get(shard) or self._open(shard)
        row = index - self._starts[shard]
        batch = bisect_right(starts, row) - 1
        view = views[batch]
        row -= starts[batch]
        tokens: NDArray[np.int32] = view.text_values[view.text_offsets[row] : view.text_offsets[row + 1]]
        return tokens

    def prefetch(self, indices: Sequence[int]) -> None:
        """Fetch the remote shards of packs that will be asked for soon, without waiting for them."""
        if not self._remote:
            return
        for shard in dict.fromkeys(bisect_right(self._starts, index) - 1 for index in indices):
            if shard not in self._views and shard not in self._coming:
                self._coming[shard] = self._pool.submit(self._fetch, shard)

    def _fetch(self, shard: int) -> None:
        receipt = self._receipts[shard]
        self._cache.fetch(self._dataset.rows_url(receipt), receipt.num_bytes, receipt.content_digest)
