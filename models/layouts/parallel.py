"""parallel: all codes of a frame, or of a group of frames, in one column."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Parallel:
    """`group` frames in each column: column c holds frames [c group, c group + group).

    With group 1 all codebooks of a frame are predicted at once. Larger groups shorten the sequence. Source: Chen et
    al. 2024, "VALL-E 2", arXiv:2406.05370, section 3.2 (grouped code modeling).
    """

    num_codebooks: int
    codebook_size: int
    group: int = 1

    has_groups = True
    is_open_ended = True
    is_depth = False

    @property
    def num_streams(self) -> int:
        """K times the group."""
        return self.num_codebooks * self.group

    @property
    def vocab_size(self) -> int:
        """The codebook's."""
        return self.codebook_size

    def num_columns(self, num_frames: int) -> int:
        """Return ceil(T / group).

        >>> Parallel(4, 16, group=2).num_columns(5)
        3
        """
        return -(-num_frames // self.group)

    def target_columns(self, first_frame: int, num_frames: int) -> list[tuple[int, int]]:
        """Return one span, from the column of the first frame's group."""
        return [(first_frame // self.group, self.num_columns(num_frames))]

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:  # noqa: ARG002
        """Return the range of all ids."""
        return 0, self.codebook_size

    def to_grid(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return the grid (K group, ceil(T / group)); stream g K + k holds codebook k of the group's frame g."""
        columns = self.num_columns(codes.shape[1])
        padded = np.full((columns * self.group, self.num_codebooks), self.codebook_size, dtype=np.int32)
        padded[: codes.shape[1]] = codes.T
        return np.ascontiguousarray(padded.reshape(columns, self.num_streams).T)

    def from_grid(self, grid: NDArray[Any], num_frames: int) -> NDArray[np.int32]:
        """Return the codes (K, T)."""
        frames = grid.T.reshape(-1, self.num_codebooks)[:num_frames]
        return np.ascontiguousarray(frames.T.astype(np.int32))
