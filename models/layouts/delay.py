"""delay: one codebook per stream, each one column later than the one above it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Delay:
    """Codebook k is delayed by k columns: column c holds codes[k, c - k], so T frames make T + K - 1 columns.

    Source: Copet et al. 2023, "Simple and Controllable Music Generation", arXiv:2306.05284, section 2.1.
    """

    num_codebooks: int
    codebook_size: int

    has_groups = False
    is_open_ended = True
    is_depth = False

    @property
    def num_streams(self) -> int:
        """K."""
        return self.num_codebooks

    @property
    def vocab_size(self) -> int:
        """The codebook's."""
        return self.codebook_size

    def num_columns(self, num_frames: int) -> int:
        """Return T + K - 1, or 0 for 0 frames.

        >>> Delay(4, 16).num_columns(10)
        13
        """
        return num_frames + self.num_codebooks - 1 if num_frames else 0

    def target_columns(self, first_frame: int, num_frames: int) -> list[tuple[int, int]]:
        """Return one span, from the first frame's first codebook; its later codebooks' cells hold earlier frames."""
        return [(first_frame, self.num_columns(num_frames))]

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:  # noqa: ARG002
        """Return the range of all ids."""
        return 0, self.codebook_size

    def to_grid(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return the grid (K, T + K - 1)."""
        num_frames = codes.shape[1]
        grid = np.full((self.num_codebooks, self.num_columns(num_frames)), self.codebook_size, dtype=np.int32)
        for k in range(self.num_codebooks if num_frames else 0):
            grid[k, k : k + num_frames] = codes[k]
        return grid

    def from_grid(self, grid: NDArray[Any], num_frames: int) -> NDArray[np.int32]:
        """Return the codes (K, T)."""
        if not num_frames:
            return np.zeros((self.num_codebooks, 0), dtype=np.int32)
        return np.stack([grid[k, k : k + num_frames] for k in range(self.num_codebooks)]).astype(np.int32)
