"""Keys and values of the sequences being decoded, allocated once and written in place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.config.shape import Shape
from models.sequence.batch import Batch
from models.speech_lm.transformer import rotary


@dataclass(frozen=True)
class StaticCache:
    """A row of columns for each slot; no tensor is ever replaced, so that a captured step can be replayed on it."""

    keys: tuple[torch.Tensor, ...]
    """Per layer (B, L, G, D)."""
    values: tuple[torch.Tensor, ...]
    """Per layer (B, L, G, D)."""
    lengths: torch.Tensor
    """(B,) columns in use."""
    rows: torch.Tensor
    """(B,) 0, 1, 2 ..."""
    cos: torch.Tensor
    """(L, 1, D / 2) of each position."""
    sin: torch.Tensor
    """(L, 1, D / 2) of each position."""

    @classmethod
    def allocate(
        cls, shape: Shape, slots: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> "StaticCache":
        """Return an empty cache.

        Args:
            shape: of the model.
            slots: sequences (B).
            capacity: columns of each (L).
            dtype: of keys and values.
            device: where it is.
        """
        size = (slots, capacity, shape.num_kv_heads, shape.head_dim)
        # Zeros: what is masked counts with weight 0, and 0 times an arbitrary bit pattern may not be 0.
        keys, values = (
            tuple(torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.num_layers)) for _ in range(2)
        )
        rows = torch.arange(slots, device=device)
        cos, sin = rotary(torch.arange(capacity, device=device), shape)
        return cls(keys, values, torch.zeros_like(rows), rows, cos, sin)

    @property
    def capacity(self) -> int:
        """Columns of each slot (L)."""
        return len(self.cos)

    def insert(self, slots: torch.Tensor, kept: Sequence[tuple[torch.Tensor, torch.Tensor]], prompts: Batch) -> None:
        """Write the keys and values (N, G, D) of packed prompts to the beginnings of some slots (n,)."""
        lengths = prompts.cu_seqlens.diff().to(torch.int64)
        row = torch.repeat_interleave(slots, lengths)
        for (key, value), keys, values in zip(kept, self.keys, self.values, strict=True):
            keys[row, prompts.positions], values[row, prompts.positions] = key, value
        self.lengths[slots] = lengths

    def reorder(self, rows: torch.Tensor) -> None:
        """Give each slot what the slot `rows` (B,) names holds."""
        for one in (*self.keys, *self.values, self.lengths):
            one.copy_(one.index_select(0, rows))
