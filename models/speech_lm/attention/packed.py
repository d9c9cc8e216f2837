"""Causal attention in packed documents: no document sees another. Five ways, equal in values and gradients.

`loop` is one document after the other: exact, and on a CPU several times faster than a mask. `mask` is one SDPA under a
block-diagonal mask: the oracle of the tests. `varlen` is torch's own variable-length kernel, `flash` that of the
flash-attn package, `flex` FlexAttention: CUDA only.
"""

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F

from models.config.options import Backend
from models.speech_lm.attention.short import is_supported, short_attention


@dataclass(frozen=True)
class PackedAttention:
    """Attention over one batch: what follows from the borders of its documents is made once, for all layers.

    Attention is causal within each document, and within its prompt it may be in both directions.
    """

    cu_seqlens: torch.Tensor
    """int32 (documents + 1,), from 0 to N."""
    boundaries: tuple[int, ...]
    """The same as plain integers."""
    max_seqlen: int
    """Longest document."""
    backend: Backend
    """Which way; not `auto`."""
    prompts: tuple[int, ...] | None = None
    """Columns of each document that every column of it sees; none where attention is causal throughout.
    Source: Raffel et al. 2020, "T5", arXiv:1910.10683, section 3.2.1 (prefix language model)."""

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return (N, H, D) of queries (N, H, D), keys and values (N, G, D); every H / G query heads share one."""
        gqa = q.shape[1] != k.shape[1]
        match self.backend:
            case "loop":
                return _one_by_one(q, k, v, self.boundaries, self.prompts)
            case "mask":
                one, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
                out = F.scaled_dot_product_attention(one, keys, values, attn_mask=self._seen, enable_gqa=gqa)
                return out[0].transpose(0, 1)
            case "flex":
                one, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
                attended = _flex(q.device.type)(one, keys, values, block_mask=self._blocks, enable_gqa=gqa)
                assert isinstance(attended, torch.Tensor)
                return attended[0].transpose(0, 1)
            case "varlen" | "flash" if self.prompts is not None:
                return self._prompt_then_rest(q, k, v)
            case "varlen" | "flash":
                borders, longest = (self.cu_seqlens, self.cu_seqlens), (self.max_seqlen, self.max_seqlen)
                return by_kernel(self.backend, q, k, v, borders, longest, causal=True)
            case _:
                raise ValueError(f"backend {self.backend} must be chosen first: choose_backend")

    @cached_property
    def _document(self) -> torch.Tensor:
        """The document of each column (N,)."""
        numbers = torch.arange(len(self.boundaries) - 1, device=self.cu_seqlens.device)
        lengths = self.cu_seqlens.diff().to(torch.int64)
        return torch.repeat_interleave(numbers, lengths, output_size=self.boundaries[-1])

    @cached_property
    def _inside(self) -> torch.Tensor:
        """The place of each column (N,) in its document."""
        numbers = torch.arange(self.boundaries[-1], device=self.cu_seqlens.device)
        return numbers - self.cu_seqlens[:-1].to(torch.int64)[self._document]

    @cached_property
    def _given(self) -> torch.Tensor:
        """The columns of the prompt of each column's document (N,)."""
        if self.prompts is None:
            return torch.zeros_like(self._document)
        return torch.tensor(self.prompts, device=self.cu_seqlens.device)[self._document]

    @cached_property
    def _seen(self) -> torch.Tensor:
        """Which column (N) sees which (N)."""
        same = self._document[:, None] == self._document[None, :]
        return same & (torch.ones_like(same).tril() | (self._inside < self._given)[None, :])

    @cached_property
    def _blocks(self) -> Any:
        """FlexAttention's mask: the same, by blocks."""
        from torch.nn.attention.flex_attention import create_block_mask

        document, inside, given = self._document, self._inside, self._given

        def seen(_b: torch.Tensor, _h: torch.Tensor, at: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (document[at] == document[key]) & ((at >= key) | (inside[key] < given[key]))

        number, device = self.boundaries[-1], self.cu_seqlens.device
        return create_block_mask(seen, None, None, number, number, device=str(device))

    @cached_property
    def _split(self) -> "_Split":
        """Prompts and the rest, counted on the host, so that no layer waits for the device."""
        assert self.prompts is not None
        lengths, given = torch.tensor(self.boundaries).diff(), torch.tensor(self.prompts)
        inside = torch.arange(self.boundaries[-1])
        inside = inside - torch.repeat_interleave(torch.tensor(self.boundaries[:-1]), lengths)
        is_prompt = inside < torch.repeat_interleave(given, lengths)
        prompt, rest = is_prompt.nonzero()[:, 0], (~is_prompt).nonzero()[:, 0]
        back, device = torch.cat([prompt, rest]).argsort(), self.cu_seqlens.device

        def borders(sizes: torch.Tensor) -> torch.Tensor:
            return F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32).to(device, non_blocking=True)

        return _Split(
            prompt=prompt.to(device, non_blocking=True),
            rest=rest.to(device, non_blocking=True),
            back=back.to(device, non_blocking=True),
            of_prompts=borders(given),
            of_rest=borders(lengths - given),
            longest=(int(given.max()), int((lengths - given).max())),
        )

    def _prompt_then_rest(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attend by two calls of a kernel: prompts in both directions, then the rest causally to all before."""
        split = self._split
        asked, keys, values = (one.index_select(0, split.prompt) for one in (q, k, v))
        borders, longest = (split.of_prompts, split.of_prompts), (split.longest[0], split.longest[0])
        first = by_kernel(self.backend, asked, keys, values, borders, longest, causal=False)
        if not len(split.rest):
            return first.index_select(0, split.back)
        # Where there are more keys than queries, the kernels align the causal mask at the ends.
        borders, longest = (split.of_rest, self.cu_seqlens), (split.longest[1], self.max_seqlen)
        second = by_kernel(self.backend, q.index_select(0, split.rest), k, v, borders, longest, causal=True)
        return torch.cat([first, second]).index_select(0, split.back)


@dataclass(frozen=True)
class _Split:
    """Columns of prompts, and the others, of a batch."""

    prompt: torch.Tensor  # (P,) columns
    rest: torch.Tensor  # (R,) columns
    back: torch.Tensor  # (N,) place of each column among first the ones, then the others
    of_prompts: torch.Tensor  # int32 (documents + 1,)
    of_rest: torch.Tensor  # int32 (documents + 1,)
    longest: tuple[int, int]  # prompt, and rest


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
    """Return (N, H, D) of queries (N, H, D), keys and values (N, G, D): `PackedAttention`, of one layer."""
    return PackedAttention(cu_seqlens, boundaries, max_seqlen, backend, prompts)(q, k, v)


def by_kernel(
    backend: Backend,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    borders: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    *,
    causal: bool,
) -> torch.Tensor:
    """Call flash-attn's kernel, or torch's, which before 2.12 knows no grouped heads: they are repeated.

    Args:
        backend: flash or varlen.
        q: queries (N, H, D).
        k: keys (M, G, D).
        v: values (M, G, D).
        borders: of queries and of keys, as `cu_seqlens`.
        longest: sequence of queries, and of keys.
        causal: whether a query sees only the keys up to its place, counted from the end.
    """
    if backend == "flash":
        from flash_attn import flash_attn_varlen_func

        flash: torch.Tensor = flash_attn_varlen_func(q, k, v, *borders, *longest, causal=causal)
        return flash
    from torch.nn.attention.varlen import varlen_attn

    call: Callable[..., torch.Tensor] = varlen_attn  # type: ignore[assignment]
    options: dict[str, Any] = {"window_size": (-1, 0) if causal else (-1, -1)}
    if (repeats := q.shape[1] // k.shape[1]) > 1:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            options["enable_gqa"] = True
        else:
            k, v = (one.repeat_interleave(repeats, dim=1) for one in (k, v))
    return call(q, k, v, *borders, *longest, **options)


@cache
def _flex(device_type: str) -> Callable[..., Any]:
    """Return FlexAttention, compiled once for a GPU; on a CPU it has no backward pass: it is only tested there."""
    from torch.nn.attention.flex_attention import flex_attention

    attend: Callable[..., Any] = flex_attention
    return torch.compile(attend, dynamic=True) if device_type == "cuda" else attend


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
