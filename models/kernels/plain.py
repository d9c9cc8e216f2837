"""What the fused operations equal, in torch's own operations: the reference of tests, and what runs without kernels."""

import torch
import torch.nn.functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide states (..., d) by their root mean square, and scale them by a weight (d,).

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467, equation 4.
    """
    return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair (x[i], x[i + D/2]) of heads (..., H, D) by its angle; cosines and sines are (..., 1, D / 2).

    Source: Su et al. 2021, "RoFormer", arXiv:2104.09864, section 3.2.2, with halves instead of neighbors as pairs.
    """
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


def heads(
    qkv: torch.Tensor,
    scales: tuple[torch.Tensor | None, ...],
    cos: torch.Tensor,
    sin: torch.Tensor,
    counts: tuple[int, int],
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut queries (..., H, D), keys and values (..., G, D) out of one projection, the first two normed and rotated.

    Args:
        qkv: (..., (H + 2 G) D).
        scales: weights (D,) of the queries' norm and of the keys', or None where there is no norm.
        cos: (..., 1, D / 2), of each position.
        sin: likewise.
        counts: H and G.
        eps: of the norms.
    """
    sizes = [counts[0], counts[1], counts[1]]
    *parts, v = torch.split(qkv.view(*qkv.shape[:-1], sum(sizes), -1), sizes, dim=-2)
    normed = [part if w is None else rms_norm(part, w, eps) for part, w in zip(parts, scales, strict=True)]
    q, k = (rotate(part, cos, sin) for part in normed)
    return q, k, v


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up (..., F) of both side by side (..., 2 F).

    Source: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202, equation 6.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def embedding_sum(table: torch.Tensor, ids: torch.Tensor, frozen_rows: torch.Tensor) -> torch.Tensor:
    """Sum, for each row of ids (A, S), the vectors (d,) of a table (R, d) that they name; frozen rows count as zero."""
    kept = torch.ones(len(table), dtype=table.dtype, device=table.device).index_fill(0, frozen_rows, 0.0)
    return F.embedding_bag(ids, table, mode="sum", per_sample_weights=kept[ids])
