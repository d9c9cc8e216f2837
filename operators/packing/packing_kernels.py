"""Compiled loops of the packers (numba): only arrays and numbers, no state."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_compiled: Callable[[Any], Any] = njit(cache=True, nogil=True)


@_compiled
def sort_longest_first(lengths, capacity):
    """Return rows by falling length (stable counting sort), documents of each length, and where each length begins."""
    counts = np.zeros(capacity + 1, np.int64)
    for length in lengths:
        counts[length] += 1
    starts = np.zeros(capacity + 1, np.int64)
    at = 0
    for length in range(capacity, 0, -1):
        starts[length] = at
        at += counts[length]
    order = np.empty(len(lengths), np.int32)
    free = starts.copy()
    for row in range(len(lengths)):
        length = lengths[row]
        order[free[length]] = row
        free[length] += 1
    return order, counts, starts


@_compiled
def _longer(array):
    grown = np.empty(2 * len(array), array.dtype)
    grown[: len(array)] = array
    return grown


@_compiled
def place(counts, starts, capacity):
    """Place `counts` (capacity + 1,) documents of each length by best fit, in groups of packs with the same history.

    A node means that each pack of a group took `per` documents, from sorted position `first` on. Its parent is what
    those packs took before; the first of them is number `shift` of the parent's packs. Groups of equal room form a
    linked list that begins at `head`, and a bitmap marks the rooms that have groups.
    """
    parent, shift = np.empty(1024, np.int32), np.empty(1024, np.int32)
    first, per = np.empty(1024, np.int32), np.empty(1024, np.int32)
    node, skip = np.empty(1024, np.int32), np.empty(1024, np.int32)
    count, following = np.empty(1024, np.int32), np.empty(1024, np.int32)
    num_nodes = num_groups = 0
    head = np.full(capacity + 1, -1, np.int32)
    words = capacity // 64 + 1
    rooms = np.zeros(words, np.uint64)
    one = np.uint64(1)
    for length in range(capacity, 0, -1):
        left, position = counts[length], starts[length]
        while left > 0:
            # The smallest room that holds this length.
            room = -1
            word = length >> 6
            bits = rooms[word] >> np.uint64(length & 63)
            at = length
            if bits == 0:
                word += 1
                while word < words and rooms[word] == 0:
                    word += 1
                if word < words:
                    bits = rooms[word]
                    at = word << 6
            if bits != 0:
                while bits & one == 0:
                    bits >>= one
                    at += 1
                room = at
            if room >= 0:
                group = head[room]
                before, skipped, packs = node[group], skip[group], count[group]
            else:  # as many new packs as it takes
                room = capacity
                group, before, skipped, packs = -1, -1, 0, left
            each = room // length
            taking = min(packs, left // each)
            if taking == 0:  # too few are left to fill one pack's share
                taking, each = 1, left
            if num_nodes == len(parent):
                parent, shift, first, per = _longer(parent), _longer(shift), _longer(first), _longer(per)
            parent[num_nodes], shift[num_nodes], first[num_nodes], per[num_nodes] = before, skipped, position, each
            position += taking * each
            left -= taking * each
            if group >= 0 and taking == packs:
                head[room] = following[group]
                if head[room] < 0:
                    rooms[room >> 6] &= ~(one << np.uint64(room & 63))
            else:
                if group >= 0:
                    skip[group] += taking
                    count[group] -= taking
                if num_groups == len(node):
                    node, skip, count, following = _longer(node), _longer(skip), _longer(count), _longer(following)
                group = num_groups
                num_groups += 1
            room -= each * length
            node[group], skip[group], count[group], following[group] = num_nodes, 0, taking, head[room]
            head[room] = group
            rooms[room >> 6] |= one << np.uint64(room & 63)
            num_nodes += 1
    return (
        parent[:num_nodes],
        shift[:num_nodes],
        first[:num_nodes],
        per[:num_nodes],
        node[:num_groups],
        skip[:num_groups],
        count[:num_groups],
        following[:num_groups],
        head,
    )


@_compiled
def list_rows(order, parent, shift, first, per, node, skip, count, following, head):
    """Return the plan's offsets (packs + 1,) and rows (documents,), the fullest packs first."""
    num_packs = 0
    for group in range(len(count)):
        num_packs += count[group]
    offsets = np.zeros(num_packs + 1, np.int32)
    rows = np.empty(len(order), np.int32)
    depth_limit = 2 + int(np.sqrt(2.0 * len(head)))  # a pack's lengths differ from node to node
    starts = np.empty(depth_limit, np.int32)
    sizes = np.empty(depth_limit, np.int32)
    pack = at = 0
    for room in range(len(head)):
        group = head[room]
        while group >= 0:
            here, skipped, depth = node[group], skip[group], 0
            while here >= 0:
                starts[depth] = first[here] + skipped * per[here]
                sizes[depth] = per[here]
                skipped += shift[here]
                here = parent[here]
                depth += 1
            for number in range(count[group]):
                for level in range(depth - 1, -1, -1):
                    begin = starts[level] + number * sizes[level]
                    for position in range(begin, begin + sizes[level]):
                        rows[at] = order[position]
                        at += 1
                pack += 1
                offsets[pack] = at
            group = following[group]
    return offsets, rows


@_compiled
def spread(lengths, order, capacity, num_packs, tail):
    """Spread documents over packs so that sums of squares become similar; the last `tail` of columns by best fit.

    Args:
        lengths: (documents,) columns per document.
        order: (documents,) rows by falling length.
        capacity: columns that a pack holds.
        num_packs: packs to begin with; more are opened where a document fits into none.
        tail: share of the columns.

    Returns:
        (documents,) pack of each, and the number of packs.
    """
    columns, squares = 0.0, 0.0
    for length in lengths:
        columns += length
        squares += float(length) * length
    stop = tail * columns
    limit = num_packs + len(lengths)
    room = np.full(limit, capacity, np.int64)
    filled = np.zeros(limit)
    pack_of = np.empty(len(lengths), np.int32)
    for position in range(len(order)):
        row = order[position]
        length = lengths[row]
        ahead = squares / columns if columns > stop else 0.0  # mean length that a column still to come belongs to
        best, lowest = -1, np.inf
        for pack in range(num_packs):
            if room[pack] >= length:
                key = filled[pack] + room[pack] * ahead if columns > stop else float(room[pack])
                if key < lowest:
                    best, lowest = pack, key
        if best < 0:
            best = num_packs
            num_packs += 1
        room[best] -= length
        filled[best] += float(length) * length
        columns -= length
        squares -= float(length) * length
        pack_of[row] = best
    return pack_of, num_packs
