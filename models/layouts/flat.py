"""flat: one code per column, frame by frame."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Flat:
    """One code per column, frame by frame: code v of codebook k has id k V + v, and T frames make K T columns.

    Every code is predicted from all codes before it: the exact chain rule. Source: Borsos et al. 2022, "AudioLM",
    arXiv:2209.03143, section III-C (acoustic tokens flattened frame by frame).
    """

    num_codebooks: int
    codebook_size: int

    has_groups = False
    is_open_ended = True
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
        """Return one span."""
        return [(first_frame * self.num_codebooks, self.num_columns(num_frames))]

    def id_range(self, column: int, num_frames: int) -> tuple[int, int]:  # noqa: ARG002
        """Return the range of ids of the column's codebook."""
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
        return codes_of_ids(ids, self.codebook_size, self.vocab_size)


def codes_of_ids(ids: NDArray[Any], codebook_size: int, pad: int) -> NDArray[np.int32]:
    """Return codes (K, T) of ids (K, T) that are numbered over all codebooks.

    Args:
        ids: id k V + v of code v in row k, or `pad`.
        codebook_size: V, which also is the hidden code that `pad` becomes.
        pad: the id of padding.
    """
    offsets = (np.arange(len(ids)) * codebook_size)[:, None]
    return np.ascontiguousarray(np.where(ids == pad, codebook_size, ids - offsets).astype(np.int32))
