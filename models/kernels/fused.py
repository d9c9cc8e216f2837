"""RMSNorm, rotary embedding, SwiGLU and embedding sums in few passes over memory, with explicit gradients.

At small widths, and differentiated operation by operation by autograd, these take a CPU as much time as the matrix
products. The functions below are used instead; on a GPU they call `triton_kernels`. Values and gradients equal those of
`plain.py` (tests/models/kernels/test_fused.py). torch.compile generates its own kernels and needs neither.
"""

import functools
import logging
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from models.kernels.plain import Kind

if TYPE_CHECKING:
    from models.kernels.verdict import Tried

_LOG = logging.getLogger(__name__)


def is_supported(x: torch.Tensor, kind: Kind) -> bool:
    """Return whether an input (of any shape) is computed here rather than by `plain`."""
    if torch.compiler.is_compiling():
        return False
    return gpu_kernels(x, kind) is not None or (x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64))


def gpu_kernels(x: torch.Tensor, kind: Kind) -> ModuleType | None:
    """Return the Triton kernels if they are to compute an operation on an input (of any shape), else None.

    They are on a GPU, for 16- or 32-bit floats, where the one trial found them right, and this one faster.
    """
    if x.device.type != "cuda" or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    tried = tried_kernels(str(x.device))
    return tried.kernels if tried is not None and kind in tried.faster else None


@functools.cache
def tried_kernels(device: str) -> "Tried | None":
    """Return the Triton kernels, and which are faster, if they agree with their references on a device; else None.

    Tried once per process, and what was found is remembered by device and versions. HUBBUB_KERNELS=plain disables them;
    HUBBUB_KERNELS=all takes those that are slower too.
    """
    if (wanted := os.environ.get("HUBBUB_KERNELS")) == "plain":
        return None
    try:
        from models.kernels import triton_kernels
        from models.kernels.verdict import Tried, verdict
    except ImportError as error:
        _LOG.warning("Triton is not available (%s); using torch's own operations", error)
        return None
    try:
        found = verdict(triton_kernels, torch.device(device))
    except Exception as error:  # noqa: BLE001 compilers and drivers may raise anything; the references still work
        _LOG.warning("not using Triton kernels on %s: %s: %s", device, type(error).__name__, error)
        return None
    if found.failures:
        _LOG.warning("not using Triton kernels on %s: %s", device, "; ".join(found.failures))
        return None
    return Tried(triton_kernels, frozenset(get_args(Kind)) if wanted == "all" else frozenset(found.faster))


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide states (..., d) by their root mean square and scale them by a weight (d,).

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467, equation 4.
    """
    if kernels := gpu_kernels(x, "norm"):
        return kernels.rms_norm(x, weight, eps)  # type: ignore[no-any-return]
    out: torch.Tensor = _Norm.apply(x, weight.to(x.dtype), eps)  # type: ignore[no-untyped-call]
    return out


def heads(
    qkv: torch.Tensor,
    scales: tuple[torch.Tensor | None, ...],
    cos: torch.Tensor,
    sin: torch.Tensor,
    counts: tuple[int, int],
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split one projection into queries (..., H, D), keys and values (..., G, D); norm and rotate queries and keys.

    Args:
        qkv: (..., (H + 2 G) D), queries first, then keys, then values.
        scales: weights (D,) of the norms of queries and of keys; both None where they are not normed.
        cos: (..., 1, D / 2), of each position's angles.
        sin: (..., 1, D / 2).
        counts: H and G.
        eps: epsilon of the norms.
    """
    if kernels := gpu_kernels(qkv, "heads"):
        return kernels.heads(qkv, scales, cos, sin, counts, eps)  # type: ignore[no-any-return]
    q, k, v = _Heads.apply(qkv, *scales, cos.to(qkv.dtype), sin.to(qkv.dtype), counts, eps)  # type: ignore[no-untyped-call]
    return q, k, v


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up (..., F) of gate and up, concatenated (..., 2 F)."""
    if kernels := gpu_kernels(gate_up, "swiglu"):
        return kernels.swiglu(gate_up)  # type: ignore[no-any-return]
    out: torch.Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


def embedding_sum(table: torch.Tensor, ids: torch.Tensor, frozen_rows: torch.Tensor) -> torch.Tensor:
    """Return, for each row of ids (A, S), the sum (A, d) of the rows of a table (R, d) that they index.

    Args:
        table: (R, d) embeddings.
        ids: (A, S) indices of rows.
        frozen_rows: (N,) indices of rows that are zero and get no gradient.
    """
    if kernels := gpu_kernels(table, "embedding sum"):
        return kernels.embedding_sum(table, ids, frozen_rows)  # type: ignore[no-any-return]
    out: torch.Tensor = _EmbeddingSum.apply(table, ids, frozen_rows)  # type: ignore[no-untyped-call]
    return out


def _inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _parts(qkv: torch.Tensor, counts: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Return views (..., H, D), (..., G, D) and (..., G, D) of the queries, keys and values in one projection."""
    sizes = [counts[0], counts[1], counts[1]]
    return torch.split(qkv.view(*qkv.shape[:-1], sum(sizes), -1), sizes, dim=-2)


