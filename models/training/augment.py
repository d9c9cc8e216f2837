"""SpecAugment on prompt audio: bands and time spans hidden, bands shifted; predicted codes are never changed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Augment:
    """Masks and shifts the codes of prompt audio.

    Source: Park et al. 2019, "SpecAugment", arXiv:1904.08779, section 2 (frequency and time masks), on the codes of a
    codec whose codebooks are bands; hidden cells are pads, which add nothing to a column.
    """

    bands: int = 0
    """Bands hidden, each up to a fifth of the codebooks."""
    spans: int = 0
    """Time spans hidden, each up to a tenth of the audio."""
    shift: int = 0
    """Most codebooks by which all bands are shifted up or down: a different pitch and vocal tract."""

    def __bool__(self) -> bool:
        """Return whether anything is changed."""
        return bool(self.bands or self.spans or self.shift)

    def __call__(self, codes: NDArray[np.int32], pad: int, draw: np.random.Generator) -> NDArray[np.int32]:
        """Return changed codes (K, T).

        Args:
            codes: (K, T).
            pad: value of hidden cells.
            draw: random generator addressed to this audio.
        """
        books, frames = codes.shape
        changed = codes.copy()
        if self.shift:
            moved = int(draw.integers(-self.shift, self.shift + 1))
            changed = changed[np.clip(np.arange(books) - moved, 0, books - 1)]
        for _ in range(self.bands):
            width = int(draw.integers(0, books // 5 + 1))
            low = int(draw.integers(0, books - width + 1))
            changed[low : low + width] = pad
        for _ in range(self.spans):
            length = int(draw.integers(0, frames // 10 + 1))
            start = int(draw.integers(0, frames - length + 1))
            changed[:, start : start + length] = pad
        return changed
