"""Decoding by Whisper's decoder: what each slot heard is kept beside its text, and a step attends to both."""

from dataclasses import dataclass

import torch

from models.config.shape import Shape
from models.sequence.batch import Batch
from models.speech_lm.decode.attention import attend, bias_of
from models.speech_lm.whisper.blocks import WhisperBlock
from models.speech_lm.whisper.model import Read, WhisperLM


@dataclass(frozen=True)
class HeardCache:
    """Keys and values of each slot's text and of its frames of sound; no tensor is ever replaced."""

    keys: tuple[torch.Tensor, ...]
    """Per layer (B, L, H, D)."""
    values: tuple[torch.Tensor, ...]
    """Per layer (B, L, H, D)."""
    heard_keys: tuple[torch.Tensor, ...]
    """Per layer (B, F, H, D)."""
    heard_values: tuple[torch.Tensor, ...]
    """Per layer (B, F, H, D)."""
    lengths: torch.Tensor
    """(B,) tokens in use."""
    frames: torch.Tensor
    """(B,) frames in use."""
    rows: torch.Tensor
    """(B,) 0, 1, 2 ..."""

    @classmethod
    def allocate(
        cls, shape: Shape, slots: int, capacity: int, frames: int, dtype: torch.dtype, device: torch.device
    ) -> "HeardCache":
        """Return an empty cache.

        Args:
            shape: of the model.
            slots: sequences (B).
            capacity: tokens of each (L), of which there are no more than the model has positions.
            frames: of each (F).
            dtype: of keys and values.
            device: where it is.
        """

        def empty(length: int) -> tuple[torch.Tensor, ...]:
            size = (slots, length, shape.num_heads, shape.head_dim)
            return tuple(torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.num_layers))

        capacity = min(capacity, shape.num_positions)
        rows = torch.arange(slots, device=device)
        return cls(
            empty(capacity),
            empty(capacity),
            empty(frames),
            empty(frames),
            torch.zeros_like(rows),
            torch.zeros_like(rows),
            rows,
        )

    @property
    def capacity(self) -> int:
        """Tokens of each slot (L)."""
        return self.keys[0].shape[1]

    @property
    def most_frames(self) -> int:
        """Frames of each slot (F)."""
        return self.heard_keys[0].shape[1]

    def insert(self, slots: torch.Tensor, kept: Read, prompts: Batch) -> None:  # noqa: ARG002
        """Write what was read of packed prompts to the beginnings of some slots (n,)."""
        lengths, frames = kept.text.cu_seqlens.diff().to(torch.int64), kept.text.cu_frames.diff().to(torch.int64)
        number = len(kept.heard[0][0])
        row = torch.repeat_interleave(slots, lengths, output_size=len(kept.text.ids))
        row_of_frame = torch.repeat_interleave(slots, frames, output_size=number)
        first = torch.repeat_interleave(kept.text.cu_frames[:-1].to(torch.int64), frames, output_size=number)
        place = torch.arange(number, device=first.device) - first
        for layer, (key, value) in enumerate(kept.keys):
            self.keys[layer][row, kept.text.positions] = key
            self.values[layer][row, kept.text.positions] = value
            self.heard_keys[layer][row_of_frame, place] = kept.heard[layer][0]
            self.heard_values[layer][row_of_frame, place] = kept.heard[layer][1]
        self.lengths[slots], self.frames[slots] = lengths, frames

    def reorder(self, rows: torch.Tensor) -> None:
        """Give each slot what the slot `rows` (B,) names holds."""
        for one in (*self.keys, *self.values, *self.heard_keys, *self.heard_values, self.lengths, self.frames):
            one.copy_(one.index_select(0, rows))


def append_token(model: WhisperLM, cache: HeardCache, text: torch.Tensor, window: int) -> torch.Tensor:
    """Append one token to every slot; return its states (B, d). The cache's lengths are left to the caller.

    Args:
        model: with Whisper's decoder.
        cache: text and sound so far.
        text: (B,) tokens.
        window: tokens, from the first, that are attended to: more than any slot in use has.
    """
    at = cache.lengths.clamp(max=cache.capacity - 1)  # of slots that are not in use, whatever it is
    x = model.embed_text(text, at)
    bias = bias_of(at, window, x.dtype)
    heard_bias = bias_of(cache.frames - 1, cache.most_frames, x.dtype)
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, WhisperBlock)
        q, k, v = block.begin(x)
        keys, values = cache.keys[layer], cache.values[layer]
        keys[cache.rows, at], values[cache.rows, at] = k, v
        x, asked = block.ask(x, attend(q, keys[:, :window], values[:, :window], bias, folded=False))
        heard = attend(asked, cache.heard_keys[layer], cache.heard_values[layer], heard_bias, folded=False)
        x = block.finish(x, heard.where((cache.frames > 0)[:, None, None], 0.0))
    out: torch.Tensor = model.norm(x)
    return out
