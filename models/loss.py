"""Linear cross-entropy in chunks: the logits of a chunk live only while its loss and gradient are made."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def _chunk_loss(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, ignored: int
) -> torch.Tensor:
    num_streams, vocab_size = targets.shape[1], weight.shape[0] // targets.shape[1]
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).view(-1, num_streams, vocab_size)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignored, reduction="none")
    return (losses.view(-1, num_streams) * weights[:, None]).sum()


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    ignored: int = -100,
    chunk: int = 2048,
) -> torch.Tensor:
    """Return the weighted sum (not the mean) of the cross-entropies of several streams.

    Args:
        hidden: (P, d) states that predict.
        weight: (S V, d) the heads of S streams of V ids each, one under the other.
        targets: (P, S) ids; `ignored` counts for nothing.
        weights: (P,) weight of each row's cells.
        ignored: the id that is not predicted.
        chunk: rows whose logits exist at a time; they are made again in the backward pass.

    Returns:
        A scalar in float32, or float64 where the states are.
    """
    total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        total = total + checkpoint(
            _chunk_loss, hidden[rows], weight, targets[rows], weights[rows], ignored, use_reentrant=False
        )
    return total


def target_weight(targets: torch.Tensor, weights: torch.Tensor, ignored: int = -100) -> torch.Tensor:
    """Return the sum of the weights of the cells that count: what the loss is divided by."""
    return ((targets != ignored).sum(dim=1) * weights).sum()
