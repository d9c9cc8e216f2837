"""Which way of attention a device is to use: the best that its types of numbers allow, tried once."""

import warnings
from functools import cache

import torch

from models.config.options import Backend
from models.speech_lm.attention.packed import packed_attention

_ORACLE: Backend = "loop"
_TRIAL_TOLERANCE = 0.05
"""Largest difference to `loop`, relative to the largest value: both round to 16 bits on the way."""


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
        found["flex"] = "FlexAttention, compiled for a mask of documents"
    found["loop"] = "one document after the other; the fastest exact way on a CPU"
    found["mask"] = "one SDPA under a block-diagonal mask; the oracle of the tests"
    return found


def why_not(backend: Backend, dtype: torch.dtype, head_width: int) -> str:
    """Return why a backend cannot take a type of numbers or a width of heads; empty where it can."""
    if backend not in ("flash", "varlen"):
        return ""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it takes 16 bits, not {str(dtype).removeprefix('torch.')} (--train.precision bf16)"
    if head_width % 8 or head_width > 256:
        return f"it takes heads up to 256 wide, in steps of 8, not {head_width}"
    return ""


def choose_backend(
    device_type: str, wanted: Backend = "auto", dtype: torch.dtype = torch.float32, head_width: int = 64
) -> Backend:
    """Return the backend to use; a GPU's kernel is tried once, and the next one taken, with a warning, where it fails.

    Args:
        device_type: cpu or cuda.
        wanted: auto for the best.
        dtype: of queries, keys and values.
        head_width: of each.

    Raises:
        ValueError: the wanted one cannot run here.
    """
    found = available_backends(device_type)
    if wanted != "auto":
        if wanted not in found:
            raise ValueError(f"attention {wanted} cannot run on {device_type}; there are {', '.join(found)}")
        if reason := why_not(wanted, dtype, head_width):
            raise ValueError(f"attention {wanted} cannot be used: {reason}")
        return wanted
    for backend in found:
        if not why_not(backend, dtype, head_width) and not _failure(backend, device_type, dtype, head_width):
            return backend
    return "loop"


@cache
def _failure(backend: Backend, device_type: str, dtype: torch.dtype, head_width: int) -> str:
    """Try a GPU's kernel against `loop`, with gradients; return what went wrong, of which a warning is given."""
    if backend in ("loop", "mask"):
        return ""
    device, boundaries = torch.device(device_type), (0, 20, 21, 37)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(37, heads, head_width, generator=generator) for heads in (4, 2, 2)]
    cu_seqlens = torch.tensor(boundaries, dtype=torch.int32, device=device)
    failure, ways = "", (backend, _ORACLE)
    # The first use may be in the middle of a step: under autocast, or without gradients.
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        for prompts in (None, (5, 1, 9)):
            results = []
            try:
                for way in ways:
                    q, k, v = (one.to(device, dtype).requires_grad_() for one in drawn)
                    out = packed_attention(q, k, v, cu_seqlens, boundaries, 20, way, prompts)
                    results.append([out.detach(), *torch.autograd.grad(out.float().square().sum(), (q, k, v))])
                errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True)]
                if not max(errors) < _TRIAL_TOLERANCE:
                    failure = f"values differ by {max(errors):.2g} of the largest"
            except Exception as error:  # noqa: BLE001 - whatever a kernel or a compiler of another build raises
                failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if failure:
                warnings.warn(f"attention {backend} is not used on {device_type}: {failure}", stacklevel=3)
                break
    return failure
