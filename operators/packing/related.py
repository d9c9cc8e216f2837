"""Best fit with regard to related documents: in one pack, or in different ones."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from operators.packing.packers.best_fit import best_fit
from operators.packing.plan import Lengths, Plan, merged, validated


def together(lengths: ArrayLike, capacity: int, relation: Sequence[Any], full: float = 0.98) -> Plan:
    """Pack related documents with each other where they fill packs; pool the rest.

    Source: Shi et al. 2024, "In-Context Pretraining", arXiv:2310.10638: related documents in one context.

    Args:
        lengths: (documents,) columns per document.
        capacity: columns that a pack holds.
        relation: a value per document; documents with equal values are related.
        full: share of the capacity from which a pack of related documents is kept.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    array = validated(lengths, capacity)
    _, keys = np.unique(np.asarray(relation, dtype=object).astype(str), return_inverse=True)
    by_key = np.argsort(keys, kind="stable").astype(np.int32)
    borders = np.concatenate([[0], np.cumsum(np.bincount(keys))]) if len(keys) else np.zeros(1, np.int64)
    kept, pooled = [], []
    for begin, end in itertools.pairwise(borders.tolist()):
        rows = by_key[begin:end]
        plan = best_fit(array[rows], capacity)
        full_enough = plan.sums(array[rows]) >= full * capacity
        kept.append(_with_rows(plan.take(np.flatnonzero(full_enough)), rows))
        pooled.append(rows[plan.take(np.flatnonzero(~full_enough)).rows])
    rest = np.sort(np.concatenate(pooled)) if pooled else np.zeros(0, np.int32)
    return merged([*kept, _with_rows(best_fit(array[rest], capacity), rest)])


def _with_rows(plan: Plan, rows: NDArray[np.int32]) -> Plan:
    return Plan(plan.offsets, rows[plan.rows].astype(np.int32))


def apart(lengths: ArrayLike, capacity: int, relation: Sequence[Any]) -> Plan:
    """Pack by best fit, then exchange documents of equal or similar length until no pack holds related ones.

    Makes as many packs as best fit. Where no exchange fits, related documents stay in one pack.

    Args:
        lengths: (documents,) columns per document.
        capacity: columns that a pack holds.
        relation: a value per document; documents with equal values are related.

    Raises:
        ValueError: a document is empty or longer than the capacity.
    """
    array = validated(lengths, capacity)
    plan = best_fit(array, capacity)
    exchange = _Exchange(plan, array, capacity, [str(value) for value in relation])
    for place in range(len(plan.rows)):
        if exchange.is_alone(place):
            continue
        for length in exchange.nearest_lengths(place):
            other = exchange.partner(place, length)
            if other is not None:
                exchange.swap(place, other)
                break
    return Plan(plan.offsets, exchange.rows)


class _Exchange:
    """A plan whose rows are exchanged between packs; a place is an index into its rows."""

    def __init__(self, plan: Plan, lengths: Lengths, capacity: int, keys: list[str]) -> None:
        self.rows = plan.rows.copy()
        self._lengths, self._keys = lengths, keys
        self._pack_of = np.repeat(np.arange(len(plan)), np.diff(plan.offsets))
        self._room = (capacity - plan.sums(lengths)).tolist()
        self._counts: list[dict[str, int]] = [{} for _ in range(len(plan))]  # of each key in each pack
        self._places: dict[int, list[int]] = {}  # of each length
        for place, row in enumerate(self.rows.tolist()):
            self._add(int(self._pack_of[place]), row)
            self._places.setdefault(int(lengths[row]), []).append(place)
        self._distinct = np.array(sorted(self._places))

    def is_alone(self, place: int) -> bool:
        """Return whether the document has no related one in its pack."""
        count: int = self._counts[self._pack_of[place]][self._keys[self.rows[place]]]
        return count < 2

    def nearest_lengths(self, place: int) -> list[int]:
        """Return all lengths, those nearest to the document's first."""
        order = np.argsort(abs(self._distinct - self._lengths[self.rows[place]]), kind="stable")
        lengths: list[int] = self._distinct[order].tolist()
        return lengths

    def partner(self, place: int, length: int) -> int | None:
        """Return a place of this length with which an exchange fits and brings no related documents together."""
        row, pack = self.rows[place], self._pack_of[place]
        longer = length - int(self._lengths[row])
        if longer > self._room[pack]:
            return None
        return next(
            (
                other
                for other in self._places[length]
                if self._pack_of[other] != pack
                and -longer <= self._room[self._pack_of[other]]
                and self._keys[row] not in self._counts[self._pack_of[other]]
                and self._keys[self.rows[other]] not in self._counts[pack]
            ),
            None,
        )

    def swap(self, place: int, other: int) -> None:
        """Exchange the documents at two places."""
        row, other_row = int(self.rows[place]), int(self.rows[other])
        pack, other_pack = int(self._pack_of[place]), int(self._pack_of[other])
        length, other_length = int(self._lengths[row]), int(self._lengths[other_row])
        self.rows[place], self.rows[other] = other_row, row
        self._room[pack] -= other_length - length
        self._room[other_pack] += other_length - length
        if length != other_length:
            for at, old, new in ((other_length, other, place), (length, place, other)):
                self._places[at][self._places[at].index(old)] = new
        for where, leaving, coming in ((pack, row, other_row), (other_pack, other_row, row)):
            self._remove(where, leaving)
            self._add(where, coming)

    def _add(self, pack: int, row: int) -> None:
        counts = self._counts[pack]
        counts[self._keys[row]] = counts.get(self._keys[row], 0) + 1

    def _remove(self, pack: int, row: int) -> None:
        counts = self._counts[pack]
        counts[self._keys[row]] -= 1
        if not counts[self._keys[row]]:
            del counts[self._keys[row]]
