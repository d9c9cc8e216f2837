"""Layouts: bijections between codes (K, T) and grid columns (S, C), each of which knows the length it makes.

A cell holds an id below `vocab_size`, or `vocab_size` itself for pad. A hidden code (`codebook_size`) becomes pad. A
predicted cell depends on the columns before its own; in the depth layout also on the cells above it in its column.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NAMES = ("parallel", "delay", "flat", "coarse_first", "depth")


class Layout(Protocol):
    """Puts codes on columns and takes them off again."""

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


@dataclass(frozen=True)
class Parallel:
    """`group` frames side by side in each column: column c holds frames [c group, c group + group).

    With group 1 all codebooks of a frame are predicted at once. Larger groups shorten the sequence: Chen et al.
    2024, "VALL-E 2", arXiv:2406.05370, section 3.2 (grouped code modeling).
    """

    num_codebooks: int
    codebook_size: int
    group: int = 1

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
        """Return one stretch, from the column of the first frame's group on."""
        return [(first_frame // self.group, self.num_columns(num_frames))]

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:  # noqa: ARG002
        """Return all ids."""
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


@dataclass(frozen=True)
class Depth(Parallel):
    """The grid of `Parallel`, its column predicted cell by cell by a small transformer over the streams.

    Sources: Lee et al. 2022, "Autoregressive image generation using residual quantization", arXiv:2203.01941, section
    3.2.2 (RQ-Transformer); Défossez et al. 2024, "Moshi", arXiv:2410.00037, section 3.4.1.
    """

    is_depth = True


@dataclass(frozen=True)
class Delay:
    """Codebook k comes k columns late: column c holds codes[k, c - k], so T frames make T + K - 1 columns.

    Source: Copet et al. 2023, "Simple and Controllable Music Generation", arXiv:2306.05284, section 2.1.
    """

    num_codebooks: int
    codebook_size: int

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
        """Return T + K - 1; 0 of 0 frames.

        >>> Delay(4, 16).num_columns(10)
        13
        """
        return num_frames + self.num_codebooks - 1 if num_frames else 0

    def target_columns(self, first_frame: int, num_frames: int) -> list[tuple[int, int]]:
        """Return one stretch, from the first frame's first codebook on; later codebooks there are of frames before."""
        return [(first_frame, self.num_columns(num_frames))]

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:  # noqa: ARG002
        """Return all ids."""
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


@dataclass(frozen=True)
class Flat:
    """One code a column, frame by frame: code v of codebook k is id k V + v, and T frames make K T columns.

    Every code is predicted from all before it, an exact chain rule. Source: Borsos et al. 2022, "AudioLM",
    arXiv:2209.03143, section III-C (acoustic tokens flattened frame by frame).
    """

    num_codebooks: int
    codebook_size: int

    is_depth = False

    @property
    def num_streams(self) -> int:
        """One."""
        return 1

    @property
    def vocab_size(self) -> int:
        """K times the codebook's."""
        return self.num_codebooks * self.codebook_size

    def num_columns(self, num_frames: int) -> int:
        """Return K T.

        >>> Flat(4, 16).num_columns(10)
        40
        """
        return self.num_codebooks * num_frames

    def target_columns(self, first_frame: int, num_frames: int) -> list[tuple[int, int]]:
        """Return one stretch."""
        return [(first_frame * self.num_codebooks, self.num_columns(num_frames))]

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:  # noqa: ARG002
        """Return the ids of the column's codebook."""
        k = column % self.num_codebooks
        return k * self.codebook_size, (k + 1) * self.codebook_size

    def _ids(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        offsets = (np.arange(self.num_codebooks) * self.codebook_size)[:, None]
        return np.where(codes == self.codebook_size, self.vocab_size, codes + offsets).astype(np.int32)

    def to_grid(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return the grid (1, K T); column t K + k holds codes[k, t]."""
        return np.ascontiguousarray(self._ids(codes).T.reshape(1, -1))

    def from_grid(self, grid: NDArray[Any], num_frames: int) -> NDArray[np.int32]:
        """Return the codes (K, T)."""
        ids = grid[0, : self.num_columns(num_frames)].reshape(num_frames, self.num_codebooks).T
        return _codes_of(ids, self.codebook_size, self.vocab_size)


@dataclass(frozen=True)
class CoarseFirst(Flat):
    """One code a column, codebook by codebook: all frames' first codes, then all second ones, and so on.

    The order of coarse-to-fine models: Borsos et al. 2022, "AudioLM", arXiv:2209.03143, section III-C; Wang et al.
    2023, "VALL-E", arXiv:2301.02111, section 4.2, whose later codebooks are predicted at once, here one by one.
    """

    def target_columns(self, first_frame: int, num_frames: int) -> list[tuple[int, int]]:
        """Return a stretch for each codebook.

        >>> CoarseFirst(2, 16).target_columns(3, 5)
        [(3, 5), (8, 10)]
        """
        return [(k * num_frames + first_frame, (k + 1) * num_frames) for k in range(self.num_codebooks)]

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:
        """Return the ids of the column's codebook."""
        k = column // num_frames
        return k * self.codebook_size, (k + 1) * self.codebook_size

    def to_grid(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Return the grid (1, K T); column k T + t holds codes[k, t]."""
        return self._ids(codes).reshape(1, -1)

    def from_grid(self, grid: NDArray[Any], num_frames: int) -> NDArray[np.int32]:
        """Return the codes (K, T)."""
        ids = grid[0, : self.num_columns(num_frames)].reshape(self.num_codebooks, num_frames)
        return _codes_of(ids, self.codebook_size, self.vocab_size)


def _codes_of(ids: NDArray[Any], codebook_size: int, pad: int) -> NDArray[np.int32]:
    """Return codes (K, T) of ids that count all codebooks."""
    offsets = (np.arange(len(ids)) * codebook_size)[:, None]
    return np.ascontiguousarray(np.where(ids == pad, codebook_size, ids - offsets).astype(np.int32))


def make_layout(name: str, num_codebooks: int, codebook_size: int, group: int = 1) -> Layout:
    """Return a layout by its name.

    Raises:
        ValueError: the name is unknown, or frames are to be grouped where the layout knows no groups.
    """
    if name in ("parallel", "depth"):
        return (Parallel if name == "parallel" else Depth)(num_codebooks, codebook_size, group)
    if name in NAMES and group != 1:
        raise ValueError(f"layout {name} knows no groups; groups of frames are for parallel and depth")
    match name:
        case "delay":
            return Delay(num_codebooks, codebook_size)
        case "flat":
            return Flat(num_codebooks, codebook_size)
        case "coarse_first":
            return CoarseFirst(num_codebooks, codebook_size)
    raise ValueError(f"there is no layout {name!r}; there are {', '.join(NAMES)}")
