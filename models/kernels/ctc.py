"""CTC over a large vocabulary, without a matrix of frames times vocabulary in the forward or the backward pass.

The probability of a path is a product of softmaxes, whose denominators do not depend on the path. So

    -log p(text) = sum_t log sum_{v in V} e^{z_tv} - log sum_{paths} e^{sum_t z_t,path(t)},

where the second sum reads the logits of the blank and of the labels that occur alone. The first one is computed in
chunks by `linear_cross_entropy`. Source: Graves et al. 2006, doi:10.1145/1143844.1143891, section 4.
"""

import torch
import torch.nn.functional as F

from models.kernels.loss import chunk_rows, linear_cross_entropy


def full_ctc(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int = 0,
) -> torch.Tensor:
    """Return what `linear_ctc` returns, from all logits (C, V) at once: the plain reference.

    Arguments and their shapes are those of `linear_ctc`.
    """
    return _ctc(F.linear(hidden, weight).float(), targets, input_lengths, target_lengths, blank)


def linear_ctc(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: torch.Tensor,
    target_lengths: torch.Tensor,
    blank: int = 0,
) -> torch.Tensor:
    """Return the sum of the negative log-likelihoods of sequences of labels.

    Args:
        hidden: (C, d) states of the frames of all sequences, one after the other.
        weight: (V, d) the matrix that gives logits.
        targets: (L,) labels of all sequences; none is the blank, and a sequence has a path for its own.
        input_lengths: (B,) frames of each sequence; they add up to C.
        target_lengths: (B,) labels of each sequence; they add up to L.
        blank: the id of the blank.

    Returns:
        A scalar, float32.
    """
    occurring, labels = torch.unique(targets, return_inverse=True)
    with torch.autocast(hidden.device.type, enabled=False):
        # Few rows, in full precision: they stand beside logits of a small type in one logarithm.
        rows = torch.cat([weight[blank : blank + 1], weight[occurring]]).float()
        logits = F.linear(hidden.float(), rows)
        logits = logits - logits[:, :1]  # relative to the blank, as the cross-entropy of the blank is
        blanks = torch.full((len(hidden), 1), blank, device=hidden.device)
        others = linear_cross_entropy(hidden, weight, blanks, torch.ones(len(hidden), device=hidden.device))
        return others - logits.logsumexp(1).sum() + _ctc(logits, labels + 1, input_lengths, target_lengths, 0)


def _ctc(
    logits: torch.Tensor, targets: torch.Tensor, input_lengths: torch.Tensor, target_lengths: torch.Tensor, blank: int
) -> torch.Tensor:
    """Return the summed loss of logits (C, V) of the frames of all sequences, one after the other."""
    number, device = len(input_lengths), logits.device
    row = torch.repeat_interleave(torch.arange(number, device=device), input_lengths, output_size=len(logits))
    place = torch.arange(len(logits), device=device) - (torch.cumsum(input_lengths, 0) - input_lengths)[row]
    padded = logits.new_zeros((int(input_lengths.max()), number, logits.shape[1]))
    padded[place, row] = F.log_softmax(logits, dim=-1)
    return F.ctc_loss(padded, targets, input_lengths, target_lengths, blank=blank, reduction="sum", zero_infinity=True)


@torch.no_grad()
def likeliest(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the id (C,) of the largest of the logits of each state (C, d); few rows of logits exist at a time.

    >>> likeliest(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])).tolist()
    [0, 2]
    """
    rows = chunk_rows(hidden.device.type, len(weight), hidden.element_size())
    parts = [F.linear(part, weight).argmax(dim=1) for part in torch.split(hidden, rows)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=hidden.device)
