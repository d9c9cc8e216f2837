"""Attention within short documents on a CPU: two matrix products a document, its scores kept for the backward pass.

SDPA's CPU kernel works in tiles so that scores need not be kept, which pays from some 400 columns on. Below, all heads
that share keys are one product, and it is a tenth to a third faster. What it equals is the mask of `attention.py`
(tests/models/speech_lm/test_speech_lm.py).
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

LONGEST = 384
"""Columns of the longest document that is better done here."""


def is_supported(q: torch.Tensor, longest: int) -> bool:
    """Return whether queries (N, H, D), in documents of at most `longest` columns, are faster here than by SDPA."""
    return q.device.type == "cpu" and q.dtype in (torch.float32, torch.float64) and longest <= LONGEST


def short_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], prompts: list[int]
) -> torch.Tensor:
    """Attend causally within each document, within its prompt in both directions.

    Args:
        q: queries (N, H, D).
        k: keys (N, G, D).
        v: values (N, G, D).
        lengths: columns of each document, N in all.
        prompts: of them, those that every column of the document sees.
    """
    out: torch.Tensor = _Attention.apply(q, k, v, lengths, prompts)  # type: ignore[no-untyped-call]
    return out


def _by_key(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Return heads (L, H, D) as (G, H / G L, D), one below the other where they share keys."""
    return x.view(len(x), groups, -1, x.shape[-1]).permute(1, 2, 0, 3).flatten(1, 2)


def _by_column(x: torch.Tensor, length: int) -> torch.Tensor:
    """Return (G, H / G L, D) as heads (L, G, H / G, D)."""
    return x.view(len(x), -1, length, x.shape[-1]).permute(2, 0, 1, 3)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], prompts: list[int]
    ) -> torch.Tensor:
        out, groups = torch.empty_like(q, memory_format=torch.contiguous_format), k.shape[1]
        later = q.new_full((max(lengths, default=0),) * 2, -torch.inf).triu_(1)
        places = torch.split(out.view(len(q), groups, -1, q.shape[-1]), lengths)
        kept = []
        for one, keys, values, place, prompt in zip(
            *(torch.split(x, lengths) for x in (q, k, v)), places, prompts, strict=True
        ):
            length = len(one)
            scores = torch.bmm(_by_key(one, groups), keys.permute(1, 2, 0)).mul_(q.shape[-1] ** -0.5)
            scores.view(groups, -1, length, length)[..., prompt:].add_(later[:length, prompt:length])
            weights = torch.softmax(scores, dim=-1)
            place.copy_(_by_column(torch.bmm(weights, values.transpose(0, 1)), length))
            if any(ctx.needs_input_grad):
                kept.append(weights)
        ctx.lengths = lengths
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        groups, scale = k.shape[1], q.shape[-1] ** -0.5
        of_q, of_k, of_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        wholes = (gradient, q, k, v, of_q.view(len(q), groups, -1, q.shape[-1]), of_k, of_v)
        for weights, given, one, keys, values, at_q, at_k, at_v in zip(
            kept, *(torch.split(whole, ctx.lengths) for whole in wholes), strict=True
        ):
            given, one = _by_key(given, groups), _by_key(one, groups)  # noqa: PLW2901
            at_v.copy_(torch.bmm(weights.transpose(1, 2), given).transpose(0, 1))
            of_weights = torch.bmm(given, values.permute(1, 2, 0))
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, q.dtype).mul_(scale)  # noqa: SLF001
            at_q.copy_(_by_column(torch.bmm(of_scores, keys.transpose(0, 1)), keys.shape[0]))
            at_k.copy_(torch.bmm(of_scores.transpose(1, 2), one).transpose(0, 1))
        return of_q, of_k, of_v, None, None
