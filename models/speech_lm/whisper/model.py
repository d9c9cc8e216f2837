"""Whisper's decoder on packed documents: text attends to its own past, and across to its own document's sound.

Documents are those of every other model, prompts with columns of audio among text. Here the columns of audio are no
part of the sequence: the decoder reads the text alone, behind Whisper's own first tokens, and hears the encoder's
frames by attention across. States of audio columns are zero; nothing is predicted from them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.config.options import Backend
from models.config.shape import Shape, Vocabulary
from models.sequence.batch import Batch
from models.sequence.documents import TEXT, PackedDocuments
from models.speech_lm.attention.across import Across
from models.speech_lm.attention.packed import PackedAttention
from models.speech_lm.diarization import of_frames
from models.speech_lm.hearing.load import STACK
from models.speech_lm.model import Embedded, SpeechLM
from models.speech_lm.transformer import Attend
from models.speech_lm.whisper.blocks import LayerNorm, WhisperBlock


@dataclass(frozen=True)
class TextOnly:
    """A batch without its columns of audio, and with the model's prefix in front of each document.

    Made on the device, from sizes that the host knows: no step waits for it.
    """

    ids: torch.Tensor
    """(M,) text tokens."""
    positions: torch.Tensor
    """(M,) within the document."""
    cu_seqlens: torch.Tensor
    """int32 (documents + 1,), from 0 to M."""
    cu_frames: torch.Tensor
    """int32 (documents + 1,), of the encoder's frames."""
    columns: torch.Tensor
    """(T,) columns of the batch that hold text alone."""
    places: torch.Tensor
    """(T,) of those columns among the M."""

    @classmethod
    def of(cls, batch: Batch, prefix: tuple[int, ...], tail: int = 0) -> "TextOnly":
        """Return the text of a batch, each document behind a prefix of tokens.

        Args:
            batch: of any documents.
            prefix: tokens.
            tail: frames behind those of each stretch of audio.
        """
        device, number = batch.text.device, len(batch.text)
        documents, added = len(batch.boundaries) - 1, len(prefix)
        is_audio = torch.zeros(number, dtype=torch.int64, device=device).index_fill(0, batch.audio_columns, 1)
        columns = is_audio.argsort(stable=True)[: number - len(batch.audio_columns)]
        ends = batch.cu_seqlens.to(torch.int64)
        audio_before = F.pad(is_audio.cumsum(0), (1, 0))[ends]  # columns of audio before each border
        cu_seqlens = ends - audio_before + added * torch.arange(documents + 1, device=device)
        document = torch.searchsorted(ends[1:], columns, right=True)
        places = torch.arange(len(columns), device=device) + added * (document + 1)
        ids = batch.text.new_zeros(len(columns) + added * documents)
        ids[places] = batch.text[columns]
        heads = cu_seqlens[:-1, None] + torch.arange(added, device=device)
        ids[heads] = torch.tensor(prefix, dtype=ids.dtype).to(device, non_blocking=True)
        at = torch.arange(len(ids), device=device)
        starts = cu_seqlens[torch.searchsorted(cu_seqlens[1:], at, right=True)]
        begins = is_audio * (1 - F.pad(is_audio, (1, -1)))  # a document's first column is text
        stretches_before = F.pad(begins.cumsum(0), (1, 0))[ends]
        cu_frames = (audio_before * STACK + stretches_before * tail).to(torch.int32)
        return cls(ids, at - starts, cu_seqlens.to(torch.int32), cu_frames, columns, places)


@dataclass(frozen=True)
class Read:
    """What a decoder keeps of prompts that it has read."""

    text: TextOnly
    keys: list[tuple[torch.Tensor, torch.Tensor]]
    """Per layer, keys and values (M, H, D) of the text."""
    heard: list[tuple[torch.Tensor, torch.Tensor]]
    """Per layer, keys and values (F, H, D) of the frames."""


