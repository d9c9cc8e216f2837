"""Packs as they are stored in shards, and what their integers mean. Free of torch; `batch.py` makes tensors of them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.layouts.layout import Layout

TEXT, AUDIO = 0, 1
Codes = NDArray[np.int32]


@dataclass(frozen=True)
class PackedDocuments:
    """One training sequence as stored in a shard: ragged streams and spans, in columns of the pack."""

    pack_id: str
    num_columns: int
    cu_seqlens: NDArray[np.int32]  # (documents + 1,)
    segments: NDArray[np.int32]  # (segments, 3): kind, start column, length in tokens or frames
    text_tokens: NDArray[np.int32]  # (tokens,) of all text segments in order
    codes: bytes | memoryview  # of all audio segments in order, as models.codecs.codec.pack_codes writes them
    loss_spans: NDArray[np.int32]  # (spans, 3): kind, start column, end column
    loss_weights: NDArray[np.float32]  # (spans,)
    talker_spans: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    """(spans, 3): talker by order of arrival, start column, end column, of audio in prompts"""


@dataclass(frozen=True)
class GridSpec:
    """What the integers in a shard mean: how to build the grid from them."""

    layout: Layout
    num_codebooks: int
    codebook_size: int
    """Values of a stored code; a hidden code has this value."""
    bits: int
