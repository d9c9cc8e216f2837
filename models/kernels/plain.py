"""Plain references of the fused operations, in torch's own: what tests compare with, and what runs without kernels."""

from typing import Literal

import torch
import torch.nn.functional as F

Kind = Literal["norm", "heads", "swiglu", "embedding sum", "cross-entropy"]
"""Which operation: on a GPU each is a kernel only where that is faster."""


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


def cross_entropy_(
    logits: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor, z_weight: float, *, gradient: bool
) -> torch.Tensor:
    """Return the weighted losses (C,) of cells with logits (C, V), which their gradient may overwrite.

    Args:
        logits: (C, V), in the type of the shares, which are changed.
        targets: (C,) ids, all in [0, V).
        shares: (C,) weight of each cell's loss.
        z_weight: weight of the squared logarithm of each softmax's denominator.
        gradient: whether the logits are overwritten with the gradient of the sum of the losses.
    """
    chosen, share = targets[:, None], shares[:, None]
    peak = logits.amax(dim=-1, keepdim=True)
    of_target = logits.gather(-1, chosen) - peak
    logits.sub_(peak).exp_()
    mass = logits.sum(dim=-1, keepdim=True)
    losses, scale = mass.log() - of_target, share
    if z_weight:
        level = mass.log() + peak
        losses = losses + z_weight * level.square()
        scale = scale * (1.0 + 2.0 * z_weight * level)
    if gradient:  # share (softmax - one-hot) and the z-loss's part, written over the exponentials
        logits.mul_(scale / mass)
        logits.scatter_add_(-1, chosen, -share)
    return (losses * share)[:, 0]
