"""The layout contract: a bijection between codes (K, T) and a grid (S, C) whose number of columns is known in advance.

A cell holds an id below `vocab_size`, or `vocab_size` itself as padding. A hidden code (`codebook_size`) becomes
padding. A predicted cell depends on the columns before its own; where `is_depth`, also on the cells above it.
"""

from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray


class Layout(Protocol):
    """Maps codes to columns and back."""

    has_groups: ClassVar[bool]
    """Whether a column can hold several frames (`--compose.group`)."""
    is_open_ended: ClassVar[bool]
    """Whether generation can end at any column; otherwise the number of frames must be known from the first on."""

    @property
    def num_streams(self) -> int:
        """Audio cells in a column (S)."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids that an audio cell can hold, without padding (V)."""
        ...

    @property
    def is_depth(self) -> bool:
        """Whether the cells of a column are predicted one after the other, from the first stream to the last."""
        ...

    def num_columns(self, num_frames: int) -> int:
        """Return the exact number of columns (C) of a number of frames (T)."""
        ...

    def target_columns(self, first_frame: int, num_frames: int) -> list[tuple[int, int]]:
        """Return the spans [start, end) of columns that hold codes of the frames from `first_frame` to the last.

        Args:
            first_frame: below `num_frames`.
            num_frames: T, of all the audio.
        """
        ...

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:
        """Return the range [low, high) of ids that a cell of this column can hold, padding apart.

        Args:
            column: below `num_columns(num_frames)`.
            num_frames: T, of all the audio.
        """
        ...

    def to_grid(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return the grid (S, C), int32, of codes (K, T)."""
        ...

    def from_grid(self, grid: NDArray[Any], num_frames: int) -> NDArray[np.int32]:
        """Return the codes (K, T), int32, of a grid (S, C)."""
        ...
