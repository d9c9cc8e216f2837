"""Packs as they are stored in shards, and what their integers mean. Free of torch; `batch.py` makes tensors of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.layouts.layout import Layout

TEXT, AUDIO = 0, 1
Codes = NDArray[np.int32]
REFERENCE = np.dtype([("partition", "<i4"), ("row", "<i4"), ("start_frame", "<i4")])
"""What a pack holds of each audio segment in place of codes, where its audio is features that were made before."""


@dataclass(frozen=True)
class SegmentFeatures:
    """An encoder's features of one audio segment, views into a memory map."""

    values: NDArray[Any]  # (frames of the encoder, layers x width): float32, float16 or int8
    scales: NDArray[np.float32]  # (layers x width,) by which int8 is multiplied; else (0,)


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
    features: tuple[SegmentFeatures, ...] | None = None
    """Of each audio segment in order, in place of codes, where they were made before"""


@dataclass(frozen=True)
class GridSpec:
    """What the integers in a shard mean: how to build the grid from them."""

    layout: Layout
    num_codebooks: int
    codebook_size: int
    """Values of a stored code; a hidden code has this value."""
    bits: int
