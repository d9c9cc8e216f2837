"""Documents to packs: best-fit decreasing, no document cut, each one's columns inside its own borders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from operators.errors import InputError
from operators.schema import DOCUMENTS, PACKS, table


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Decide which documents share a pack: the longest first, each into the fullest pack that has room.

    Args:
        lengths: columns per document, each in 1..capacity.
        capacity: columns a pack holds.

    Returns:
        Document indices per pack, every document once, none split; packs in the order they were opened.

    Raises:
        ValueError: a document is empty or longer than the capacity.

    Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, section 3.1. Open
    packs are found by a bitmap over the room they have left, so a document costs O(capacity / 64).

    >>> best_fit([5, 3, 4, 2], capacity=7)
    [[0, 3], [2, 1]]
    """
    packs: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where a pack has exactly r columns left
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if not 1 <= length <= capacity:
            raise ValueError(f"document {index} has {length} columns; a pack holds 1 to {capacity}")
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, pack = capacity, len(packs)
            packs.append([])
        packs[pack].append(index)
        if room > length:
            by_room.setdefault(room - length, []).append(pack)
            rooms |= 1 << (room - length)
    return packs


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Packs the documents of one batch; the batch is the packing window."""

    capacity: int = 1024
    """Columns in a pack."""

    reads: ClassVar[pa.Schema] = DOCUMENTS
    writes: ClassVar[pa.Schema] = PACKS
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        """Check the number."""
        if self.capacity < 8:
            raise InputError("pack.capacity must be at least 8 columns")

    def fits(self, document: pa.Table) -> pa.ChunkedArray:
        """Return, per document, whether it fits into a pack."""
        return pa.compute.less_equal(document["num_columns"], self.capacity)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the packs; whatever order the documents come in, the packs are the same.

        Raises:
            ValueError: a document is longer than a pack.
        """
        documents = sorted(batch.to_pylist(), key=lambda document: document["document_id"])
        lengths = [document["num_columns"] for document in documents]
        packs = [[documents[i] for i in chosen] for chosen in best_fit(lengths, self.capacity)]
        # Packs are named after their first document: a name that says where to look.
        return table([self._pack(chosen) for chosen in packs], PACKS)

    @staticmethod
    def _pack(documents: list[dict[str, Any]]) -> dict[str, Any]:
        starts = [0]
        for document in documents:
            starts.append(starts[-1] + document["num_columns"])
        placed = list(zip(starts, documents, strict=False))
        return {
            "pack_id": documents[0]["document_id"],
            "num_columns": starts[-1],
            "cu_seqlens": starts,
            "documents": [
                {name: d[name] for name in ("document_id", "conversation_id", "task", "start_frame", "num_frames")}
                for d in documents
            ],
            "segments": [
                {**segment, "start_column": start + segment["start_column"]}
                for start, document in placed
                for segment in document["segments"]
            ],
            "text_tokens": [token for document in documents for token in document["text_tokens"]],
            "codes": b"".join(document["codes"] for document in documents),
            "loss_spans": [
                {
                    **span,
                    "start_column": start + span["start_column"],
                    "end_column": start + span["end_column"],
                }
                for start, document in placed
                for span in document["loss_spans"]
            ],
        }