def _norm_backward(
    gradient: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Write the gradient of the input (..., D) to `out`; return that of the weight (D,)."""
    scaled = x * inverse
    product = gradient * scaled
    mean = (product @ weight).div_(x.shape[-1]).unsqueeze(-1)
    torch.mul((gradient * weight).addcmul_(scaled, mean, value=-1), inverse, out=out)
    return product.flatten(0, -2).sum(0)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, back: bool = False) -> torch.Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    (first, second), (rotated_first, rotated_second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    sign = 1 if back else -1
    torch.mul(first, cos, out=rotated_first).addcmul_(second, sin, value=sign)
    torch.mul(second, cos, out=rotated_second).addcmul_(first, sin, value=-sign)
    return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, inverse, weight)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, inverse, weight = ctx.saved_tensors
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        return out, _norm_backward(gradient, x, inverse, weight, out), None


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        q_weight: torch.Tensor | None,
        k_weight: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        counts: tuple[int, int],
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        *parts, v = _parts(qkv, counts)
        rotated, inverses = [], []
        for part, weight in zip(parts, (q_weight, k_weight), strict=True):
            inverse = None
            if weight is not None:
                inverse = _inverse_rms(part, eps)
                part = (part * inverse).mul_(weight)  # noqa: PLW2901
            rotated.append(_rotate(part, cos, sin))
            inverses.append(inverse)
        ctx.counts = counts
        ctx.save_for_backward(qkv, q_weight, k_weight, cos, sin, *inverses)
        return rotated[0], rotated[1], v.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        qkv, q_weight, k_weight, cos, sin, *inverses = ctx.saved_tensors
        out = torch.empty_like(qkv, memory_format=torch.contiguous_format)
        *sources, _ = _parts(qkv, ctx.counts)
        *gradient_parts, gradient_v = _parts(out, ctx.counts)
        gradient_v.copy_(gradients[2])
        weight_gradients: list[torch.Tensor | None] = []
        for part, target, gradient, weight, inverse in zip(
            sources, gradient_parts, gradients, (q_weight, k_weight), inverses, strict=False
        ):
            rotated = _rotate(gradient, cos, sin, back=True)
            if weight is None:
                target.copy_(rotated)
                weight_gradients.append(None)
            else:
                weight_gradients.append(_norm_backward(rotated, part, inverse, weight, target))
        return out, *weight_gradients, None, None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        out = torch.empty_like(gate_up, memory_format=torch.contiguous_format)
        (gate, up), (gate_gradient, up_gradient) = gate_up.chunk(2, dim=-1), out.chunk(2, dim=-1)
        torch.mul(F.silu(gate), gradient, out=up_gradient)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=gate_gradient)
        return out


class _EmbeddingSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, ids: torch.Tensor, frozen_rows: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(table)
        ctx.save_for_backward(ids, frozen_rows)
        return F.embedding_bag(ids, table, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        ids, frozen_rows = ctx.saved_tensors
        if not ids.numel():
            return gradient.new_zeros(ctx.num_rows, gradient.shape[-1]), None, None
        # The gradient of a row of the table is a sum too: of the gradients of the outputs that contain the row. torch's
        # own backward pass adds them one index at a time, which takes three times as long.
        flat = ids.flatten()
        used_by = flat.to(torch.int32).sort(stable=True).indices.div_(ids.shape[1], rounding_mode="floor")
        ends = torch.bincount(flat, minlength=ctx.num_rows).cumsum(0)
        out = F.embedding_bag(used_by, gradient.contiguous(), F.pad(ends[:-1], (1, 0)), mode="sum")
        return out.index_fill_(0, frozen_rows, 0.0), None, None
