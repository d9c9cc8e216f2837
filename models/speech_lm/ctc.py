"""An auxiliary CTC loss: prompt audio is also transcribed column by column, which speeds up alignment.

The text head does both, and its pad is CTC's blank: there are no further parameters, and nothing at inference.
Source: Graves et al. 2006, doi:10.1145/1143844.1143891; Watanabe et al. 2017, doi:10.1109/JSTSP.2017.2763455, eq. 13
(CTC beside attention); Kanda et al. 2020, arXiv:2003.12687 (serialized output of several speakers).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from models.kernels.ctc import full_ctc, linear_ctc
from models.sequence.batch import Batch
from models.sequence.tokenizer import ByteTokenizer

_NOT_HEARD = (ByteTokenizer.PAD, ByteTokenizer.END, ByteTokenizer.AUDIO, ByteTokenizer.AUDIO_END)


@dataclass(frozen=True)
class CtcTargets:
    """What the CTC loss of a batch is about: prompt audio, and the text that is predicted from it."""

    columns: torch.Tensor  # (C,) columns of prompt audio
    of_column: torch.Tensor  # (C,) their documents
    targets: torch.Tensor  # (L,) tokens
    of_target: torch.Tensor  # (L,) their documents
    input_lengths: torch.Tensor  # (documents,)
    target_lengths: torch.Tensor  # (documents,)
    has_both: torch.Tensor  # (documents,) bool: audio in the prompt and text to predict
    usable: torch.Tensor  # (documents,) bool: has both, and the text fits into the columns

    @property
    def num_tokens(self) -> int:
        """Tokens of the documents that can be used: what the summed loss is divided by."""
        return int(self.target_lengths[self.usable].sum())


def ctc_targets(batch: Batch) -> CtcTargets:
    """Return what the CTC loss of a batch is about.

    A text fits where there is a column for each token, and a blank one between two that are equal.
    """
    starts, inner = batch.cu_seqlens[:-1].to(torch.int64), batch.cu_seqlens[1:].to(torch.int64)
    number, device = len(starts), batch.cu_seqlens.device
    prompts = torch.tensor(batch.prompts, device=device)
    of_column = torch.searchsorted(inner, batch.audio_columns, right=True)
    in_prompt = batch.audio_columns < (starts + prompts)[of_column]
    columns, of_column = batch.audio_columns[in_prompt], of_column[in_prompt]
    is_heard = ~torch.isin(batch.text_targets, torch.tensor(_NOT_HEARD, device=device))
    targets = batch.text_targets[is_heard]
    of_target = torch.searchsorted(inner, batch.text_from[is_heard], right=True)
    repeats = (targets[1:] == targets[:-1]) & (of_target[1:] == of_target[:-1])
    input_lengths = torch.bincount(of_column, minlength=number)
    target_lengths = torch.bincount(of_target, minlength=number)
    needed = target_lengths + torch.bincount(of_target[1:][repeats], minlength=number)
    has_both = (input_lengths > 0) & (target_lengths > 0)
    usable = has_both & (input_lengths >= needed)
    return CtcTargets(columns, of_column, targets, of_target, input_lengths, target_lengths, has_both, usable)


def check_ctc(batches: Iterable[Batch]) -> None:
    """Check before training that CTC can use at least half of the documents that it is meant for.

    Raises:
        ValueError: most of them have more text than columns of audio.
    """
    usable = documents = 0
    for batch in batches:
        found = ctc_targets(batch)
        usable, documents = usable + int(found.usable.sum()), documents + int(found.has_both.sum())
    if 2 * usable < documents:
        raise ValueError(
            f"train.ctc_weight: CTC cannot use {documents - usable} of the first {documents} documents, whose text has "
            "more tokens than their audio has columns; set --train.ctc-weight 0, or take a smaller --compose.group or "
            "a tokenizer with fewer tokens"
        )


LARGE_VOCABULARY = 2048
"""Tokens from which on the loss is computed without a matrix of all logits. Of few, that matrix is cheaper."""


def ctc_loss(hidden: torch.Tensor, text_weight: torch.Tensor, batch: Batch, *, of_audio: bool = False) -> torch.Tensor:
    """Return the sum of the negative log-likelihoods of documents' predicted text, given the audio of their prompts.

    Documents without one or the other count for nothing, and neither do those with more text than columns.

    Args:
        hidden: (N, d) states of all columns.
        text_weight: (V, d) the text head; id 0 is the blank.
        batch: packed documents.
        of_audio: the states are those (A, d) of the columns of audio alone.
    """
    found = ctc_targets(batch)
    used = found.usable
    if not bool(used.any()):
        return hidden.sum() * 0.0
    columns = found.columns[used[found.of_column]]
    states = hidden[torch.searchsorted(batch.audio_columns, columns) if of_audio else columns]
    targets = found.targets[used[found.of_target]]
    lengths = found.input_lengths[used], found.target_lengths[used]
    loss = linear_ctc if len(text_weight) >= LARGE_VOCABULARY else full_ctc
    return loss(states, text_weight, targets, *lengths, blank=ByteTokenizer.PAD)
