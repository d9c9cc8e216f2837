"""Plans: which documents share a pack, as row numbers; nothing here touches a token.

`operators.packing.packers` makes plans of documents' lengths, and `operators.packing.pack` gathers the documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Lengths = NDArray[np.int32]


@dataclass(frozen=True)
class Plan:
    """Rows of each pack, one pack after the other."""

    offsets: NDArray[np.int32]  # (packs + 1,)
    rows: NDArray[np.int32]  # (documents,)

    def __len__(self) -> int:
        """Return the number of packs."""
        return len(self.offsets) - 1

    def pack(self, index: int) -> NDArray[np.int32]:
        """Return the rows of one pack."""
        return self.rows[self.offsets[index] : self.offsets[index + 1]]

    def sums(self, values: ArrayLike) -> NDArray[np.int64]:
        """Return the sum over each pack's documents of a value per row."""
        running = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(values)[self.rows], dtype=np.int64)])
        sums: NDArray[np.int64] = running[self.offsets[1:]] - running[self.offsets[:-1]]
        return sums

    def take(self, packs: NDArray[np.int64]) -> "Plan":
        """Return a plan of some of the packs, in the order given."""
        sizes = np.diff(self.offsets)[packs]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        rows = self.rows[np.repeat(self.offsets[:-1][packs].astype(np.int64), sizes) + within]
        return Plan(offsets.astype(np.int32), rows)


def validated(lengths: ArrayLike, capacity: int) -> Lengths:
    """Return the columns of each document as (documents,) int32.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    array = np.ascontiguousarray(lengths, dtype=np.int32).reshape(-1)
    wrong = np.flatnonzero((array < 1) | (array > capacity))
    if wrong.size:
        raise ValueError(f"document {wrong[0]} has {array[wrong[0]]} columns; a pack holds 1 to {capacity}")
    return array


def merged(plans: Sequence[Plan]) -> Plan:
    """Return one plan with the packs of several, in order; their rows must be numbers of the same documents."""
    sizes = np.concatenate([np.diff(plan.offsets) for plan in plans])
    rows = np.concatenate([plan.rows for plan in plans])
    return Plan(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32), rows.astype(np.int32))
