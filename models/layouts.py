"""Layouts: bijections between codes (K, T) and grid columns (S, C), each of which knows the length it makes.

A pad cell holds `codebook_size`, the id one past the last code.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray


class Layout(Protocol):
    """Puts codes on columns and takes them off again."""

    @property
    def num_streams(self) -> int:
        """Audio cells in a column (S)."""
        ...

    def num_columns(self, num_frames: int) -> int:
        """Return exactly how many columns so many frames make (C)."""
        ...

    def first_column(self, frame: int) -> int:
        """Return the first column that holds any code of a frame."""
        ...

    def to_grid(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return the grid (S, C) of codes (K, T)."""
        ...

    def from_grid(self, grid: NDArray[Any], num_frames: int) -> NDArray[np.int32]:
        """Return the codes (K, T) of a grid (S, C)."""
        ...


@dataclass(frozen=True)
class Parallel:
    """`group` frames side by side in each column: column c holds frames [c group, c group + group).

    With group 1 all codebooks of a frame are predicted at once. Larger groups shorten the sequence: Chen et al.
    2024, "VALL-E 2", arXiv:2406.05370, section 3.2 (grouped code modeling).
    """

    num_codebooks: int
    codebook_size: int
    group: int = 1

    @property
    def num_streams(self) -> int:
        """K times the group."""
        return self.num_codebooks * self.group

    def num_columns(self, num_frames: int) -> int:
        """Return ceil(T / group).

        >>> Parallel(4, 16, group=2).num_columns(5)
        3
        """
        return -(-num_frames // self.group)

    def first_column(self, frame: int) -> int:
        """Return the column of the frame's group."""
        return frame // self.group

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


@dataclass(frozen=True)
class Delay:
    """Codebook k comes k columns late: column c holds codes[k, c - k], so T frames make T + K - 1 columns.

    Source: Copet et al. 2023, "Simple and Controllable Music Generation", arXiv:2306.05284, section 2.1.
    """

    num_codebooks: int
    codebook_size: int

    @property
    def num_streams(self) -> int:
        """K."""
        return self.num_codebooks

    def num_columns(self, num_frames: int) -> int:
        """Return T + K - 1; 0 of 0 frames.

        >>> Delay(4, 16).num_columns(10)
        13
        """
        return num_frames + self.num_codebooks - 1 if num_frames else 0

    def first_column(self, frame: int) -> int:
        """Return the column of the frame's first codebook."""
        return frame

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


def make_layout(name: Literal["parallel", "delay"], num_codebooks: int, codebook_size: int, group: int = 1) -> Layout:
    """Return a layout by its name.

    Raises:
        ValueError: the name is unknown, or a delay of grouped frames is asked for.
    """
    if name == "parallel":
        return Parallel(num_codebooks, codebook_size, group)
    if name == "delay" and group == 1:
        return Delay(num_codebooks, codebook_size)
    raise ValueError(f"there is no layout {name!r} with group {group}; there are parallel (any group) and delay")
