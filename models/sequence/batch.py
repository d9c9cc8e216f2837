"""Packs to tensors: the token grid is built here, together with a batch.

A batch has no batch dimension: the columns of all its documents are concatenated, and `cu_seqlens` holds their borders.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from models.codecs.codec import unpack_codes
from models.codecs.pcm import FRAMES_PER_COLUMN
from models.sequence.documents import AUDIO, TEXT, Codes, GridSpec, PackedDocuments, SegmentFeatures
from models.sequence.tokenizer import ByteTokenizer


@dataclass(frozen=True)
class Batch:
    """Columns of one or more packs, and the cells that are predicted."""

    text: torch.Tensor  # (N,) text cell of every column, 0 where there is none
    audio: torch.Tensor  # (A, S) audio cells of the columns that have any; pad is the layout's vocab_size
    audio_columns: torch.Tensor  # (A,) which columns those are
    positions: torch.Tensor  # (N,) from 0 in every document
    cu_seqlens: torch.Tensor  # (documents + 1,) int32, from 0 to N
    max_seqlen: int
    text_from: torch.Tensor  # (Q,) column before each predicted text cell
    text_targets: torch.Tensor  # (Q,)
    text_weights: torch.Tensor  # (Q,) float32
    text_pads: torch.Tensor  # which of them only say that audio goes on
    text_says: torch.Tensor  # which of them say more
    audio_from: torch.Tensor  # (P,) column before each predicted audio column
    audio_targets: torch.Tensor  # (P, S); pad is the layout's vocab_size and counts for nothing
    audio_weights: torch.Tensor  # (P,) float32, of each cell
    talker_spans: torch.Tensor  # (T, 3): talker by order of arrival, start column, end column, of audio in prompts
    boundaries: tuple[int, ...]  # cu_seqlens as plain integers
    prompts: tuple[int, ...]  # per document, columns before the first that is predicted; all where none is
    num_frames: int = 0  # of audio, in all documents
    features: torch.Tensor | None = None  # (frames, layers x width) of an encoder, in place of audio cells (A, 0)
    feature_scales: torch.Tensor | None = None  # (segments, layers x width) float32, by which int8 is multiplied
    feature_columns: tuple[int, ...] = ()  # of each audio segment, whose features are that many columns

    @property
    def num_pads(self) -> int:
        """Predicted text cells that only say that audio goes on."""
        return len(self.text_pads)

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """Return the batch with a function applied to every tensor."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        changed: dict[str, Any] = {name: change(v) for name, v in values if isinstance(v, torch.Tensor)}
        return replace(self, **changed)

    def unmasked(self) -> "Batch":
        """Return the batch as one document: what packing without a document mask would train on."""
        number = len(self.text)
        whole = torch.tensor([0, number], dtype=torch.int32, device=self.cu_seqlens.device)
        positions = torch.arange(number, device=self.positions.device)
        return replace(
            self, cu_seqlens=whole, boundaries=(0, number), max_seqlen=number, positions=positions, prompts=(1,)
        )

    def with_tag_weight(self, weight: float) -> "Batch":
        """Return the batch with the loss weights of speaker tags multiplied by a factor."""
        is_tag = (self.text_targets >= ByteTokenizer.FIRST_SPEAKER) & (self.text_targets < ByteTokenizer.FIRST_TEXT)
        return replace(self, text_weights=torch.where(is_tag, self.text_weights * weight, self.text_weights))

    def with_pad_weight(self, weight: float) -> "Batch":
        """Return the batch with the loss weights of text cells that only say that audio goes on, times a factor."""
        is_pad = self.text_targets == ByteTokenizer.PAD
        return replace(self, text_weights=torch.where(is_pad, self.text_weights * weight, self.text_weights))

    def with_given(self, given: torch.Tensor) -> "Batch":
        """Return prompts without targets, each followed by columns of audio: (documents, C, S) cells."""
        number, columns, _ = given.shape
        if not columns:
            return self
        device, lengths = self.text.device, self.cu_seqlens.diff().to(torch.int64)
        of_column = torch.repeat_interleave(torch.arange(number, device=device), lengths)
        cu_seqlens = self.cu_seqlens + columns * torch.arange(number + 1, device=device, dtype=torch.int32)
        text = self.text.new_zeros(int(cu_seqlens[-1]))
        moved = torch.arange(len(self.text), device=device) + columns * of_column
        text[moved] = self.text
        added = cu_seqlens[1:, None].to(torch.int64) - columns + torch.arange(columns, device=device)
        audio_columns, order = torch.cat([moved[self.audio_columns], added.flatten()]).sort()
        starts = torch.repeat_interleave(cu_seqlens[:-1].to(torch.int64), lengths + columns)
        return replace(
            self,
            text=text,
            audio=torch.cat([self.audio, given.flatten(0, 1)])[order],
            audio_columns=audio_columns,
            positions=torch.arange(len(text), device=device) - starts,
            cu_seqlens=cu_seqlens,
            boundaries=tuple(cu_seqlens.tolist()),
            max_seqlen=self.max_seqlen + columns,
            prompts=tuple(length + columns for length in self.prompts),
        )

    def without_columns(self, dropped: torch.Tensor) -> "Batch":
        """Return the batch without some columns of audio; what is behind them in their documents moves up.

        Positions, borders and predicted cells move along, so that a document stays what it is alone. Features are left
        out: they are of all of the audio.

        Args:
            dropped: (D,) columns without text, of which nothing is predicted.

        Raises:
            ValueError: one of them holds text or is predicted.
        """
        kept = torch.ones_like(self.text, dtype=torch.bool)
        kept[dropped] = False
        before = F.pad(kept.cumsum(0), (1, 0))  # (N + 1,) columns left of each border
        starts = self.cu_seqlens[:-1].to(torch.int64)
        ends = before[starts + torch.tensor(self.prompts).to(starts.device, non_blocking=True)]
        cu_seqlens = before[self.cu_seqlens.to(torch.int64)]
        predicted = kept[self.text_from + 1].all() & kept[self.audio_from + 1].all()
        is_sound = predicted & (self.text[dropped] == ByteTokenizer.PAD).all()
        # All that the host needs to know, in one transfer.
        sound, *numbers = torch.cat([is_sound[None].to(torch.int64), cu_seqlens, ends - cu_seqlens[:-1]]).tolist()
        if not sound:
            raise ValueError(
                "a column of audio that holds text, or of which something is predicted, cannot be left out"
            )
        boundaries, prompts = tuple(numbers[: len(cu_seqlens)]), tuple(numbers[len(cu_seqlens) :])
        lengths, heard = cu_seqlens.diff(), kept[self.audio_columns]
        first = torch.repeat_interleave(cu_seqlens[:-1], lengths, output_size=boundaries[-1])
        spans = self.talker_spans.clone()
        spans[:, 1:] = before[spans[:, 1:]]
        return replace(
            self,
            text=self.text[kept],
            audio=self.audio[heard],
            audio_columns=before[self.audio_columns[heard]],
            positions=torch.arange(boundaries[-1], device=first.device) - first,
            cu_seqlens=cu_seqlens.to(torch.int32),
            max_seqlen=max((end - start for start, end in itertools.pairwise(boundaries)), default=0),
            text_from=before[self.text_from + 1] - 1,
            audio_from=before[self.audio_from + 1] - 1,
            talker_spans=spans,
            boundaries=boundaries,
            prompts=prompts,
            features=None,
            feature_scales=None,
            feature_columns=(),
        )

    def padded(self, length: int) -> "Batch":
        """Return the batch with columns of `<pad>` appended, up to a length, as a document that counts for nothing."""
        added, number = length - len(self.text), len(self.text)
        if added <= 0:
            return self
        return replace(
            self,
            text=F.pad(self.text, (0, added)),
            positions=torch.cat([self.positions, torch.arange(added, device=self.positions.device)]),
            cu_seqlens=F.pad(self.cu_seqlens, (0, 1), value=length),
            boundaries=(*self.boundaries, length),
            max_seqlen=max(self.max_seqlen, length - number),
            prompts=(*self.prompts, added),
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass
class _Gathered:
    """The ragged streams of some packs, concatenated, with columns counted over all of them."""

    text: NDArray[np.int64]  # (N,)
    audio: list[NDArray[np.int32]]  # (columns, S) each
    audio_columns: list[NDArray[np.int64]]
    ends: list[NDArray[np.int64]]  # of documents
    spans: dict[int, list[tuple[int, int, float]]]  # by kind: start column, end column, weight
    talkers: list[NDArray[np.int32]]  # (spans, 3) each
    num_frames: int = 0
    features: list[SegmentFeatures] = field(default_factory=list)


def collate(
    packs: Sequence[PackedDocuments], grid: GridSpec, augmented: Sequence[Callable[[Codes], Codes]] | None = None
) -> Batch:
    """Build one batch of packs, concatenated.

    Args:
        packs: in order.
        grid: what their integers mean.
        augmented: per pack, a function of codes (K, T) applied to audio of which nothing is predicted.

    Raises:
        ValueError: a code or a span is outside what the grid or the pack can hold.
    """
    return _assemble(_gather(packs, grid, augmented), grid)


def _gather(
    packs: Sequence[PackedDocuments], grid: GridSpec, augmented: Sequence[Callable[[Codes], Codes]] | None
) -> _Gathered:
    """Concatenate the streams of packs; put codes on columns."""
    found = _Gathered(
        text=np.zeros(sum(pack.num_columns for pack in packs), dtype=np.int64),
        audio=[],
        audio_columns=[],
        ends=[np.zeros(1, dtype=np.int64)],
        spans={TEXT: [], AUDIO: []},
        talkers=[np.zeros((0, 3), np.int32)],
    )
    base = 0
    for number, pack in enumerate(packs):
        _gather_streams(found, pack, base, grid, augmented[number] if augmented is not None else None)
        for (kind, start, end), weight in zip(pack.loss_spans.tolist(), pack.loss_weights.tolist(), strict=True):
            found.spans[kind].append((base + start, base + end, weight))
        found.talkers.append(pack.talker_spans + np.array([0, base, base], np.int32))
        found.ends.append(base + pack.cu_seqlens[1:].astype(np.int64))
        base += pack.num_columns
    return found


def _gather_streams(
    found: _Gathered, pack: PackedDocuments, base: int, grid: GridSpec, change: Callable[[Codes], Codes] | None
) -> None:
    """Append the text and audio of one pack, whose first column is `base`."""
    is_text = pack.segments[:, 0] == TEXT
    used = [int(pack.segments[chosen, 2].sum()) for chosen in (is_text, ~is_text)]
    codes = None if pack.features is not None else unpack_codes(pack.codes, grid.num_codebooks, grid.bits)
    if used != [len(pack.text_tokens), used[1] if codes is None else codes.shape[1]]:
        raise ValueError(f"pack {pack.pack_id}: its segments do not use up its streams")
    if pack.features is not None:
        _check_features(pack, pack.features, pack.segments[~is_text, 2].tolist())
        found.features += pack.features
    token = frame = 0
    for kind, start, length in pack.segments.tolist():
        if kind == TEXT:
            found.text[base + start : base + start + length] = pack.text_tokens[token : token + length]
            token += length
            continue
        if codes is None:
            found.audio.append(np.zeros((length, 0), np.int32))
            found.audio_columns.append(np.arange(base + start, base + start + length))
            frame += length
            continue
        segment = codes[:, frame : frame + length].astype(np.int32)
        if segment.size and int(segment.max()) >= grid.codebook_size:
            raise ValueError(
                f"pack {pack.pack_id}: a code is {int(segment.max())}, but the codebooks have "
                f"{grid.codebook_size} entries"
            )
        if change is not None and not _is_predicted(pack, start, grid.layout.num_columns(length)):
            segment = change(segment)
        columns = grid.layout.to_grid(segment)  # (S, C)
        found.audio.append(columns.T)
        found.audio_columns.append(np.arange(base + start, base + start + columns.shape[1]))
        frame += length
    found.num_frames += frame


def _check_features(pack: PackedDocuments, features: Sequence[SegmentFeatures], columns: list[int]) -> None:
    """Check that there are as many features as audio segments: as many frames a column, and as many behind each.

    Raises:
        ValueError: there are not.
    """
    behind = {len(one.values) - FRAMES_PER_COLUMN * length for one, length in zip(features, columns, strict=False)}
    if len(features) != len(columns) or len(behind) > 1 or min(behind, default=0) < 0:
        raise ValueError(f"pack {pack.pack_id}: its segments do not use up its features")


def _features(found: Sequence[SegmentFeatures], columns: Sequence[int]) -> dict[str, Any]:
    """Return the fields of a batch that hold features: their one copy on the way from the memory map."""
    if not found:
        return {}
    scales = np.stack([one.scales for one in found])
    return {
        "features": torch.from_numpy(np.concatenate([one.values for one in found])),
        "feature_scales": torch.from_numpy(scales) if scales.shape[1] else None,
        "feature_columns": tuple(columns),
    }


def _assemble(found: _Gathered, grid: GridSpec) -> Batch:
    """Make the tensors of a batch: cells, positions and targets."""
    text, num_columns = found.text, len(found.text)
    num_streams = found.audio[0].shape[1] if found.audio else grid.layout.num_streams
    audio = np.concatenate([np.zeros((0, num_streams), dtype=np.int32), *found.audio])
    columns = np.concatenate([np.zeros(0, dtype=np.int64), *found.audio_columns])
    if audio.size and int(audio.max()) > grid.layout.vocab_size:
        raise ValueError(
            f"an audio cell holds {int(audio.max())}, but the layout has ids below {grid.layout.vocab_size}"
        )
    cu_seqlens = np.concatenate(found.ends)
    lengths = np.diff(cu_seqlens)
    starts = np.repeat(cu_seqlens[:-1], lengths)
    text_at, text_weights = _targets(found.spans[TEXT])
    audio_at, audio_weights = _targets(found.spans[AUDIO])
    row_of = np.full(num_columns, -1, dtype=np.int64)
    row_of[columns] = np.arange(len(columns))
    wanted = row_of[audio_at]
    if (wanted < 0).any():
        raise ValueError("an audio loss span covers a column without audio")
    for at in (text_at, audio_at):
        if at.size and (starts[at] == at).any():
            raise ValueError("a loss span covers a document's first column, which has no column before it")
    return Batch(
        text=torch.from_numpy(text),
        audio=torch.from_numpy(audio.astype(np.int64)),
        audio_columns=torch.from_numpy(columns),
        positions=torch.from_numpy(np.arange(num_columns) - starts),
        cu_seqlens=torch.from_numpy(cu_seqlens.astype(np.int32)),
        max_seqlen=int(lengths.max(initial=0)),
        text_from=torch.from_numpy(text_at - 1),
        text_targets=torch.from_numpy(text[text_at]),
        text_weights=torch.from_numpy(text_weights),
        text_pads=torch.from_numpy(np.flatnonzero(text[text_at] == ByteTokenizer.PAD)),
        text_says=torch.from_numpy(np.flatnonzero(text[text_at] != ByteTokenizer.PAD)),
        audio_from=torch.from_numpy(audio_at - 1),
        audio_targets=torch.from_numpy(audio[wanted].astype(np.int64)),
        audio_weights=torch.from_numpy(audio_weights),
        talker_spans=torch.from_numpy(np.concatenate(found.talkers).astype(np.int64)),
        boundaries=tuple(cu_seqlens.tolist()),
        prompts=_prompts(cu_seqlens, np.sort(np.concatenate([text_at, audio_at]))),
        num_frames=found.num_frames,
        **_features(found.features, [len(columns) for columns in found.audio_columns]),
    )


def _is_predicted(pack: PackedDocuments, start: int, columns: int) -> bool:
    spans = pack.loss_spans[pack.loss_spans[:, 0] == AUDIO]
    return bool(((spans[:, 1] < start + columns) & (spans[:, 2] > start)).any())


def _prompts(cu_seqlens: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[int, ...]:
    first = np.append(predicted, cu_seqlens[-1])[np.searchsorted(predicted, cu_seqlens[:-1])]
    prompts: list[int] = (np.minimum(first, cu_seqlens[1:]) - cu_seqlens[:-1]).tolist()
    return tuple(prompts)


def _targets(spans: Sequence[tuple[int, int, float]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    columns = [np.arange(start, end, dtype=np.int64) for start, end, _ in spans]
    weights = [np.full(end - start, weight, dtype=np.float32) for start, end, weight in spans]
    if not columns:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    return np.concatenate(columns), np.concatenate(weights)
