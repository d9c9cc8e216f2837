"""Features read straight from memory-mapped partitions: views, which a batch copies once."""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.sequence.documents import AUDIO, REFERENCE, PackedDocuments, SegmentFeatures
from operators.errors import InputError
from operators.store.dataset import Dataset


class _Rows:
    """The features of one record batch."""

    def __init__(self, batch: pa.RecordBatch, dtype: np.dtype[Any], width: int) -> None:
        _, offsets, data = batch.column("values").buffers()
        borders = np.frombuffer(offsets, np.int64)[: batch.num_rows + 1]
        size = dtype.itemsize * width
        self._borders: list[int] = (borders // size).tolist()
        end = self._borders[-1]
        self._values = np.frombuffer(data or b"", dtype, end * width).reshape(end, width)
        scales = batch.column("scales")
        self._scales: NDArray[np.float32] = scales.values.to_numpy()
        self._of_row: list[int] = np.asarray(scales.offsets).tolist()

    def segment(self, row: int, first: int, number: int) -> SegmentFeatures:
        begin = self._borders[row] + first
        if begin + number > self._borders[row + 1]:
            raise ValueError(f"row {row} has {self._borders[row + 1] - self._borders[row]} frames")
        scales = self._scales[self._of_row[row] : self._of_row[row + 1]]
        return SegmentFeatures(self._values[begin : begin + number], scales)


class FeaturePartitions:
    """The partitions of features that a shard of packs refers to; each is opened when first asked for."""

    def __init__(self, dataset: Dataset, partitions: Sequence[Mapping[str, str]]) -> None:
        """Take the data set and the id and key of each partition, in the order in which packs count them."""
        self._dataset, self._partitions = dataset, partitions
        self._opened: dict[int, tuple[list[int], list[_Rows], tuple[int, int]]] = {}

    def _open(self, number: int) -> tuple[list[int], list[_Rows], tuple[int, int]]:
        wanted = self._partitions[number]
        receipt = self._dataset.committed_by_key(wanted["partition_id"], wanted["key"])
        if receipt is None:
            url = self._dataset.url()
            raise InputError(f"partition {wanted['partition_id']} of {url} is missing; run again to rebuild it")
        reader = self._dataset.open(receipt)
        told = json.loads(reader.schema.metadata[b"hubbub.features"])
        dtype, width = np.dtype(told["dtype"]).newbyteorder("<"), told["width"] * told["layers"]
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        starts = [0, *accumulate(batch.num_rows for batch in batches)]
        lengths = int(told["frames_per_frame"]), int(told.get("tail_frames", 0))
        made = starts, [_Rows(batch, dtype, width) for batch in batches], lengths
        self._opened[number] = made
        return made

    def check(self) -> None:
        """Open every partition.

        Raises:
            InputError: one is missing or damaged.
        """
        for number in range(len(self._partitions)):
            self._open(number)

    def of(self, pack: PackedDocuments) -> tuple[SegmentFeatures, ...]:
        """Return the features of each audio segment of a pack that refers to them.

        Raises:
            ValueError: it refers to what there is not.
            InputError: a partition is missing or damaged.
        """
        references = np.frombuffer(pack.codes, REFERENCE).tolist()
        lengths = pack.segments[pack.segments[:, 0] == AUDIO, 2].tolist()
        found = []
        for (partition, row, start), length in zip(references, lengths, strict=True):
            starts, rows, (ratio, tail) = self._opened.get(partition) or self._open(partition)
            batch = bisect_right(starts, row) - 1
            found.append(rows[batch].segment(row - starts[batch], ratio * start, ratio * length + tail))
        return tuple(found)
