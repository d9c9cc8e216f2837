"""How many packs documents need: a lower bound, a plan by counts of lengths, and cutting documents as the baseline."""

import numpy as np
from numpy.typing import ArrayLike

from operators.packing import packing_kernels as kernels
from operators.packing.plan import validated


def lower_bound(lengths: ArrayLike, capacity: int) -> int:
    """Return a number of packs that no packing without cuts can go below.

    Args:
        lengths: (documents,) columns per document, each in 1..capacity.
        capacity: columns that a pack holds.

    Source: Martello & Toth 1990, "Knapsack Problems", section 8.3, bound L2.

    >>> lower_bound([6, 6, 6], capacity=10), lower_bound([5, 5, 2], capacity=10)
    (3, 2)
    """
    array = validated(lengths, capacity)
    if not len(array):
        return 0
    counts = np.bincount(array, minlength=capacity + 1).astype(np.int64)
    columns = counts * np.arange(capacity + 1)
    many, much = (np.concatenate([[0], np.cumsum(values)]) for values in (counts, columns))  # below each length
    half = capacity // 2
    least = np.arange(half + 1)  # documents shorter than this are left out of the count
    alone = many[-1] - many[capacity - least + 1]
    large, large_columns = many[capacity - least + 1] - many[half + 1], much[capacity - least + 1] - much[half + 1]
    small_columns = much[half + 1] - much[least]
    over = np.maximum(0, small_columns - (large * capacity - large_columns))
    return int((alone + large - (-over // capacity)).max())


def histogram(counts: ArrayLike, capacity: int) -> list[tuple[dict[int, int], int]]:
    """Plan by counts of lengths: return each mix of lengths, and the number of packs that hold it.

    Args:
        counts: (capacity + 1,) number of documents of each length; 0 at length 0.
        capacity: columns that a pack holds.

    Returns:
        Pairs of {length: documents in a pack} and number of packs.

    Raises:
        ValueError: counts have another shape, or a document is empty.

    Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", arXiv:2107.02027, LPFHP.

    >>> histogram([0, 0, 4, 0, 2, 0, 0], capacity=6)
    [({4: 1, 2: 1}, 2), ({2: 2}, 1)]
    """
    number = np.ascontiguousarray(counts, dtype=np.int64)
    if number.shape != (capacity + 1,) or number[0]:
        raise ValueError(f"counts must have shape ({capacity + 1},) and be 0 at length 0")
    starts = np.concatenate([np.cumsum(number[::-1])[::-1][1:], np.zeros(1, np.int64)])
    parent, _, first, per, node, _, count, following, head = kernels.place(number, starts, capacity)
    length_at = np.repeat(np.arange(capacity, -1, -1), number[::-1])
    found = []
    for room in range(capacity + 1):
        group = head[room]
        while group >= 0:
            at, mix = node[group], []
            while at >= 0:
                mix.append((int(length_at[first[at]]), int(per[at])))
                at = parent[at]
            found.append((dict(reversed(mix)), int(count[group])))
            group = following[group]
    return found


def concatenate(lengths: ArrayLike, capacity: int) -> tuple[int, int]:
    """Return the number of packs of documents laid end to end and cut at pack borders, and of documents cut.

    This is the baseline that does not keep documents whole.

    >>> concatenate([5, 5, 4], capacity=7)
    (2, 1)
    """
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    starts = ends - np.asarray(lengths)
    return -(-int(ends[-1]) // capacity) if len(ends) else 0, int((starts // capacity != (ends - 1) // capacity).sum())
