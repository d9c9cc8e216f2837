"""Causal attention in packed documents: no document sees another. Four ways, equal in values and gradients.

`loop` is one SDPA a document: exact, and on a CPU several times faster than a mask. `mask` is one SDPA under a
block-diagonal mask: the oracle of the tests. `varlen` is torch's own variable-length kernel and `flash` that of
the flash-attn package: CUDA only.
"""

import itertools
from typing import Literal

import torch
import torch.nn.functional as F

Backend = Literal["auto", "loop", "mask", "varlen", "flash"]


def available_backends(device_type: str) -> dict[Backend, str]:
    """Return the backends that can run on a kind of device, best first, with the reason for their place."""
    found: dict[Backend, str] = {}
    if device_type == "cuda":
        try:
            import flash_attn  # noqa: F401

            found["flash"] = "flash-attn is installed"
        except ImportError:
            pass
        try:
            from torch.nn.attention.varlen import varlen_attn  # noqa: F401

            found["varlen"] = "torch's own variable-length kernel"
        except ImportError:
            pass
    found["loop"] = "one SDPA a document; the fastest exact way on a CPU"
    found["mask"] = "one SDPA under a block-diagonal mask; the oracle of the tests"
    return found


def choose_backend(device_type: str, wanted: Backend = "auto") -> Backend:
    """Return the backend to use.

    Raises:
        ValueError: the wanted one cannot run here.
    """
    found = available_backends(device_type)
    if wanted == "auto":
        return next(iter(found))
    if wanted not in found:
        raise ValueError(f"attention {wanted} cannot run on {device_type}; there are {', '.join(found)}")
    return wanted


def packed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    boundaries: tuple[int, ...],
    max_seqlen: int,
    backend: Backend,
) -> torch.Tensor:
    """Attend causally within each document.

    Args:
        q: queries (N, H, D).
        k: keys (N, G, D); every H / G query heads share one.
        v: values (N, G, D).
        cu_seqlens: int32 (documents + 1,), from 0 to N.
        boundaries: the same as plain integers.
        max_seqlen: longest document.
        backend: which way; not `auto`.

    Returns:
        (N, H, D).
    """
    gqa = q.shape[1] != k.shape[1]
    match backend:
        case "loop":
            parts = []
            for start, end in itertools.pairwise(boundaries):
                one, keys, values = (x[start:end].transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # (1, heads, L, D)
                out = F.scaled_dot_product_attention(one, keys, values, is_causal=True, enable_gqa=gqa)
                parts.append(out[0].transpose(0, 1))
            return torch.cat(parts)
        case "mask":
            document = torch.repeat_interleave(
                torch.arange(len(boundaries) - 1, device=q.device), cu_seqlens.diff().to(torch.int64)
            )
            same = document[:, None] == document[None, :]
            causal = torch.ones_like(same).tril()
            one, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
            out = F.scaled_dot_product_attention(one, keys, values, attn_mask=same & causal, enable_gqa=gqa)
            return out[0].transpose(0, 1)
        case "varlen":
            from torch.nn.attention.varlen import varlen_attn

            varlen = varlen_attn(
                q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, window_size=(-1, 0), enable_gqa=gqa
            )
            assert isinstance(varlen, torch.Tensor)
            return varlen
        case "flash":
            from flash_attn import flash_attn_varlen_func

            flash: torch.Tensor = flash_attn_varlen_func(
                q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, causal=True
            )
            return flash
        case _:
            raise ValueError(f"backend {backend} must be chosen first: choose_backend")
