"""The transformer's parts: pre-norm blocks of grouped-query attention with rotary positions, and SwiGLU.

Sources: Touvron et al. 2023, "LLaMA", arXiv:2302.13971, section 2.2 (RMSNorm, SwiGLU, RoPE); Ainslie et al. 2023,
"GQA", arXiv:2305.13245; Henry et al. 2020, "Query-Key Normalization", arXiv:2010.04245.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from models.config.options import Recompute
from models.config.shape import Shape
from models.kernels import fused, plain
from models.speech_lm.lora import LoRALinear


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


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose weight is kept in float32 and used in whatever its input is in, so that the fused kernel serves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return normalized states (..., d) of states (..., d)."""
        if fused.is_supported(x, "norm"):
            return fused.rms_norm(x, self.weight, self.eps or 0.0)
        return plain.rms_norm(x, self.weight, self.eps or 0.0)


def linear(shape: Shape, inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """Return a matrix of a block, with a low-rank update where the shape has one."""
    if shape.lora_rank:
        return LoRALinear(inputs, outputs, shape.lora_rank, shape.lora_alpha, bias=bias)
    return nn.Linear(inputs, outputs, bias=bias)


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Attention: queries (..., H, D), keys and values (..., G, D) to outputs (..., H, D)."""


class Attention(nn.Module):
    """Grouped-query attention with rotary position embeddings."""

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
        qkv = self.qkv(x)
        norms = (self.q_norm, self.k_norm)
        scales = tuple(norm.weight if isinstance(norm, RMSNorm) else None for norm in norms)
        heads = fused.heads if fused.is_supported(qkv, "heads") else plain.heads
        return heads(qkv, scales, cos, sin, (self.num_heads, self.num_kv_heads), self.norm_eps)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = linear(shape, shape.dim, 2 * shape.ffn_dim)
        self.down = linear(shape, shape.ffn_dim, shape.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return states (N, d)."""
        gate_up = self.gate_up(x)
        ops = fused if fused.is_supported(gate_up, "swiglu") else plain
        out: torch.Tensor = self.down(ops.swiglu(gate_up))
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
        """Return queries (N, H, D), keys and values (N, G, D): the part of the block before attention."""
        return self.attention.heads(self.attention_norm(x), cos, sin)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add the output of attention (N, H, D) and the feed-forward part to states (N, d)."""
        x = x + self.attention.out(attended.flatten(-2))
        out: torch.Tensor = x + self.ffn(self.ffn_norm(x))
        return out


_KEPT = ("mm", "addmm", "_scaled_mm"), ("_scaled_dot_product", "_flash_att", "_varlen_attn")
"""Names, and beginnings of names, of operations whose results are worth their memory: products, and attention."""


def run_block(
    block: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend, recompute: Recompute
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what a block returns; its backward pass computes again what is not kept.

    Source: Korthikanti et al. 2022, "Reducing Activation Recomputation", arXiv:2205.05198, section 5 (selective).
    """
    if recompute == "none" or not torch.is_grad_enabled():
        return block(x, cos, sin, attend)  # type: ignore[no-any-return]
    if recompute == "all":
        return checkpoint(block, x, cos, sin, attend, use_reentrant=False)  # type: ignore[no-any-return]
    return checkpoint(  # type: ignore[no-any-return]
        block,
        x,
        cos,
        sin,
        attend,
        use_reentrant=False,
        context_fn=partial(create_selective_checkpoint_contexts, _is_kept),
    )


def _is_kept(_context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    name = operation.__name__.partition(".")[0]
    kept = name in _KEPT[0] or name.startswith(_KEPT[1])
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
