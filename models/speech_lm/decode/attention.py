"""Attention of the newest column of each slot to its own: SDPA, or on a GPU a kernel for it, where it proves itself."""

import functools
import os
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Queries (B, H, D), keys and values (B, G, D) of the newest column, those of a window (B, W, G, D), which they are
written to, and the columns before (B,), to outputs (B, H, D)."""

_TRIAL_TOLERANCE = 0.03
"""Largest difference to SDPA, relative to the largest value: both round to 16 bits on the way."""


def bias_of(lengths: torch.Tensor, window: int, dtype: torch.dtype) -> torch.Tensor:
    """Return (B, W) what SDPA adds to scores: 0 for columns up to the newest, -inf for those beyond."""
    beyond = torch.arange(window, device=lengths.device)[None] > lengths[:, None]
    return torch.zeros(beyond.shape, dtype=dtype, device=lengths.device).masked_fill_(beyond, -torch.inf)


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, *, folded: bool
) -> torch.Tensor:
    """Return attention (B, H, D) of one query a head to a window of columns.

    Args:
        q: queries (B, H, D).
        keys: (B, W, G, D); every H / G query heads share one.
        values: (B, W, G, D).
        bias: (B, W), as from `bias_of`.
        folded: whether heads that share keys are queries of one head: on a GPU no kernel that takes a bias knows shared
            keys, and they would be copied for every head and step.
    """
    groups = keys.shape[2]
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    if not folded:
        out = F.scaled_dot_product_attention(
            q[:, :, None], keys, values, attn_mask=bias[:, None, None], enable_gqa=q.shape[1] != groups
        )
        return out[:, :, 0]
    shared = q.view(len(q), groups, -1, q.shape[2])  # (B, G, H / G, D)
    return F.scaled_dot_product_attention(shared, keys, values, attn_mask=bias[:, None, None]).flatten(1, 2)


def kernel_for(q: torch.Tensor, keys: torch.Tensor) -> Kernel | None:
    """Return the kernel for queries (B, H, D) and keys (B, W, G, D), if they are on a GPU where it proves itself."""
    if q.device.type != "cuda" or q.dtype is not torch.bfloat16:
        return None
    return _tried(str(q.device), q.shape[1], keys.shape[2], q.shape[2])


@functools.cache
def _tried(device: str, heads: int, groups: int, width: int) -> Kernel | None:
    """Try the kernel against SDPA once per process; HUBBUB_KERNELS=plain disables it."""
    if os.environ.get("HUBBUB_KERNELS") == "plain":
        return None
    try:
        from models.speech_lm.decode.attention_kernels import attend_in_parts

        kernel: Kernel = attend_in_parts
        failure = ""
        for rows in (1, 40):
            error = disagreement(kernel, device, (rows, heads, groups, width), torch.bfloat16)
            if not error < _TRIAL_TOLERANCE:
                failure = f"values differ by {error:.2g} of the largest"
    except Exception as error:  # noqa: BLE001 - whatever a driver or a compiler of another build raises
        failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if failure:
        warnings.warn(f"decoding on {device} attends by SDPA: {failure}", stacklevel=2)
        return None
    return kernel


def disagreement(kernel: Kernel, device: str, size: tuple[int, int, int, int], dtype: torch.dtype) -> float:
    """Return the largest difference of a kernel to SDPA, relative to the largest value.

    Args:
        kernel: to be tried.
        device: where.
        size: rows, query heads, heads of keys, and the width of each.
        dtype: of queries, keys and values.
    """
    rows, heads, groups, width = size
    generator = torch.Generator().manual_seed(0)
    window = 320
    q = torch.randn(rows, heads, width, generator=generator).to(device, dtype)
    stored = [torch.randn(rows, window + 64, groups, width, generator=generator).to(device, dtype) for _ in range(2)]
    lengths = (torch.arange(rows) * 67 % window).to(device)
    lengths[-1] = window - 1
    k, v = (torch.randn(rows, groups, width, generator=generator).to(device, dtype) for _ in range(2))
    found = []
    for way in (kernel, plain_step):
        kept = [one.clone() for one in stored]
        out = way(q, k, v, kept[0][:, :window], kept[1][:, :window], lengths)
        found.append([out.float(), *(one.float() for one in kept)])
    return max(float((ours - plain).abs().max() / plain.abs().max()) for ours, plain in zip(*found, strict=True))


def plain_step(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Do by SDPA what a `Kernel` does."""
    rows = torch.arange(len(q), device=q.device)
    keys[rows, lengths], values[rows, lengths] = k, v
    return attend(q, keys, values, bias_of(lengths, keys.shape[1], q.dtype), folded=True)
