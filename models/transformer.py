"""The transformer's parts: pre-norm blocks of grouped-query attention with rotary positions, and SwiGLU.

Sources: Touvron et al. 2023, "LLaMA", arXiv:2302.13971, section 2.2 (RMSNorm, SwiGLU, RoPE); Ainslie et al. 2023,
"GQA", arXiv:2305.13245; Henry et al. 2020, "Query-Key Normalization", arXiv:2010.04245.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from models import fused
from models.lora import LoRALinear


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Size of the transformer."""

    dim: int = 128
    """Width of the residual stream (d)."""
    num_layers: int = 4
    """Blocks."""
    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int = 2
    """Key and value heads; divides num_heads."""
    ffn_dim: int = 384
    """Width inside SwiGLU."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    qk_norm: bool = True
    """Whether queries and keys are normalized per head."""
    prompt_attention: Literal["causal", "both"] = "causal"
    """Whether the columns before the first predicted one see each other in both directions (a prefix LM)."""
    depth_dim: int = 0
    """Width of the depth transformer, where the layout has one; half of dim where 0."""
    depth_layers: int = 2
    """Its blocks."""
    head_width: int = 0
    """Width of a head; dim / num_heads where 0."""
    norm_eps: float = 1e-6
    """What keeps RMSNorm from dividing by zero."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias (Qwen2)."""
    tie_text: bool = False
    """Whether text is predicted by its embeddings, transposed."""
    rope_scaling: tuple[float, ...] = ()
    """Llama 3's stretch of the slow rotary frequencies: factor, low and high frequency factor, original length."""
    encoder: str | None = None
    """Speech encoder (folder or hub id) that audio of codec pcm is heard through (`models.front_end`)."""
    projector: Literal["mlp", "queries"] = "mlp"
    """What makes columns of the encoder's frames: stacked frames and two layers, or queries over windows."""
    encoder_rank: int = 0
    """Above 0, the encoder's attention gets trained updates of this rank; else it is frozen."""
    lora_rank: int = 0
    """Above 0, the blocks are frozen and their matrices get trained updates of this rank (`models.lora`)."""
    lora_alpha: float = 32.0
    """Updates are scaled by lora_alpha / lora_rank."""

    def __post_init__(self) -> None:
        """Check that the heads divide the width."""
        if (not self.head_width and self.dim % self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError("model: num_heads must divide dim, and num_kv_heads must divide num_heads")
        if self.head_dim % 2:
            raise ValueError(f"model: a head of width {self.head_dim} cannot be rotated in pairs")
        if self.rope_scaling and len(self.rope_scaling) != 4:
            raise ValueError("model.rope_scaling takes four numbers, or none")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width or self.dim // self.num_heads


# Named sizes, fixed so that everyone means the same; parameters without embeddings and heads.
SIZES: dict[str, Shape] = {
    "tiny": Shape(dim=128, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=448),  # 0.9M
    "small": Shape(dim=256, num_layers=6, num_heads=4, num_kv_heads=2, ffn_dim=768),  # 4.7M
    "base": Shape(dim=768, num_layers=12, num_heads=12, num_kv_heads=4, ffn_dim=2304),  # 83M + heads
    "0.6b": Shape(dim=1024, num_layers=28, num_heads=16, num_kv_heads=8, ffn_dim=3584, rope_theta=1e6),
    "1b": Shape(dim=2048, num_layers=16, num_heads=32, num_kv_heads=8, ffn_dim=8192, rope_theta=5e5),
    "7b": Shape(dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, ffn_dim=11008, rope_theta=5e5),
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the embeddings and heads must cover; follows from tokenizer, codec and layout."""

    text_size: int
    num_streams: int
    codebook_size: int
    ordinal: bool
    """Whether neighboring codes mean neighboring values."""
    encoder_digest: str = ""
    """Digest of the weights of the encoder that audio is heard through, where there is one."""
    depth: bool = False
    """Whether a column's audio cells are predicted one after the other, by a small transformer over the streams."""


def rotary(positions: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines (N, 1, head_dim / 2) of each position.

    Slow frequencies are stretched where the shape says so, as in Dubey et al. 2024, "Llama 3", arXiv:2407.21783.
    """
    exponents = torch.arange(0, shape.head_dim, 2, device=positions.device, dtype=torch.float32) / shape.head_dim
    frequencies = shape.rope_theta**-exponents
    if shape.rope_scaling:
        factor, low, high, length = shape.rope_scaling
        turns = length * frequencies / (2 * math.pi)  # in the length that the LLM was first trained for
        smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        frequencies = frequencies * (smooth + (1.0 - smooth) / factor)
    angles = positions[:, None].float() * frequencies
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair (x[i], x[i + D/2]) of heads (N, H, D) by its angle."""
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose weight is kept in float32 and used in whatever its input is in, so that the fused kernel serves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized states."""
        if fused.serves(x):
            return fused.rms_norm(x, self.weight.to(x.dtype), self.eps or 0.0)
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def linear(shape: Shape, inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """Return a matrix of a block, with a low-rank update where the shape has one."""
    if shape.lora_rank:
        return LoRALinear(inputs, outputs, shape.lora_rank, shape.lora_alpha, bias=bias)
    return nn.Linear(inputs, outputs, bias=bias)


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Queries (..., H, D), keys and values (..., G, D) to what each query gathers (..., H, D)."""


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.num_heads, self.num_kv_heads, self.norm_eps = shape.num_heads, shape.num_kv_heads, shape.norm_eps
        width = (shape.num_heads + 2 * shape.num_kv_heads) * self.head_dim
        self.qkv = linear(shape, shape.dim, width, bias=shape.qkv_bias)
        self.out = linear(shape, shape.num_heads * self.head_dim, shape.dim)
        self.q_norm = RMSNorm(self.head_dim, eps=shape.norm_eps) if shape.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, eps=shape.norm_eps) if shape.qk_norm else nn.Identity()

    def heads(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries (N, H, D), keys (N, G, D) and values (N, G, D) of states (N, d)."""
        sizes = [self.num_heads * self.head_dim, *[self.num_kv_heads * self.head_dim] * 2]
        qkv = self.qkv(x)
        if fused.serves(qkv):
            norms = (self.q_norm, self.k_norm)
            scales = tuple(norm.weight if isinstance(norm, RMSNorm) else None for norm in norms)
            return fused.heads(qkv, scales, cos, sin, (self.num_heads, self.num_kv_heads), self.norm_eps)
        q, k, v = qkv.split(sizes, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))
        return rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = linear(shape, shape.dim, 2 * shape.ffn_dim)
        self.down = linear(shape, shape.ffn_dim, shape.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return states (N, d)."""
        gate_up = self.gate_up(x)
        if fused.serves(gate_up):
            inner = fused.swiglu(gate_up)
        else:
            gate, up = gate_up.chunk(2, dim=-1)
            inner = F.silu(gate) * up
        out: torch.Tensor = self.down(inner)
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + swiglu(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.dim, eps=shape.norm_eps)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.dim, eps=shape.norm_eps)
        self.ffn = SwiGLU(shape)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states (N, d), and the keys and values (N, G, D) that were attended to."""
        q, k, v = self.begin(x, cos, sin)
        return self.finish(x, attend(q, k, v)), k, v

    def begin(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values: all before attention, as `finish` is all behind it."""
        return self.attention.heads(self.attention_norm(x), cos, sin)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add what attention gathered (N, H, D), then the feed-forward part."""
        x = x + self.attention.out(attended.flatten(-2))
        out: torch.Tensor = x + self.ffn(self.ffn_norm(x))
        return out


Size = Literal["tiny", "small", "base", "0.6b", "1b", "7b"]
