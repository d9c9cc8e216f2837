"""Augmentation of what is heard: bands and stretches of prompt audio hidden or moved, never a predicted code."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Augment:
    """How audio is changed before it is shown to the model.

    Source: Park et al. 2019, "SpecAugment", arXiv:1904.08779, section 2 (frequency and time masks), on the codes of a
    codec whose codebooks are bands; hidden cells are pads, which add nothing to a column.
    """

    bands: int = 0
    """Bands hidden, each of up to a fifth of the codebooks."""
    spans: int = 0
    """Stretches hidden, each of up to a tenth of the audio."""
    shift: int = 0
    """Codebooks by which the whole is moved up or down, at most: another pitch and vocal tract."""

    def __bool__(self) -> bool:
        """Tell whether anything is changed."""
        return bool(self.bands or self.spans or self.shift)

    def __call__(self, codes: NDArray[np.int32], pad: int, draw: np.random.Generator) -> NDArray[np.int32]:
        """Return changed codes (K, T).

        Args:
            codes: (K, T).
            pad: what hidden cells hold.
            draw: the generator that belongs to this audio.
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
