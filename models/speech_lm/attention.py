"""Causal attention in packed documents: no document sees another. Five ways, equal in values and gradients.

`loop` is one document after the other: exact, and on a CPU several times faster than a mask. `mask` is one SDPA under a
block-diagonal mask: the oracle of the tests. `varlen` is torch's own variable-length kernel, `flash` that of the
flash-attn package, `flex` FlexAttention: CUDA only.
"""

import inspect
import itertools
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from models.config.options import Backend
from models.speech_lm.short_attention import is_supported, short_attention

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


def packed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor,
    boundaries: tuple[int, ...],
    max_seqlen: int,
    backend: Backend,
    prompts: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """Attend causally within each document; within its prompt in both directions, if asked.

    Args:
        q: queries (N, H, D).
        k: keys (N, G, D); every H / G query heads share one.
        v: values (N, G, D).
        cu_seqlens: int32 (documents + 1,), from 0 to N.
        boundaries: the same as plain integers.
        max_seqlen: longest document.
        backend: which way; not `auto`.
        prompts: columns of each document that every column of it sees; none where attention is causal throughout.
            Source: Raffel et al. 2020, "T5", arXiv:1910.10683, section 3.2.1 (prefix language model).

    Returns:
        (N, H, D).
    """
    gqa = q.shape[1] != k.shape[1]
    match backend:
        case "loop":
            return _one_by_one(q, k, v, boundaries, prompts)
        case "mask":
            document = torch.repeat_interleave(
                torch.arange(len(boundaries) - 1, device=q.device), cu_seqlens.diff().to(torch.int64)
            )
            same = document[:, None] == document[None, :]
            causal = torch.ones_like(same).tril()
            if prompts is not None:
                begins = cu_seqlens[:-1].to(torch.int64)[document]
                given = torch.tensor(prompts, device=q.device)[document]
                causal |= (torch.arange(len(document), device=q.device) - begins < given)[None, :]
            one, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
            out = F.scaled_dot_product_attention(one, keys, values, attn_mask=same & causal, enable_gqa=gqa)
            return out[0].transpose(0, 1)
        case "flex":
            return _flex(q, k, v, cu_seqlens, prompts)
        case "varlen" | "flash" if prompts is not None:
            return _prompt_then_rest(q, k, v, boundaries, prompts, backend)
        case "varlen":
            return _varlen(q, k, v, (cu_seqlens, cu_seqlens), (max_seqlen, max_seqlen), (-1, 0))
        case "flash":
            from flash_attn import flash_attn_varlen_func

            flash: torch.Tensor = flash_attn_varlen_func(
                q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, causal=True
            )
            return flash
        case _:
            raise ValueError(f"backend {backend} must be chosen first: choose_backend")


