"""Blocks of Whisper's decoder: attention to the text so far, attention across to frames of sound, and an MLP.

Source: Radford et al. 2022, "Whisper", arXiv:2212.04356, section 2.2; Vaswani et al. 2017, arXiv:1706.03762, section 3.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.config.shape import Shape
from models.speech_lm.transformer import Attend, linear

_EPSILON = 1e-5  # of all its norms


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose weights are kept in float32 and used in whatever its input is in."""

    def __init__(self, dim: int) -> None:
        """Make the weights of a width."""
        super().__init__(dim, eps=_EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return normalized states (..., d) of states (..., d)."""
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class WhisperBlock(nn.Module):
    """x + attention(norm(x)), then x + attention across to the sound, then x + mlp(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        """Make the matrices; keys have no bias in Whisper."""
        super().__init__()
        self.num_heads, width = shape.num_heads, shape.dim
        self.attention_norm = LayerNorm(width)
        self.qkv = linear(shape, width, 3 * width, bias=True)
        self.out = linear(shape, width, width, bias=True)
        self.across_norm = LayerNorm(width)
        self.across_q = linear(shape, width, width, bias=True)
        self.across_kv = linear(shape, width, 2 * width, bias=True)
        self.across_out = linear(shape, width, width, bias=True)
        self.ffn_norm = LayerNorm(width)
        self.up = linear(shape, width, shape.ffn_dim, bias=True)
        self.down = linear(shape, shape.ffn_dim, width, bias=True)

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor, attend: Attend, attend_across: Attend
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states (N, d), keys and values (N, H, D) of the text, and keys and values (F, H, D) of the frames.

        Args:
            x: states (N, d) of the text.
            frames: (F, d) of the sound.
            attend: attention of text to text.
            attend_across: attention of text to frames.
        """
        q, k, v = self.begin(x)
        heard_k, heard_v = self.hear(frames)
        x, asked = self.ask(x, attend(q, k, v))
        return self.finish(x, attend_across(asked, heard_k, heard_v)), k, v, heard_k, heard_v

    def begin(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values (N, H, D) of the text."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3 * self.num_heads, -1)).chunk(3, dim=-2)
        return q, k, v

    def hear(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (F, H, D) of frames (F, d)."""
        k, v = self.across_kv(frames).unflatten(-1, (2 * self.num_heads, -1)).chunk(2, dim=-2)
        return k, v

    def ask(self, x: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add what was attended to (N, H, D) to states (N, d); return them, and queries (N, H, D) to the frames."""
        x = x + self.out(attended.flatten(-2))
        return x, self.across_q(self.across_norm(x)).unflatten(-1, (self.num_heads, -1))

    def finish(self, x: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """Add what was heard (N, H, D), and the MLP, to states (N, d)."""
        x = x + self.across_out(heard.flatten(-2))
        out: torch.Tensor = x + self.down(F.gelu(self.up(self.ffn_norm(x))))
        return out
