"""What a packer declares about itself: how it plans, and how many documents it holds while documents stream in."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from operators.packing.plan import Plan


class Packer(ABC):
    """Plans which documents share a pack: every document once, none cut, no pack above capacity."""

    name: ClassVar[str]
    """Name in `--pack.packer`."""
    supports_related: ClassVar[bool] = False
    """Whether `--pack.related` can be combined with it."""
    groups_costliest: ClassVar[bool] = False
    """Whether the costliest packs of each window of a shard come first, for the loader to take in groups."""
    by_length: ClassVar[bool] = False
    """Whether a pack's documents are of one bucket of lengths, so that each bucket is a component of its own."""

    @abstractmethod
    def plan(self, lengths: ArrayLike, capacity: int) -> Plan:
        """Return the packs of documents.

        Args:
            lengths: (documents,) columns per document, each in 1..capacity.
            capacity: columns that a pack holds.

        Raises:
            ValueError: a document is empty or longer than the capacity.
        """

    def window(self, num_columns: pa.ChunkedArray, capacity: int, window_documents: int) -> int | None:
        """Return the number of documents, from the first, to plan now; None to wait for more.

        This decides how many documents are in memory.

        Args:
            num_columns: of the documents held.
            capacity: columns that a pack holds.
            window_documents: the recipe's window.
        """
        del capacity
        return window_documents if len(num_columns) >= window_documents else None

    def settled(self, plan: Plan, lengths: ArrayLike, capacity: int) -> NDArray[np.bool_]:
        """Return a mask (packs,) of a window's packs to emit; the others' documents are packed again with the next.

        At least one pack must be emitted.
        """
        return settled(plan, lengths, capacity)

    def most_packs(self, lengths: ArrayLike, capacity: int) -> int:
        """Return a number of packs that a plan of these lengths never exceeds."""
        del capacity
        return int(np.size(lengths))


def settled(plan: Plan, lengths: ArrayLike, capacity: int, share: float = 0.7, room: int = 2) -> NDArray[np.bool_]:
    """Return a mask (packs,) of packs that gain little from being planned again with later documents.

    Packs with at most `room` columns left are, and the fullest `share` of all, so that every window makes progress.
    Measured on lognormal lengths: packs from 12,000 documents in memory are as full as from a million at once.
    """
    left = capacity - plan.sums(lengths)
    mask: NDArray[np.bool_] = left <= room
    mask[np.argsort(left, kind="stable")[: int(np.ceil(share * len(plan)))]] = True
    return mask


def most_if_no_two_fit(lengths: ArrayLike, capacity: int) -> int:
    """Return the most packs there can be of documents (documents,) if no two packs would fit into one."""
    columns = int(np.sum(lengths, dtype=np.int64))
    return min(int(np.size(lengths)), max(1, 2 * columns // (capacity + 1)))
