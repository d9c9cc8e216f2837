"""first_fit: documents in order, each into the first pack that has room."""

import numpy as np
from numpy.typing import ArrayLike

from operators.packing.packer import Packer, most_if_no_two_fit
from operators.packing.plan import Plan, validated


class FirstFit(Packer):
    """Packs by first fit, without sorting: neighbors in order of id tend to share a pack."""

    name = "first_fit"

    def plan(self, lengths: ArrayLike, capacity: int) -> Plan:
        """Return packs by first fit, in the order in which they were opened."""
        packs: list[list[int]] = []
        room: list[int] = []
        for row, length in enumerate(validated(lengths, capacity).tolist()):
            pack = next((number for number, left in enumerate(room) if left >= length), len(packs))
            if pack == len(packs):
                packs.append([])
                room.append(capacity)
            packs[pack].append(row)
            room[pack] -= length
        offsets = np.cumsum([0, *(len(rows) for rows in packs)]).astype(np.int32)
        return Plan(offsets, np.array([row for rows in packs for row in rows], np.int32))

    def most_packs(self, lengths: ArrayLike, capacity: int) -> int:
        """Return the bound that follows from no two packs fitting into one."""
        return most_if_no_two_fit(lengths, capacity)
