"""coarse_first: one code per column, codebook by codebook."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.layouts.flat import Flat, codes_of_ids


@dataclass(frozen=True)
class CoarseFirst(Flat):
    """One code per column, codebook by codebook: the first codes of all frames, then all second codes, and so on.

    The order of coarse-to-fine models. Sources: Borsos et al. 2022, "AudioLM", arXiv:2209.03143, section III-C; Wang
    et al. 2023, "VALL-E", arXiv:2301.02111, section 4.2, which predicts each later codebook's frames all at once; here
    they are predicted one by one.
    """

    is_open_ended = False  # where a codebook ends follows from the number of frames

    def target_columns(self, first_frame: int, num_frames: int) -> list[tuple[int, int]]:
        """Return one span for each codebook.

        >>> CoarseFirst(2, 16).target_columns(3, 5)
        [(3, 5), (8, 10)]
        """
        return [(k * num_frames + first_frame, (k + 1) * num_frames) for k in range(self.num_codebooks)]

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:
        """Return the range of ids of the column's codebook."""
        k = column // num_frames
        return k * self.codebook_size, (k + 1) * self.codebook_size

    def to_grid(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return the grid (1, K T); column k T + t holds codes[k, t]."""
        return self._ids(codes).reshape(1, -1)

    def from_grid(self, grid: NDArray[Any], num_frames: int) -> NDArray[np.int32]:
        """Return the codes (K, T)."""
        ids = grid[0, : self.num_columns(num_frames)].reshape(self.num_codebooks, num_frames)
        return codes_of_ids(ids, self.codebook_size, self.vocab_size)