def _varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    borders: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    window_size: tuple[int, int],
) -> torch.Tensor:
    """Call torch's variable-length kernel; before torch 2.12 it knows no grouped heads, which are then repeated.

    Args:
        q: queries (N, H, D).
        k: keys (M, G, D).
        v: values (M, G, D).
        borders: of queries and of keys, as `cu_seqlens`.
        longest: sequence of queries, and of keys.
        window_size: keys that are seen before and after a query; -1 for all.
    """
    from torch.nn.attention.varlen import varlen_attn

    call: Callable[..., torch.Tensor] = varlen_attn  # type: ignore[assignment]
    options: dict[str, Any] = {"window_size": window_size}
    if (repeats := q.shape[1] // k.shape[1]) > 1:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            options["enable_gqa"] = True
        else:
            k, v = (one.repeat_interleave(repeats, dim=1) for one in (k, v))
    return call(q, k, v, *borders, *longest, **options)


def _one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: tuple[int, ...], prompts: tuple[int, ...] | None
) -> torch.Tensor:
    """Attend document by document: by SDPA, in two where a prompt sees itself in both directions; short ones apart."""
    gqa = q.shape[1] != k.shape[1]
    # Split, not sliced: the gradient of a slice is as long as all documents together, that of a split is one
    # concatenation.
    lengths = [end - start for start, end in itertools.pairwise(boundaries)]
    if is_supported(q, max(lengths, default=0)):
        return short_attention(q, k, v, lengths, list(prompts or [0] * len(lengths)))
    documents = zip(*(torch.split(x, lengths) for x in (q, k, v)), prompts or itertools.repeat(0), strict=False)
    parts = []
    for *parts_of_one, prompt in documents:
        one, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in parts_of_one)  # (1, heads, L, D)
        if prompt <= 1:
            out = F.scaled_dot_product_attention(one, keys, values, is_causal=True, enable_gqa=gqa)
            parts.append(out[0].transpose(0, 1))
            continue
        first, rest = torch.split(one, [prompt, one.shape[2] - prompt], dim=2)
        seen, held = keys[:, :, :prompt], values[:, :, :prompt]
        parts.append(F.scaled_dot_product_attention(first, seen, held, enable_gqa=gqa)[0].transpose(0, 1))
        if rest.shape[2]:
            below = torch.ones(rest.shape[2], one.shape[2], dtype=torch.bool, device=q.device).tril(prompt)
            out = F.scaled_dot_product_attention(rest, keys, values, attn_mask=below, enable_gqa=gqa)
            parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def _flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, prompts: tuple[int, ...] | None
) -> torch.Tensor:
    """Attend by FlexAttention; on a CPU it has no backward pass, and serves to be tested there."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    number, device = len(q), q.device
    lengths = cu_seqlens.diff().to(torch.int64)
    document = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
    inside = torch.arange(number, device=device) - cu_seqlens[:-1].to(torch.int64)[document]
    given = torch.zeros_like(document) if prompts is None else torch.tensor(prompts, device=device)[document]

    def seen(_b: torch.Tensor, _h: torch.Tensor, at: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (document[at] == document[key]) & ((at >= key) | (inside[key] < given[key]))

    mask = create_block_mask(seen, None, None, number, number, device=str(device))
    attend = torch.compile(flex_attention, dynamic=True) if device.type == "cuda" else flex_attention
    one, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    out = attend(one, keys, values, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    assert isinstance(out, torch.Tensor)
    return out[0].transpose(0, 1)


def _prompt_then_rest(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: tuple[int, ...],
    prompts: tuple[int, ...],
    backend: Backend,
) -> torch.Tensor:
    """Attend by two variable-length calls: prompts in both directions, then the rest causally to all before."""
    lengths = torch.tensor(boundaries).diff()
    given = torch.tensor(prompts)
    inside = torch.arange(int(lengths.sum())) - torch.repeat_interleave(torch.tensor(boundaries[:-1]), lengths)
    is_prompt = (inside < torch.repeat_interleave(given, lengths)).to(q.device)

    def borders(sizes: torch.Tensor) -> torch.Tensor:
        return F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32).to(q.device)

    def attend(
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        sizes: torch.Tensor,
        seen: torch.Tensor,
        causal: bool,
    ) -> torch.Tensor:
        longest = int(sizes.max()), int(seen.max())
        # Where there are more keys than queries, both kernels align the causal mask at the ends.
        if backend == "flash":
            from flash_attn import flash_attn_varlen_func

            flash: torch.Tensor = flash_attn_varlen_func(
                queries, keys, values, borders(sizes), borders(seen), *longest, causal=causal
            )
            return flash
        window = (-1, 0) if causal else (-1, -1)
        return _varlen(queries, keys, values, (borders(sizes), borders(seen)), longest, window)

    out = torch.empty_like(q)
    out = out.index_put((is_prompt,), attend(q[is_prompt], k[is_prompt], v[is_prompt], given, given, causal=False))
    if not bool(is_prompt.all()):
        out = out.index_put((~is_prompt,), attend(q[~is_prompt], k, v, lengths - given, lengths, causal=True))
    return out
