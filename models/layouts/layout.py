"""What a layout is: a bijection between codes (K, T) and grid columns (S, C) that knows how many columns it makes.

A cell holds an id below `vocab_size`, or `vocab_size` itself for pad. A hidden code (`codebook_size`) becomes pad. A
predicted cell depends on the columns before its own; in the depth layout also on the cells above it in its column.
"""

from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray


class Layout(Protocol):
    """Places codes on columns and reads them back."""

    has_groups: ClassVar[bool]
    """Whether a column can hold several frames (`--compose.group`)."""

    @property
    def num_streams(self) -> int:
        """Audio cells in a column (S)."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids that an audio cell can hold, pad left out."""
        ...

    @property
    def is_depth(self) -> bool:
        """Whether the cells of a column are predicted one after the other, from the first stream to the last."""
        ...

    def num_columns(self, num_frames: int) -> int:
        """Return exactly how many columns so many frames make (C)."""
        ...

    def target_columns(self, first_frame: int, num_frames: int) -> list[tuple[int, int]]:
        """Return the stretches of columns that hold codes of frames from the first on."""
        ...

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:
        """Return the ids [low, high) that a cell of this column can hold, of so many frames."""
        ...

    def to_grid(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return the grid (S, C) of codes (K, T)."""
        ...

    def from_grid(self, grid: NDArray[Any], num_frames: int) -> NDArray[np.int32]:
        """Return the codes (K, T) of a grid (S, C)."""
        ...
