"""Which documents share a pack: pure functions over lengths, compiled, deterministic, near linear in time.

A plan names rows; nothing here touches a token. `operators.packing.pack` gathers the documents of a plan.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from operators.packing import packing_kernels as kernels

Lengths = NDArray[np.int32]


@dataclass(frozen=True)
class Plan:
    """Rows of each pack, one pack behind the other."""

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


def checked(lengths: ArrayLike, capacity: int) -> Lengths:
    """Return lengths as int32.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    array = np.ascontiguousarray(lengths, dtype=np.int32).reshape(-1)
    wrong = np.flatnonzero((array < 1) | (array > capacity))
    if wrong.size:
        raise ValueError(f"document {wrong[0]} has {array[wrong[0]]} columns; a pack holds 1 to {capacity}")
    return array


def best_fit(lengths: ArrayLike, capacity: int) -> Plan:
    """Put documents, the longest first, each into the fullest pack that has room.

    Equal lengths are placed in one step: the fullest packs with room take as many as they hold, so the work grows
    with the number of different lengths and not of documents, but for the sort and the listing of rows.

    Args:
        lengths: columns per document, each in 1..capacity.
        capacity: columns a pack holds.

    Returns:
        Every row once, no document split. The same lengths make the same packs, whatever order they come in.

    Raises:
        ValueError: a document is empty or longer than the capacity.

    Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, section 3.1; packs
    handled by groups of equal history as in Krell et al. 2021, arXiv:2107.02027, appendix (LPFHP).

    >>> plan = best_fit([5, 3, 4, 2], capacity=7)
    >>> [plan.pack(i).tolist() for i in range(len(plan))]
    [[0, 3], [2, 1]]
    """
    array = checked(lengths, capacity)
    order, counts, starts = kernels.sort_longest_first(array, capacity)
    return Plan(*kernels.list_rows(order, *kernels.place(counts, starts, capacity)))


def histogram(counts: ArrayLike, capacity: int) -> list[tuple[dict[int, int], int]]:
    """Plan by length counts alone: which mix of lengths, and how many packs of it.

    Args:
        counts: (capacity + 1,) how many documents have each length; none may be empty.
        capacity: columns a pack holds.

    Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", arXiv:2107.02027, LPFHP.

    >>> histogram([0, 0, 4, 0, 2, 0, 0], capacity=6)
    [({4: 1, 2: 1}, 2), ({2: 2}, 1)]
    """
    number = np.ascontiguousarray(counts, dtype=np.int64)
    if number.shape != (capacity + 1,) or number[0]:
        raise ValueError(f"counts must be of shape ({capacity + 1},), with nothing at length 0")
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


BALANCED_TAIL = 0.15
"""Share of the columns, of the shortest documents, that fill packs to the brim instead of balancing them."""


def balanced(lengths: ArrayLike, capacity: int) -> Plan:
    """Fill packs as best fit does, with sums of squared lengths as equal as the documents allow.

    Longest first, a document goes into the pack with room whose sum of squares would end lowest if the rest of its
    room were filled with the average of what is still to come; the shortest documents then fill the gaps by best
    fit. Where this takes more packs than best fit (few short documents), best fit's plan is returned instead.

    Returns:
        The packs, those of the highest sum of squares first.

    Raises:
        ValueError: a document is empty or longer than the capacity.

    >>> plan = balanced([4, 4, 1, 1, 1, 1, 1, 1, 1, 1], capacity=8)
    >>> sorted(plan.sums(np.square([4, 4, 1, 1, 1, 1, 1, 1, 1, 1])).tolist())
    [20, 20]
    """
    array = checked(lengths, capacity)
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


