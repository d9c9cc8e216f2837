"""An auxiliary CTC loss: prompt audio is also transcribed column by column, which speeds up alignment.

The text head does both, and its pad is CTC's blank: there are no further parameters, and nothing at inference.
Source: Graves et al. 2006, doi:10.1145/1143844.1143891; Watanabe et al. 2017, doi:10.1109/JSTSP.2017.2763455, eq. 13
(CTC beside attention); Kanda et al. 2020, arXiv:2003.12687 (serialized output of several speakers).
"""

import torch
import torch.nn.functional as F

from models.sequence.batch import Batch
from models.sequence.tokenizer import ByteTokenizer


def ctc_loss(hidden: torch.Tensor, text_weight: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the sum of the negative log-likelihoods of documents' predicted text, given the audio of their prompts.

    Documents without one or the other count for nothing, and neither do those with more text than columns.

    Args:
        hidden: (N, d) states of all columns.
        text_weight: (V, d) the text head; id 0 is the blank.
        batch: packed documents.
    """
    starts = batch.cu_seqlens[:-1].to(torch.int64)
    number = len(starts)
    prompts = torch.tensor(batch.prompts, device=hidden.device)
    inner = batch.cu_seqlens[1:].to(torch.int64)
    of_column = torch.searchsorted(inner, batch.audio_columns, right=True)
    in_prompt = batch.audio_columns < (starts + prompts)[of_column]
    columns, of_column = batch.audio_columns[in_prompt], of_column[in_prompt]
    is_word = batch.text_targets != ByteTokenizer.END
    targets, of_target = batch.text_targets[is_word], torch.searchsorted(inner, batch.text_from[is_word], right=True)
    input_lengths = torch.bincount(of_column, minlength=number)
    target_lengths = torch.bincount(of_target, minlength=number)
    used = (input_lengths >= target_lengths) & (target_lengths > 0)
    if not bool(used.any()):
        return hidden.sum() * 0.0
    keep = used[of_column]
    columns, of_column = columns[keep], of_column[keep]
    targets = targets[used[of_target]]
    input_lengths, target_lengths = input_lengths[used], target_lengths[used]
    row = torch.cumsum(used, 0)[of_column] - 1
    first = torch.cumsum(input_lengths, 0) - input_lengths
    place = torch.arange(len(columns), device=hidden.device) - first[row]
    logits = F.linear(hidden[columns], text_weight).float()
    padded = logits.new_zeros((int(input_lengths.max()), int(used.sum()), logits.shape[1]))
    padded[place, row] = F.log_softmax(logits, dim=-1)
    return F.ctc_loss(
        padded, targets, input_lengths, target_lengths, blank=ByteTokenizer.PAD, reduction="sum", zero_infinity=True
    )