class WhisperLM(SpeechLM):
    """Predicts text of packed documents by Whisper's decoder."""

    def __init__(self, shape: Shape, vocabulary: Vocabulary) -> None:
        """Build the modules; weights are drawn by `initialize`, or those of a Whisper folder are loaded."""
        super().__init__(shape, vocabulary)
        self.position_embedding = nn.Embedding(shape.num_positions, shape.dim)
        if shape.lora_rank:
            self.position_embedding.requires_grad_(False)

    def _make_blocks(self, shape: Shape) -> nn.ModuleList:
        return nn.ModuleList(WhisperBlock(shape) for _ in range(shape.num_layers))

    def _make_norm(self, shape: Shape) -> nn.LayerNorm:
        return LayerNorm(shape.dim)

    def _make_audio_norm(self, shape: Shape) -> nn.Identity:  # noqa: ARG002
        return nn.Identity()  # frames are no columns

    def columns_of(self, prompt: PackedDocuments) -> int:
        """Return the tokens that a prompt of one document is to the decoder."""
        segments = prompt.segments
        return int(segments[segments[:, 0] == TEXT, 2].sum()) + len(self.shape.prefix)

    def frames_of(self, prompt: PackedDocuments) -> int:
        """Return the encoder's frames that a prompt of one document is heard by."""
        assert self.front_end is not None
        columns = prompt.segments[prompt.segments[:, 0] != TEXT, 2]
        return int(columns.sum()) * STACK + len(columns) * self.front_end.hearing.tail_frames

    def room_for_text(self, prompts: Sequence[PackedDocuments]) -> int:
        """Return how many tokens can follow the longest of some prompts.

        Raises:
            ValueError: none: the prompt takes all of the model's positions.
        """
        longest = max(map(self.columns_of, prompts))
        if longest >= self.shape.num_positions:
            raise ValueError(
                f"a prompt is {longest} tokens long, but the decoder has {self.shape.num_positions} in all"
            )
        return self.shape.num_positions - longest

    def embed_text(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return vectors (M, d) of text tokens (M,) at positions (M,) of their documents."""
        places: torch.Tensor = self.position_embedding(positions)
        return self._embed_text(ids) + places

    def check(self, batch: Batch) -> None:
        """Check, on the host, that tokens are in the vocabulary and documents no longer than the positions.

        Raises:
            ValueError: one is not.
        """
        super().check(batch)
        audio = torch.bincount(
            torch.searchsorted(batch.cu_seqlens[1:].to(torch.int64), batch.audio_columns, right=True),
            minlength=len(batch.boundaries) - 1,
        )
        longest = int((batch.cu_seqlens.diff() - audio).max()) + len(self.shape.prefix)
        if longest > self.shape.num_positions:
            raise ValueError(
                f"a document is {longest} tokens long, but the decoder has {self.shape.num_positions} positions; "
                "lower --compose.window-s"
            )

    def _frames(self, batch: Batch) -> torch.Tensor:
        """Return the encoder's frames (F, d) of a batch, told apart by who speaks in them where the model is."""
        assert self.front_end is not None
        classes = self._classes(batch)
        if batch.features is not None:
            lengths = list(batch.feature_columns)
            frames = self.front_end.stored(batch.features, batch.feature_scales, lengths)
        else:
            frames, lengths = self.front_end.hear(batch.audio, batch.audio_columns, classes)
        if self.told is None or classes is None or not lengths:
            return frames
        tail = self.front_end.hearing.tail_frames
        told: torch.Tensor = self.told(frames, torch.cat(of_frames(classes, lengths, STACK, tail)))
        return told

    def _embed_batch(self, batch: Batch) -> Embedded:
        """Return the batch with the frames of its sound (F, d)."""
        return Embedded(self._frames(batch), batch)

    def _run(
        self, embedded: Embedded, backend: Backend, keep: bool, spread: Callable[[Attend], Attend] | None = None
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        if spread is not None:
            raise ValueError("Whisper's decoder cannot be split over ranks by columns: --train.context-size 1")
        hidden, _ = self._read(embedded, backend, keep)
        return hidden, [], hidden

    def _read(self, embedded: Embedded, backend: Backend, keep: bool) -> tuple[torch.Tensor, Read]:
        """Return states (N, d) of all columns, and what was kept."""
        frames, batch = embedded.x, embedded.batch
        assert self.front_end is not None
        tail = self.front_end.hearing.tail_frames
        text = TextOnly.of(batch, self.shape.prefix, tail)
        x = self.embed_text(text.ids, text.positions)
        if torch.is_autocast_enabled(x.device.type):
            x, frames = (one.to(torch.get_autocast_dtype(x.device.type)) for one in (x, frames))
        # On a GPU the kernels take bounds of lengths, which the host knows without asking; loops need the lengths.
        on_host = backend in ("loop", "mask", "flex")
        boundaries = tuple(text.cu_seqlens.tolist()) if on_host else ()
        longest = batch.max_seqlen + len(self.shape.prefix)
        attend = PackedAttention(text.cu_seqlens, boundaries, longest, backend)
        across = Across(text.cu_seqlens, text.cu_frames, (longest, batch.max_seqlen * (STACK + tail)), backend)
        read = Read(text, [], [])
        for block in self.blocks:
            if self.recompute != "none" and torch.is_grad_enabled():
                x, *pairs = checkpoint(block, x, frames, attend, across, use_reentrant=False)
            else:
                x, *pairs = block(x, frames, attend, across)
            if keep:
                read.keys.append((pairs[0], pairs[1]))
                read.heard.append((pairs[2], pairs[3]))
        made: torch.Tensor = self.norm(x)
        out = made.new_zeros((len(batch.text), made.shape[1])).index_copy(0, text.columns, made[text.places])
        return out, read

    @torch.no_grad()
    def prefill(self, batch: Batch, backend: Backend = "loop") -> tuple[torch.Tensor, Read, Batch]:
        """Read prompts packed in one batch; return the last state of each (B, d), what is kept, and the batch."""
        hidden, read = self._read(self._embed_batch(batch), backend, keep=True)
        return hidden[batch.cu_seqlens[1:].to(torch.int64) - 1], read, batch
