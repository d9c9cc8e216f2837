"""An auxiliary loss on who talks when: a prompt's audio columns predict their talkers, by order of arrival.

A conversation has a few tags and hundreds of columns of audio, which teach to tell voices apart sooner. The text head's
rows of the tags do it: there are no further parameters, and nothing at inference.
Source: Park et al. 2024, "Sortformer", arXiv:2409.06656, section 3 (binary cross-entropy of talkers by arrival).
"""

import torch
import torch.nn.functional as F

from models.sequence.batch import Batch
from models.sequence.tokenizer import ByteTokenizer


def talking(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the columns in question (C,), who talks in them (C, T) as 0 and 1, and their documents' talkers (C,).

    In question are all columns of audio in prompts of documents of which it is known who talks.
    """
    device = batch.text.device
    who, start, end = batch.talker_spans.T.contiguous()
    most = int(who.max()) + 1 if len(who) else 0
    edges = torch.zeros((len(batch.text) + 1) * most, device=device)
    edges.index_add_(0, start * most + who, torch.ones(len(who), device=device))
    edges.index_add_(0, end * most + who, -torch.ones(len(who), device=device))
    active = edges.view(-1, most)[:-1].cumsum(0) > 0.5 if most else edges.new_zeros((len(batch.text), 0))

    starts, inner = batch.cu_seqlens[:-1].to(torch.int64), batch.cu_seqlens[1:].to(torch.int64)
    of_column = torch.searchsorted(inner, batch.audio_columns, right=True)
    prompts = torch.tensor(batch.prompts, device=device)
    talkers = torch.zeros(len(starts), dtype=torch.int64, device=device)
    talkers.scatter_reduce_(0, torch.searchsorted(inner, start, right=True), who + 1, "amax")
    used = (talkers[of_column] > 0) & (batch.audio_columns < (starts + prompts)[of_column])
    columns = batch.audio_columns[used]
    return columns, active[columns].to(torch.float32), talkers[of_column[used]]


def activity_loss(hidden: torch.Tensor, text_weight: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the binary cross-entropies of who talks, summed over columns and averaged over each document's talkers.

    Args:
        hidden: (N, d) states of all columns.
        text_weight: (V, d) the text head, of which the rows of the tags are used.
        batch: packed documents.
    """
    columns, active, talkers = talking(batch)
    if not active.numel():
        return hidden.sum() * 0.0
    tags = text_weight[ByteTokenizer.FIRST_SPEAKER : ByteTokenizer.FIRST_SPEAKER + active.shape[1]]
    logits = F.linear(hidden[columns], tags).float()
    losses = F.binary_cross_entropy_with_logits(logits, active, reduction="none")
    # Of a document's own talkers only, or the sum would depend on what else is in the batch.
    own = torch.arange(active.shape[1], device=talkers.device) < talkers[:, None]
    return (losses * own / talkers[:, None]).sum()
