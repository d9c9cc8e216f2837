"""Columns of a batch split over a group of ranks, for packs that are longer than a device can hold.

Every rank has some of the columns, of all heads; for attention, columns are exchanged for heads: every rank then has
all columns, of some of the heads, and attends as if it were alone. Document masks and prompts are therefore as ever.
Source: Jacobs et al. 2023, "DeepSpeed Ulysses", arXiv:2309.14509, section 3.1.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from models.sequence.batch import Batch
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.transformer import Attend


@dataclass(frozen=True)
class ContextGroup:
    """The ranks that have the same packs, and some of their columns each."""

    rank: int
    """This one's place among them."""
    size: int
    group: Any
    """Their process group."""

    def borders(self, num_columns: int) -> list[int]:
        """Return where each rank's columns begin, and where the last one's end.

        >>> ContextGroup(0, 3, None).borders(10)
        [0, 3, 6, 10]
        """
        return [rank * num_columns // self.size for rank in range(self.size + 1)]

    def part(self, batch: Batch) -> Batch:
        """Return this rank's columns of a batch, and the cells that are predicted from them.

        Documents' borders and prompts stay those of the whole batch: attention is over all of its columns. A batch of
        fewer columns than ranks is followed by an empty document, so that each has one.
        """
        batch = batch.padded(self.size)
        begin, end = self.borders(len(batch.text))[self.rank :][:2]

        def inside(columns: torch.Tensor) -> torch.Tensor:
            return (columns >= begin) & (columns < end)

        audio, text_from, audio_from = map(inside, (batch.audio_columns, batch.text_from, batch.audio_from))
        text_targets = batch.text_targets[text_from]
        return replace(
            batch,
            text=batch.text[begin:end],
            positions=batch.positions[begin:end],
            audio=batch.audio[audio],
            audio_columns=batch.audio_columns[audio] - begin,
            text_from=batch.text_from[text_from] - begin,
            text_targets=text_targets,
            text_weights=batch.text_weights[text_from],
            audio_from=batch.audio_from[audio_from] - begin,
            audio_targets=batch.audio_targets[audio_from],
            audio_weights=batch.audio_weights[audio_from],
            text_pads=(text_targets == ByteTokenizer.PAD).nonzero()[:, 0],
            text_says=(text_targets != ByteTokenizer.PAD).nonzero()[:, 0],
        )

    def spread(self, attend: Attend, num_columns: int) -> Attend:
        """Return attention of this rank's columns to those of all ranks.

        Args:
            attend: of all columns, and of some of the heads.
            num_columns: of all ranks.
        """
        sizes = [end - begin for begin, end in itertools.pairwise(self.borders(num_columns))]
        mine = [sizes[self.rank]] * self.size

        def spread_attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if (repeats := self.size // math.gcd(self.size, k.shape[1])) > 1:
                k, v = (one.repeat_interleave(repeats, dim=1) for one in (k, v))  # so that each rank has its own
            number, _, width = q.shape
            heads = [one.shape[1] // self.size for one in (q, k, v)]  # of each rank
            shares = [one.view(number, self.size, n, width) for one, n in zip((q, k, v), heads, strict=True)]
            rows = torch.cat(shares, 2).transpose(0, 1).flatten(0, 1)  # (ranks * columns, heads, D)
            attended = attend(*torch.split(_exchange(rows, mine, sizes, self.group), heads, 1))
            back = _exchange(attended, sizes, mine, self.group)
            return back.view(self.size, number, heads[0], width).transpose(0, 1).flatten(1, 2)

        return spread_attend


def make_context(size: int) -> ContextGroup | None:
    """Return this rank's group of so many neighbouring ranks, None of one; every rank must call this."""
    if size == 1:
        return None
    group, _ = dist.new_subgroups(size)  # type: ignore[no-untyped-call]
    return ContextGroup(dist.get_rank() % size, size, group)


def _exchange(rows: torch.Tensor, sent: list[int], received: list[int], group: Any) -> torch.Tensor:
    """Send so many rows to each rank of a group; return what each has sent to this one, by rank."""
    out: torch.Tensor = _AllToAll.apply(rows, sent, received, group)  # type: ignore[no-untyped-call]
    return out


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, sent: list[int], received: list[int], group: Any) -> torch.Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        out = rows.new_empty((sum(received), *rows.shape[1:]))
        dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        back = gradient.new_empty((sum(ctx.sent), *gradient.shape[1:]))
        dist.all_to_all_single(back, gradient.contiguous(), ctx.sent, ctx.received, group=ctx.group)
        return back, None, None, None
