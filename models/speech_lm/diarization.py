"""Recognition told by a diarization whom to hear: frames of sound are transformed by who speaks in them.

Each frame is silence, of the asked talker, of others, or of both at once; each of these has its own transformation.
Sources: Polok et al. 2024, "DiCoW", arXiv:2501.00114, section 3 (frame-level diarization-dependent transformations).
"""

import torch
from torch import nn

from models.sequence.batch import Batch
from models.sequence.tokenizer import ByteTokenizer

SILENCE, TARGET, OTHERS, OVERLAP = range(4)
_FAINT = 0.1
"""What silence and others are multiplied by before anything is trained, where the sound comes in."""


def classes_of(batch: Batch) -> torch.Tensor:
    """Return what each column of audio (A, 4) is, as 0 and 1: silence, the asked talker, others, or overlap.

    The asked talker is the one whose tag follows the task `asr_talker`; in other documents, which ask for nobody, all
    are 0. Who speaks where is what `Batch.talker_spans` say.
    """
    device, most = batch.text.device, ByteTokenizer.MAX_SPEAKERS
    who, start, end = batch.talker_spans.T.contiguous()
    edges = torch.zeros((len(batch.text) + 1) * most, device=device)
    edges.index_add_(0, start * most + who, torch.ones(len(who), device=device))
    edges.index_add_(0, end * most + who, -torch.ones(len(who), device=device))
    active = (edges.view(-1, most)[:-1].cumsum(0) > 0.5)[batch.audio_columns]
    first = batch.cu_seqlens[:-1].to(torch.int64)
    tags = batch.text[(first + 1).clamp(max=len(batch.text) - 1)] - ByteTokenizer.FIRST_SPEAKER
    asked = (batch.text[first] == ByteTokenizer.ASR_TALKER) & (tags >= 0) & (tags < most)
    document = torch.searchsorted(batch.cu_seqlens[1:].to(torch.int64), batch.audio_columns, right=True)
    own = active.gather(1, tags.clamp(0, most - 1)[document, None])[:, 0]
    others = active.sum(dim=1) > own.to(torch.int64)
    kinds = torch.stack([~own & ~others, own & ~others, ~own & others, own & others], dim=1)
    return (kinds & asked[document, None]).to(torch.float32)


def of_frames(classes: torch.Tensor, lengths: list[int], per_column: int, tail: int) -> list[torch.Tensor]:
    """Return the classes (F, 4) of the frames of each stretch, of which there are so many columns (A, 4) in all.

    Args:
        classes: of columns.
        lengths: columns of each stretch.
        per_column: frames of a column.
        tail: frames behind each stretch, which are silence.
    """
    found = []
    for one in torch.split(classes, lengths):
        behind = torch.zeros_like(one[:1]).index_fill(1, torch.tensor([SILENCE], device=one.device), 1.0)
        behind = behind * one[:1].sum(dim=1, keepdim=True)  # nothing where nobody is asked for
        found.append(torch.cat([one.repeat_interleave(per_column, dim=0), behind.expand(tail, -1)]))
    return found


class FrameTransforms(nn.Module):
    """x * (1 + gain) + shift, where gain and shift are those of the frame's class; frames of no class stay."""

    def __init__(self, width: int, *, is_first: bool) -> None:
        """Make the values: nothing is changed at first, but that silence and others come in faintly.

        Args:
            width: of the frames.
            is_first: whether these are the transformations where the sound comes in.
        """
        super().__init__()
        self.gain_update_up = nn.Parameter(torch.zeros(4, width))
        self.shift_update_up = nn.Parameter(torch.zeros(4, width))
        start = torch.zeros(4, 1)
        if is_first:
            start[SILENCE] = start[OTHERS] = _FAINT - 1.0
        self.register_buffer("start", start, persistent=False)
        self.start: torch.Tensor

    def forward(self, frames: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return frames (..., F, width) transformed by their classes (..., F, 4)."""
        classes = classes.to(frames.dtype)
        gain = classes @ (self.gain_update_up + self.start).to(frames.dtype)
        return frames * (1.0 + gain) + classes @ self.shift_update_up.to(frames.dtype)
