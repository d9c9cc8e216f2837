"""Linear cross-entropy in chunks: the logits of a chunk exist only while its loss and gradient are computed.

`linear_cross_entropy` computes loss and gradients in one pass over the chunks, so that no logit is computed twice;
`full_cross_entropy` holds all logits and is the plain reference.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from models.kernels import plain
from models.kernels.fused import gpu_kernels


def by_cell(weights: torch.Tensor) -> torch.Tensor:
    """Return weights of rows (P,) as (P, 1), and weights of cells (P, S) unchanged."""
    return weights if weights.dim() == 2 else weights[:, None]


def full_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    ignored: int = -100,
    z_weight: float = 0.0,
) -> torch.Tensor:
    """Return what `linear_cross_entropy` returns, from all logits (P, S, V) at once: the plain reference.

    Arguments and their shapes are those of `linear_cross_entropy`.
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
    logits: torch.Tensor, targets: torch.Tensor, share: torch.Tensor, z_weight: float, *, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of a chunk's losses and the gradient (C, S V) of its logits (C, S, V), which are overwritten."""
    kernels = gpu_kernels(logits, "cross-entropy")
    cells = logits.flatten(0, 1) if kernels else logits.flatten(0, 1).to(share.dtype)
    losses = (kernels or plain).cross_entropy_(
        cells, targets.flatten(), share.flatten().contiguous(), z_weight, gradient=gradient
    )
    return losses.sum(), cells.view(len(logits), -1)


def _add_product(total: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> None:
    """Add a matrix product (A, B) to a sum (A, B) that may be of a wider type than its factors."""
    if one.dtype == total.dtype:
        total.addmm_(one, other)
    elif _adds_to_wider(total.device.type, one.dtype):
        torch.addmm(total, one, other, out_dtype=total.dtype, out=total)
    else:
        total.add_(torch.mm(one, other))


@functools.cache
def _adds_to_wider(device_type: str, dtype: torch.dtype) -> bool:
    """Try whether a product of 16-bit matrices can be added to a sum of 32 bits, without a product of 16 bits between.

    On a GPU it is one pass over the sum, instead of one each over the product, written and read, and the sum.
    """
    if device_type != "cuda":
        return False
    one = torch.full((16, 16), 0.5, dtype=dtype, device=device_type)
    total = torch.full((16, 16), 1.0, device=device_type)
    try:
        torch.addmm(total, one, one, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):  # an earlier torch, or a GPU without it
        return False
    return bool((total == 5.0).all())


class _Chunked(Function):
    """Sums losses over chunks of rows; gradients are computed with them, and only scaled in the backward pass.

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
            matrix = weight.to(hidden.dtype)
            exact = torch.promote_types(hidden.dtype, torch.float32)
            grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            grad_weight = torch.zeros_like(weight, dtype=exact) if ctx.needs_input_grad[1] else None
            total = hidden.new_zeros((), dtype=exact)
            for start in range(0, rows, chunk):
                part = slice(start, min(start + chunk, rows))
                chunk_targets = targets[part]
                is_predicted = chunk_targets != ignored
                share = by_cell(weights[part]).to(exact) * is_predicted  # (C, S)
                chunk_targets = chunk_targets.where(is_predicted, 0)
                loss, slope = _chunk(
                    F.linear(hidden[part], matrix).view(len(chunk_targets), num_streams, -1),
                    chunk_targets,
                    share,
                    z_weight,
                    gradient=grad_hidden is not None or grad_weight is not None,
                )
                total += loss
                if grad_hidden is not None:
                    torch.mm(slope.to(matrix.dtype), matrix, out=grad_hidden[part])
                if grad_weight is not None:
                    _add_product(grad_weight, slope.T.to(matrix.dtype), hidden[part])
            ctx.save_for_backward(*(grad for grad in (grad_hidden, grad_weight) if grad is not None))
            ctx.dtypes = hidden.dtype, weight.dtype
            return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients that the forward pass computed; in place, unless the graph is kept for another pass."""
        saved = list(ctx.saved_tensors)
        # Those of the heads may take a gigabyte.
        scale = torch.mul if torch._C._autograd._get_current_graph_task_keep_graph() else torch.Tensor.mul_  # noqa: SLF001
        gradients: list[torch.Tensor | None] = []
        for needed, dtype in zip(ctx.needs_input_grad[:2], ctx.dtypes, strict=True):
            gradients.append(scale(saved.pop(0), grads[0]).to(dtype) if needed else None)
        return (*gradients, None, None, None, None, None)


def chunk_rows(device_type: str, num_logits: int, logit_bytes: int) -> int:
    """Return how many rows of logits exist at the same time: 8 million logits on a CPU, 200 MB on a GPU; at least 64.

    Every chunk reads and writes the gradient of the heads in float32. A CPU's cache holds a chunk of logits that a GPU
    has made in less time than that takes: with 151,936 logits of 16 bits and states 1,024 wide, chunks of 64 rows move
    128 times 1.2 GB for 8,192 rows, chunks of 658 rows 13 times.

    >>> chunk_rows("cpu", 32_768, 4), chunk_rows("cpu", 10**9, 4), chunk_rows("cuda", 151_936, 2)
    (244, 64, 658)
    """
    logits = 8_000_000 if device_type != "cuda" else 200_000_000 // logit_bytes
    return max(64, logits // max(1, num_logits))


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
        hidden: (P, d) states that the cells are predicted from.
        weight: (S V, d) the heads of S streams with V ids each, stacked.
        targets: (P, S) ids; cells whose target is `ignored` have no loss.
        weights: (P,) weight of all cells of a row, or (P, S) of each cell.
        ignored: the id that is not predicted.
        z_weight: weight of the squared logarithm of each softmax's denominator, which keeps logits near 0.
            Source: Chowdhery et al. 2022, "PaLM", arXiv:2204.02311, section 5 (z-loss).
        chunk: rows whose logits exist at the same time; with 0, what `chunk_rows` says.

    Returns:
        A scalar, float32, or float64 if the states are.
    """
    rows = chunk or chunk_rows(hidden.device.type, weight.shape[0], hidden.element_size())
    total: torch.Tensor = _Chunked.apply(hidden, weight, targets, weights, ignored, z_weight, rows)  # type: ignore[no-untyped-call]
    return total


def target_weight(targets: torch.Tensor, weights: torch.Tensor, ignored: int = -100) -> torch.Tensor:
    """Return the sum, a scalar, of the weights of all cells whose target is not ignored: the divisor of the loss.

    Args:
        targets: (P, S) ids.
        weights: (P,) weight of all cells of a row, or (P, S) of each cell.
        ignored: the id that is not predicted.
    """
    return ((targets != ignored) * by_cell(weights)).sum()
