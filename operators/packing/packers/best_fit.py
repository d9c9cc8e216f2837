"""best_fit: the fewest packs, as nearly as best fit decreasing finds them."""

from numpy.typing import ArrayLike

from operators.packing import packing_kernels as kernels
from operators.packing.packer import Packer, most_if_no_two_fit
from operators.packing.plan import Plan, validated


class BestFit(Packer):
    """Packs by best fit decreasing, a window of documents at a time."""

    name = "best_fit"
    supports_related = True

    def plan(self, lengths: ArrayLike, capacity: int) -> Plan:
        """Return the plan of `best_fit`."""
        return best_fit(lengths, capacity)

    def most_packs(self, lengths: ArrayLike, capacity: int) -> int:
        """Return the bound that follows from no two packs fitting into one."""
        return most_if_no_two_fit(lengths, capacity)


def best_fit(lengths: ArrayLike, capacity: int) -> Plan:
    """Put each document, longest first, into the fullest pack that has room.

    Equal lengths are placed in one step: the fullest packs with room take as many as they hold. So the work grows with
    the number of different lengths rather than of documents, except for the sort and the listing of rows.

    Args:
        lengths: (documents,) columns per document, each in 1..capacity.
        capacity: columns that a pack holds.

    Returns:
        Every row once. The same lengths make the same packs, in whatever order they come.

    Raises:
        ValueError: a document is empty or longer than the capacity.

    Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, section 3.1; packs
    handled by groups of equal history as in Krell et al. 2021, arXiv:2107.02027, appendix (LPFHP).

    >>> plan = best_fit([5, 3, 4, 2], capacity=7)
    >>> [plan.pack(i).tolist() for i in range(len(plan))]
    [[0, 3], [2, 1]]
    """
    array = validated(lengths, capacity)
    order, counts, starts = kernels.sort_longest_first(array, capacity)
    return Plan(*kernels.list_rows(order, *kernels.place(counts, starts, capacity)))
