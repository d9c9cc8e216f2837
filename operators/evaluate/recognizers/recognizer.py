"""What a recognizer is: sound of one stretch to words, without any idea of who speaks."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
"""Sampling rate of what recognizers hear."""


class Recognizer(Protocol):
    """Turns stretches of speech into words."""

    name: str
    """As tables show it."""
    longest_s: float
    """Longest stretch that it takes at once, in seconds."""

    @property
    def digest(self) -> str:
        """Digest of all that its words depend on: weights, package, settings."""
        ...

    def recognize(self, stretches: Sequence[NDArray[np.int16]], languages: Sequence[str | None]) -> list[str]:
        """Return the words of each stretch.

        Args:
            stretches: (N,) samples at RATE_HZ, each at most `longest_s` long.
            languages: code of each stretch's language, such as en; None where it is unknown.
        """
        ...
