"""Plain references of the fused operations, in torch's own: what tests compare with, and what runs without kernels."""

import torch
import torch.nn.functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide states (..., d) by their root mean square and scale them by a weight (d,).

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467, equation 4.
    """
    return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (x[i], x[i + D/2]) of heads (..., H, D) by its angle; cosines and sines are (..., 1, D / 2).

    Source: Su et al. 2021, "RoFormer", arXiv:2104.09864, section 3.2.2; pairs are taken from the two halves rather than
    from neighbors.
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
    """Split one projection into queries (..., H, D), keys and values (..., G, D); norm and rotate queries and keys.

    Args:
        qkv: (..., (H + 2 G) D), queries first, then keys, then values.
        scales: weights (D,) of the norms of queries and of keys; both None where they are not normed.
        cos: (..., 1, D / 2), of each position's angles.
        sin: (..., 1, D / 2).
        counts: H and G.
        eps: epsilon of the norms.
    """
    sizes = [counts[0], counts[1], counts[1]]
    *parts, v = torch.split(qkv.view(*qkv.shape[:-1], sum(sizes), -1), sizes, dim=-2)
    normed = [part if w is None else rms_norm(part, w, eps) for part, w in zip(parts, scales, strict=True)]
    q, k = (rotate(part, cos, sin) for part in normed)
    return q, k, v


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up (..., F) of gate and up, concatenated (..., 2 F).

    Source: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202, equation 6.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def embedding_sum(table: torch.Tensor, ids: torch.Tensor, frozen_rows: torch.Tensor) -> torch.Tensor:
    """Return, for each row of ids (A, S), the sum (A, d) of the rows of a table (R, d) that they index.

    Args:
        table: (R, d) embeddings.
        ids: (A, S) indices of rows.
        frozen_rows: (N,) indices of rows that count as zero and get no gradient.
    """
    is_used = torch.ones(len(table), dtype=table.dtype, device=table.device).index_fill(0, frozen_rows, 0.0)
    return F.embedding_bag(ids, table, mode="sum", per_sample_weights=is_used[ids])
