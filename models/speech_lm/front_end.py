"""A continuous front end: a pretrained speech encoder, and a projector from its frames to columns.

The encoder (Whisper, WavLM, HuBERT, wav2vec 2.0; a folder or a hub id) runs in the training step, frozen or with
low-rank updates, over all stretches of audio of a batch at once. Every stretch is encoded as if it were alone, so that
packing changes nothing (`hearing/`).
Sources: Ma et al. 2024, "SLAM-ASR", arXiv:2402.08846, section 3 (stacked frames and two linear layers); Saon et al.
2025, "Granite-speech", arXiv:2505.08699, section 3.2 (queries that attend to windows of frames); Yang et al. 2021,
"SUPERB", arXiv:2105.01051, section 3 (a learned weighted sum of an encoder's layers).
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.codecs.pcm import ZERO
from models.config.shape import Shape
from models.speech_lm.diarization import of_frames
from models.speech_lm.hearing.compress import stretches
from models.speech_lm.hearing.encoder import Hearing
from models.speech_lm.hearing.load import STACK

WINDOW_COLUMNS = 4
"""Columns whose queries attend to the frames of all four."""


class Stacked(nn.Module):
    """Frames side by side, four or more, then two linear layers (SLAM-ASR)."""

    def __init__(self, width: int, dim: int, stack: int = STACK) -> None:
        """Build the layers."""
        super().__init__()
        self.columns = stack // STACK
        self.inner = nn.Linear(stack * width, 2 * dim, bias=False)
        self.outer = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, frames: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Return columns (T, d) of frames of stretches of so many columns each, of four frames; zeros fill the last."""
        if self.columns > 1:
            there, total = _places(lengths, self.columns)
            padded = frames.new_zeros(total, STACK * frames.shape[1])
            rows = frames.reshape(-1, padded.shape[1])
            frames = padded.index_copy(0, there.to(frames.device, non_blocking=True), rows)
        out: torch.Tensor = self.outer(F.relu(self.inner(frames.reshape(-1, self.inner.in_features))))
        return out