def single(lengths: ArrayLike, capacity: int) -> Plan:
    """Give every document a pack of its own.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    number = len(checked(lengths, capacity))
    return Plan(np.arange(number + 1, dtype=np.int32), np.arange(number, dtype=np.int32))


SHORTEST_BUCKET = 64


def bucket_of(lengths: ArrayLike, capacity: int) -> NDArray[np.int64]:
    """Return the power of two that each document's length is rounded up to, at least 64 and at most the capacity.

    >>> bucket_of([3, 64, 65, 900], capacity=1000).tolist()
    [64, 64, 128, 1000]
    """
    exponents = np.ceil(np.log2(np.maximum(np.asarray(lengths), SHORTEST_BUCKET))).astype(np.int64)
    bucket: NDArray[np.int64] = np.minimum(2**exponents, capacity)
    return bucket


def buckets(lengths: ArrayLike, capacity: int) -> Plan:
    """Put documents of like length together: capacity / 2^b of bucket 2^b in a pack, short buckets first.

    Source: Pouransari et al. 2024, "Dataset Decomposition", arXiv:2405.13226, section 3: sequences of one length in
    a batch, and as many as keep its tokens constant. Documents are rounded up to a bucket here and not cut.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    array = checked(lengths, capacity)
    bucket = bucket_of(array, capacity)
    rows, sizes = [], []
    for size in np.unique(bucket).tolist():
        inside = np.flatnonzero(bucket == size)
        each = capacity // size
        rows.append(inside)
        sizes += [each] * (len(inside) // each) + ([len(inside) % each] if len(inside) % each else [])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return Plan(offsets, np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int32))


def concatenate(lengths: ArrayLike, capacity: int) -> tuple[int, int]:
    """Count the packs of documents laid end to end and cut at every border, and the documents cut: the baseline.

    >>> concatenate([5, 5, 4], capacity=7)
    (2, 1)
    """
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    starts = ends - np.asarray(lengths)
    return -(-int(ends[-1]) // capacity) if len(ends) else 0, int((starts // capacity != (ends - 1) // capacity).sum())


def together(lengths: ArrayLike, capacity: int, relation: Sequence[Any], full: float = 0.98) -> Plan:
    """Pack documents of one relation with each other where they fill packs; pool what is left.

    Source: Shi et al. 2024, "In-Context Pretraining", arXiv:2310.10638: related documents in one context.

    Args:
        lengths: columns per document.
        capacity: columns a pack holds.
        relation: a value per document; equal ones are related.
        full: share of the capacity from which a pack of related documents stands.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    array = checked(lengths, capacity)
    _, keys = np.unique(np.asarray(relation, dtype=object).astype(str), return_inverse=True)
    by_key = np.argsort(keys, kind="stable").astype(np.int32)
    borders = np.concatenate([[0], np.cumsum(np.bincount(keys))]) if len(keys) else np.zeros(1, np.int64)
    kept, pooled = [], []
    for begin, end in itertools.pairwise(borders.tolist()):
        rows = by_key[begin:end]
        plan = best_fit(array[rows], capacity)
        standing = plan.sums(array[rows]) >= full * capacity
        kept.append(_renamed(plan.take(np.flatnonzero(standing)), rows))
        pooled.append(rows[plan.take(np.flatnonzero(~standing)).rows])
    rest = np.sort(np.concatenate(pooled)) if pooled else np.zeros(0, np.int32)
    return joined([*kept, _renamed(best_fit(array[rest], capacity), rest)])


def apart(lengths: ArrayLike, capacity: int, relation: Sequence[Any]) -> Plan:
    """Pack by best fit, then exchange documents of equal or like length until no pack holds two of one relation.

    As many packs as best fit makes. Where no exchange fits, the two stay together.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    array = checked(lengths, capacity)
    plan = best_fit(array, capacity)
    rows = plan.rows.copy()
    pack_of = np.repeat(np.arange(len(plan)), np.diff(plan.offsets))
    keys = [str(value) for value in relation]
    held: list[dict[str, int]] = [{} for _ in range(len(plan))]
    for place, row in enumerate(rows.tolist()):
        own = held[pack_of[place]]
        own[keys[row]] = own.get(keys[row], 0) + 1
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        places.setdefault(int(array[row]), []).append(place)
    lengths_there = np.array(sorted(places))
    room = (capacity - plan.sums(array)).tolist()
    for place in range(len(rows)):
        row, pack = int(rows[place]), int(pack_of[place])
        if held[pack][keys[row]] < 2:
            continue
        nearest = lengths_there[np.argsort(abs(lengths_there - array[row]), kind="stable")].tolist()
        for length in nearest:
            longer = length - int(array[row])
            if longer > room[pack]:
                continue
            other_place = next(
                (
                    there
                    for there in places[length]
                    if pack_of[there] != pack
                    and -longer <= room[pack_of[there]]
                    and keys[row] not in held[pack_of[there]]
                    and keys[rows[there]] not in held[pack]
                ),
                None,
            )
            if other_place is None:
                continue
            other, other_pack = int(rows[other_place]), int(pack_of[other_place])
            rows[place], rows[other_place] = other, row
            room[pack] -= longer
            room[other_pack] += longer
            if longer:
                places[length][places[length].index(other_place)] = place
                own = places[int(array[row])]
                own[own.index(place)] = other_place
            for where, gone, come in ((pack, row, other), (other_pack, other, row)):
                held[where][keys[gone]] -= 1
                if not held[where][keys[gone]]:
                    del held[where][keys[gone]]
                held[where][keys[come]] = held[where].get(keys[come], 0) + 1
            break
    return Plan(plan.offsets, rows)


def _renamed(plan: Plan, rows: NDArray[np.int32]) -> Plan:
    return Plan(plan.offsets, rows[plan.rows].astype(np.int32))


def joined(plans: Sequence[Plan]) -> Plan:
    """Return one plan of several over the same rows."""
    sizes = np.concatenate([np.diff(plan.offsets) for plan in plans])
    rows = np.concatenate([plan.rows for plan in plans])
    return Plan(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32), rows.astype(np.int32))


def finished(plan: Plan, lengths: ArrayLike, capacity: int, share: float = 0.7, room: int = 2) -> NDArray[np.bool_]:
    """Tell which packs of a window may go; the documents of the others are packed again with those to come.

    Packs with at most `room` columns left go, and the fullest `share` of all, so that every window makes progress.
    Measured on lognormal lengths: 12,000 documents in memory fill as packing a million at once does.
    """
    left = capacity - plan.sums(lengths)
    go: NDArray[np.bool_] = left <= room
    go[np.argsort(left, kind="stable")[: int(np.ceil(share * len(plan)))]] = True
    return go


def lower_bound(lengths: ArrayLike, capacity: int) -> int:
    """Return a number of packs that no packing without cuts can go below.

    Source: Martello & Toth 1990, "Knapsack Problems", section 8.3, bound L2.

    >>> lower_bound([6, 6, 6], capacity=10), lower_bound([5, 5, 2], capacity=10)
    (3, 2)
    """
    array = checked(lengths, capacity)
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
