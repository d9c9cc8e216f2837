"""Linear cross-entropy in chunks: the logits of a chunk live only while its loss and gradient are made.

`linear_cross_entropy` makes loss and gradients in one pass over the chunks, so that no logit is made twice;
`full_cross_entropy` holds all logits and is what it is tested against.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from models.kernels.fused import gpu_kernels


def by_cell(weights: torch.Tensor) -> torch.Tensor:
    """Return weights of rows (P,) as (P, 1), and of cells (P, S) as they are."""
    return weights if weights.dim() == 2 else weights[:, None]


def full_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    ignored: int = -100,
    z_weight: float = 0.0,
) -> torch.Tensor:
    """Return what `linear_cross_entropy` returns, from logits (N, V) held all at once: the plain reference.

    Args and shapes are those of `linear_cross_entropy`.
    """
    num_streams, vocab_size = targets.shape[1], weight.shape[0] // targets.shape[1]
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).view(-1, num_streams, vocab_size)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignored, reduction="none")
    losses = losses.view(-1, num_streams)
    if z_weight:
        losses = losses + z_weight * logits.logsumexp(dim=-1).square() * (targets != ignored)
    return (losses * by_cell(weights)).sum()


def _chunk(
    logits: torch.Tensor, wanted: torch.Tensor, share: torch.Tensor, z_weight: float, *, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of a chunk's losses, and the gradient (C, S V) of its logits (C, S, V), which are used up."""
    if kernels := gpu_kernels(logits):
        losses = kernels.cross_entropy_(
            logits, wanted.flatten(), share.flatten().contiguous(), z_weight, gradient=gradient
        )
        return losses.sum(), logits.flatten(1)
    logits, wanted = logits.to(share.dtype), wanted[..., None]
    peak = logits.amax(dim=-1, keepdim=True)
    chosen = logits.gather(-1, wanted) - peak
    logits.sub_(peak).exp_()
    mass = logits.sum(dim=-1, keepdim=True)
    losses = mass.log() - chosen
    scale = share[..., None]
    if z_weight:
        level = mass.log() + peak
        losses = losses + z_weight * level.square()
        scale = scale * (1.0 + 2.0 * z_weight * level)
    if gradient:  # share (softmax - one-hot), and z's part, in the place of the exponentials
        logits.mul_(scale / mass)
        logits.scatter_add_(-1, wanted, -share[..., None])
    return (losses[..., 0] * share).sum(), logits.flatten(1)


class _Chunked(Function):
    """Sums losses over chunks of rows; gradients are computed along with them, and only scaled in the backward pass.

    Source: Hsu et al. 2024, "Liger Kernel", arXiv:2410.10989, section 3.2 (fused linear cross-entropy).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        ignored: int,
        z_weight: float,
        chunk: int,
    ) -> torch.Tensor:
        """Return the weighted sum of the losses."""
        with torch.autocast(hidden.device.type, enabled=False):
            rows, num_streams = targets.shape
            matrix = weight.to(hidden.dtype)  # what is computed in
            exact = torch.promote_types(hidden.dtype, torch.float32)
            grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            grad_weight = torch.zeros_like(weight, dtype=exact) if ctx.needs_input_grad[1] else None
            total = hidden.new_zeros((), dtype=exact)
            for start in range(0, rows, chunk):
                part = slice(start, min(start + chunk, rows))
                wanted = targets[part]
                counts = wanted != ignored
                share = by_cell(weights[part]).to(exact) * counts  # (C, S)
                wanted = wanted.where(counts, 0)
                made, slope = _chunk(
                    F.linear(hidden[part], matrix).view(len(wanted), num_streams, -1),
                    wanted,
                    share,
                    z_weight,
                    gradient=grad_hidden is not None or grad_weight is not None,
                )
                total += made
                if grad_hidden is not None:
                    torch.mm(slope.to(matrix.dtype), matrix, out=grad_hidden[part])
                if grad_weight is not None:
                    if matrix.dtype == exact:
                        grad_weight.addmm_(slope.T, hidden[part])
                    else:
                        grad_weight.add_(torch.mm(slope.T.to(matrix.dtype), hidden[part]))
            ctx.save_for_backward(*(grad for grad in (grad_hidden, grad_weight) if grad is not None))
            ctx.dtypes = hidden.dtype, weight.dtype
            return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what was made on the way."""
        saved = list(ctx.saved_tensors)
        made: list[torch.Tensor | None] = []
        for needed, dtype in zip(ctx.needs_input_grad[:2], ctx.dtypes, strict=True):
            made.append((saved.pop(0) * grads[0]).to(dtype) if needed else None)
        return (*made, None, None, None, None, None)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    ignored: int = -100,
    z_weight: float = 0.0,
    chunk: int = 0,
) -> torch.Tensor:
    """Return the weighted sum (not the mean) of the cross-entropies of several streams.

    Args:
        hidden: (P, d) states that predict.
        weight: (S V, d) the heads of S streams of V ids each, one under the other.
        targets: (P, S) ids; `ignored` counts for nothing.
        weights: (P,) weight of each row's cells, or (P, S) of each cell.
        ignored: the id that is not predicted.
        z_weight: weight of the squared logarithm of each softmax's denominator, which holds logits near 0.
            Source: Chowdhery et al. 2022, "PaLM", arXiv:2204.02311, section 5 (z-loss).
        chunk: rows whose logits exist at a time; as many as make 8 million logits where 0.

    Returns:
        A scalar in float32, or float64 where the states are.
    """
    rows = chunk or max(64, 8_000_000 // max(1, weight.shape[0]))
    total: torch.Tensor = _Chunked.apply(hidden, weight, targets, weights, ignored, z_weight, rows)  # type: ignore[no-untyped-call]
    return total


def target_weight(targets: torch.Tensor, weights: torch.Tensor, ignored: int = -100) -> torch.Tensor:
    """Return the sum, a scalar, of the weights (N,) of cells whose targets (N,) are not ignored: the loss's divisor."""
    return ((targets != ignored) * by_cell(weights)).sum()
