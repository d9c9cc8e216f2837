"""balanced: as few packs as best fit, at equal cost of attention."""

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from models.training.order import WINDOW_PACKS
from operators.packing import packing_kernels as kernels
from operators.packing.packer import Packer, most_if_no_two_fit
from operators.packing.packers.best_fit import best_fit
from operators.packing.plan import Plan, validated

BALANCED_TAIL = 0.15
"""Share of the columns, those of the shortest documents, that fill gaps instead of balancing costs."""


class Balanced(Packer):
    """Packs with sums of squared lengths as equal as possible, costliest first; holds 2,048 packs of documents."""

    name = "balanced"
    groups_costliest = True

    def plan(self, lengths: ArrayLike, capacity: int) -> Plan:
        """Return the plan of `balanced`."""
        return balanced(lengths, capacity)

    def window(self, num_columns: pa.ChunkedArray, capacity: int, window_documents: int) -> int | None:
        """Return the number of documents that fill a loader's window of packs, and a few more.

        The documents of the packs that are filled least wait for the next window.
        """
        del window_documents
        ends = np.cumsum(num_columns.to_numpy(), dtype=np.int64)
        size = int(np.searchsorted(ends, int((WINDOW_PACKS + WINDOW_PACKS // 64) * capacity))) + 1
        return size if size <= len(ends) else None

    def settled(self, plan: Plan, lengths: ArrayLike, capacity: int) -> NDArray[np.bool_]:
        """Return a mask of the fullest packs, as many as a loader's window has."""
        del capacity
        fullest = np.argsort(-plan.sums(lengths), kind="stable")
        mask = np.zeros(len(plan), dtype=bool)
        mask[fullest[:WINDOW_PACKS]] = True
        return mask

    def most_packs(self, lengths: ArrayLike, capacity: int) -> int:
        """Return best fit's bound: balance is given up before fill is."""
        return most_if_no_two_fit(lengths, capacity)


def balanced(lengths: ArrayLike, capacity: int) -> Plan:
    """Fill packs as best fit does, with sums of squared lengths as equal as the documents allow.

    Longest first, a document goes into the pack with room whose sum of squares would end lowest if the rest of its
    room were filled with average documents of those still to come; the shortest documents then fill the gaps by best
    fit. Where this takes more packs than best fit (few short documents), best fit's plan is returned instead.

    Args:
        lengths: (documents,) columns per document, each in 1..capacity.
        capacity: columns that a pack holds.

    Returns:
        Packs by falling sum of squares.

    Raises:
        ValueError: a document is empty or longer than the capacity.

    >>> plan = balanced([4, 4, 1, 1, 1, 1, 1, 1, 1, 1], capacity=8)
    >>> sorted(plan.sums(np.square([4, 4, 1, 1, 1, 1, 1, 1, 1, 1])).tolist())
    [20, 20]
    """
    array = validated(lengths, capacity)
    plain = best_fit(array, capacity)
    squares = array.astype(np.int64) ** 2
    order, _, _ = kernels.sort_longest_first(array, capacity)
    num_packs = -(-int(array.sum(dtype=np.int64)) // capacity)
    pack_of, used = kernels.spread(array, order, capacity, num_packs, BALANCED_TAIL)
    plan = plain if used > len(plain) else _by_pack(pack_of, order, used)
    return plan.take(np.argsort(-plan.sums(squares), kind="stable"))


def _by_pack(pack_of: NDArray[np.int32], order: NDArray[np.int32], num_packs: int) -> Plan:
    rows = order[np.argsort(pack_of[order], kind="stable")]
    sizes = np.bincount(pack_of, minlength=num_packs)
    plan = Plan(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32), rows)
    return plan.take(np.flatnonzero(sizes))
