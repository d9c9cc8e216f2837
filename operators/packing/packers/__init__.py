"""Packers: one table from a packer's name to the packer, which knows everything about itself.

A new packer is one file with its class, and one line in `PACKERS` (docs/extending.md).
"""

from typing import TYPE_CHECKING, Literal

from operators.packing.packer import Packer
from operators.packing.packers.balanced import Balanced
from operators.packing.packers.best_fit import BestFit
from operators.packing.packers.buckets import Buckets
from operators.packing.packers.single import Single

PACKERS: dict[str, Packer] = {
    "best_fit": BestFit(),
    "balanced": Balanced(),
    "buckets": Buckets(),
    "single": Single(),
}

if TYPE_CHECKING:
    PackerName = str
else:
    PackerName = Literal[tuple(PACKERS)]  # the choices of `--pack.packer` follow from the table
