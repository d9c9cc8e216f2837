"""buckets: documents of similar length together."""

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from operators.packing.packer import Packer
from operators.packing.plan import Plan, validated

SHORTEST_BUCKET = 64


class Buckets(Packer):
    """Packs documents whose lengths round up to the same power of two; holds all documents of a shard."""

    name = "buckets"
    by_length = True

    def plan(self, lengths: ArrayLike, capacity: int) -> Plan:
        """Return the plan of `buckets`."""
        return buckets(lengths, capacity)

    def window(self, num_columns: pa.ChunkedArray, capacity: int, window_documents: int) -> int | None:
        """Return None: a bucket's packs must be adjacent in the shard."""
        del num_columns, capacity, window_documents
        return None

    def most_packs(self, lengths: ArrayLike, capacity: int) -> int:
        """Return the sum over buckets of full packs and one that is not."""
        sizes, number = np.unique(bucket_of(lengths, capacity), return_counts=True)
        return int((-(-number // (capacity // sizes))).sum())


def bucket_of(lengths: ArrayLike, capacity: int) -> NDArray[np.int64]:
    """Return the power of two that each length (documents,) is rounded up to, at least 64 and at most the capacity.

    >>> bucket_of([3, 64, 65, 900], capacity=1000).tolist()
    [64, 64, 128, 1000]
    """
    exponents = np.ceil(np.log2(np.maximum(np.asarray(lengths), SHORTEST_BUCKET))).astype(np.int64)
    bucket: NDArray[np.int64] = np.minimum(2**exponents, capacity)
    return bucket


def buckets(lengths: ArrayLike, capacity: int) -> Plan:
    """Put documents of similar length together: capacity / 2^b of bucket 2^b in a pack, short buckets first.

    Source: Pouransari et al. 2024, "Dataset Decomposition", arXiv:2405.13226, section 3: a batch holds
    sequences of one length, as many as keep its tokens constant. Here documents are not cut: each belongs to the bucket
    that its length rounds up to.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    array = validated(lengths, capacity)
    bucket = bucket_of(array, capacity)
    rows, sizes = [], []
    for size in np.unique(bucket).tolist():
        inside = np.flatnonzero(bucket == size)
        each = capacity // size
        rows.append(inside)
        sizes += [each] * (len(inside) // each) + ([len(inside) % each] if len(inside) % each else [])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return Plan(offsets, np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int32))
