"""Timings: one table from a name to the class that decides who speaks when.

Casting, acoustics and everything that follows are shared, so that corpora simulated with two timings differ in
turn-taking only. A new timing is one file with its class, and one line in the table.
"""

from typing import TYPE_CHECKING, Literal

from operators.simulate.timing.copula import Copula
from operators.simulate.timing.landini import Landini
from operators.simulate.timing.librimix import LibriMix
from operators.simulate.timing.librispeechmix import LibriSpeechMix
from operators.simulate.timing.sasc import Sasc
from operators.simulate.timing.timing import Timing

TIMINGS: dict[str, type[Timing]] = {timing.name: timing for timing in (Copula, Sasc, Landini, LibriSpeechMix, LibriMix)}
"""Class of each timing, by its name."""

if TYPE_CHECKING:
    TimingName = str
else:
    TimingName = Literal[tuple(TIMINGS)]  # the choices of `--converse.model` follow from the table
