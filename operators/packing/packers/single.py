"""single: one document per pack."""

import numpy as np
from numpy.typing import ArrayLike

from operators.packing.packer import Packer
from operators.packing.plan import Plan, validated


class Single(Packer):
    """Gives every document a pack of its own."""

    name = "single"

    def plan(self, lengths: ArrayLike, capacity: int) -> Plan:
        """Return one pack per document, in order."""
        number = len(validated(lengths, capacity))
        return Plan(np.arange(number + 1, dtype=np.int32), np.arange(number, dtype=np.int32))