def _places(lengths: Sequence[int], multiple: int) -> tuple[torch.Tensor, int]:
    """Return where the rows of stretches are (T,) when each begins at a multiple, and how many rows there are then.

    >>> places, total = _places([3, 1], 2)
    >>> places.tolist(), total
    ([0, 1, 2, 4], 6)
    """
    sizes = [-(-length // multiple) * multiple for length in lengths]
    bases = itertools.accumulate(sizes, initial=0)
    places = [base + row for base, length in zip(bases, lengths, strict=False) for row in range(length)]
    return torch.tensor(places, dtype=torch.int64), sum(sizes)


class Queries(nn.Module):
    """Learned queries, one a column that is left, that attend to the frames of a window of columns (Granite-speech)."""

    def __init__(self, width: int, dim: int, stack: int = STACK, layers: int = 2) -> None:
        """Build the layers."""
        super().__init__()
        self.columns = stack // STACK
        self.heads = max(1, dim // 64)
        self.queries = nn.Parameter(torch.randn(WINDOW_COLUMNS // self.columns, dim) * 0.02)
        self.place = nn.Parameter(torch.randn(WINDOW_COLUMNS * STACK, dim) * 0.02)
        self.into = nn.Linear(width, dim, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(dim),
                    "q": nn.Linear(dim, dim, bias=False),
                    "kv": nn.Linear(dim, 2 * dim, bias=False),
                    "out": nn.Linear(dim, dim, bias=False),
                    "ffn_norm": nn.LayerNorm(dim),
                    "up": nn.Linear(dim, 4 * dim, bias=False),
                    "down": nn.Linear(4 * dim, dim, bias=False),
                }
            )
            for _ in range(layers)
        )

    def forward(self, frames: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Return columns (T, d) of frames of stretches of so many columns each, of four frames; no window spans two."""
        span, width = WINDOW_COLUMNS * STACK, self.queries.shape[1]
        places, total = _places(lengths, WINDOW_COLUMNS)
        of_column = places.to(frames.device, non_blocking=True)
        padded = frames.new_zeros(total, STACK, width, dtype=self.into.weight.dtype)
        there = torch.zeros(len(padded), STACK, dtype=torch.bool, device=frames.device)
        there[of_column] = True
        heard = self.into(frames).view(-1, STACK, width)
        states = padded.to(heard.dtype).index_copy(0, of_column, heard).view(-1, span, width) + self.place
        seen = there.view(-1, 1, 1, span)
        x = self.queries.expand(len(states), -1, -1)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            k, v = layer["kv"](states).chunk(2, dim=-1)
            q = layer["q"](layer["norm"](x))
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(-2)
            x = x + layer["out"](attended)
            x = x + layer["down"](F.gelu(layer["up"](layer["ffn_norm"](x))))
        rows = x.flatten(0, 1)
        return rows[of_column] if self.columns == 1 else rows[of_column[of_column % self.columns == 0] // self.columns]


class FrontEnd(nn.Module):
    """Samples to columns: encoder, then projector."""

    def __init__(self, shape: Shape) -> None:
        """Load the encoder and build the projector.

        Raises:
            ValueError: the shape names no encoder, or one that cannot be used.
        """
        super().__init__()
        if shape.encoder is None:
            raise ValueError("the shape names no encoder")
        self.hearing = Hearing(
            shape.encoder,
            shape.encoder_rank,
            shape.encoder_layers,
            shape.encoder_window,
            shape.encoder_tail_s,
            is_told=shape.diarization == "encoder",
        )
        number = len(self.hearing.layers)
        self.mix = nn.Parameter(torch.ones(number)) if shape.encoder_mix == "sum" else None
        width = self.hearing.width * (1 if self.mix is not None else number)
        self.projector: Stacked | Queries | None = None
        if shape.decoder == "llama":
            self.projector = (Stacked if shape.projector == "mlp" else Queries)(width, shape.dim, shape.stack)
        elif width != shape.dim:
            raise ValueError(f"Whisper's decoder attends to frames of width {shape.dim}, not {width}")

    def forward(
        self, samples: torch.Tensor, columns: torch.Tensor, classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return columns (A, d); fewer where several are stacked to one.

        Args:
            samples: (A, 1280) codes of `models.codecs.pcm`.
            columns: (A,) their positions: adjacent columns belong to one stretch of audio.
            classes: (A, 4) what each is, where the encoder is told who speaks in them.
        """
        if not len(samples):
            assert self.projector is not None
            return next(self.projector.parameters()).sum() * samples.new_zeros((0, 1), dtype=torch.float32)
        return self.project(*self.hear(samples, columns, classes))

    def hear(
        self, samples: torch.Tensor, columns: torch.Tensor, classes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the encoder's frames (4 A, width), and the columns of each stretch; see `forward`.

        Behind those of each stretch there are as many more as the encoder hears silence. Where the encoder is told who
        speaks in its frames, it takes the classes of the columns (A, 4).
        """
        edges = list(stretches(columns)) if len(samples) else []
        lengths = [end - first for first, end in edges]
        sound = (samples.to(torch.float32) - ZERO) / 32768.0
        told = None
        if classes is not None and self.hearing.told:
            told = of_frames(classes, lengths, STACK, self.hearing.tail_frames)
        heard = self.hearing([sound[first:end].reshape(-1) for first, end in edges], classes=told)
        frames = torch.cat(heard) if heard else sound.new_zeros((0, len(self.hearing.layers), self.hearing.width))
        return self._mixed(frames), lengths

    def project(self, frames: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Return columns (A, d) of an encoder's frames; fewer where several are stacked to one.

        Args:
            frames: (4 A, width) of all stretches, one after the other.
            lengths: columns of each stretch.
        """
        assert self.projector is not None
        out: torch.Tensor = self.projector(frames, lengths)
        return out

    def _mixed(self, frames: torch.Tensor) -> torch.Tensor:
        """Put the layers of frames (F, layers, width) together: (F, width)."""
        if self.mix is None:
            return frames.flatten(1)
        return torch.einsum("l,nlw->nw", self.mix.softmax(0), frames.to(self.mix.dtype))

    def project_stored(self, values: torch.Tensor, scales: torch.Tensor | None, lengths: Sequence[int]) -> torch.Tensor:
        """Return columns (A, d) of stored features; see `stored`."""
        return self.project(self.stored(values, scales, lengths), lengths)

    def stored(self, values: torch.Tensor, scales: torch.Tensor | None, lengths: Sequence[int]) -> torch.Tensor:
        """Return frames (4 A, width) of features that were made before (`operators.tokenize.features`).

        Args:
            values: (4 A + tails, layers x width) of all stretches: float32, float16 or int8.
            scales: (stretches, layers x width) by which values are multiplied; None for 1.
            lengths: columns of each stretch.

        Raises:
            ValueError: they are of another encoder or other layers.
        """
        layers, width, tail = len(self.hearing.layers), self.hearing.width, self.hearing.tail_frames
        if values.shape[1] != layers * width or len(values) != STACK * sum(lengths) + tail * len(lengths):
            raise ValueError(
                f"features {tuple(values.shape)} are not {layers} layers of width {width}, {STACK} frames a column "
                f"and {tail} behind each stretch"
            )
        frames = values.to(torch.float32)
        if scales is not None:
            repeats = torch.tensor(lengths).to(scales.device, non_blocking=True) * STACK + tail
            frames = frames * scales.repeat_interleave(repeats, dim=0, output_size=len(values))
        return self._mixed(frames.view(-1, layers, width))
