"""Attention of each document's text to the frames of its own sound: lengths of both are free, and nothing is padded."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from models.config.options import Backend
from models.speech_lm.attention.packed import by_kernel


@dataclass(frozen=True)
class Across:
    """Which queries see which frames: those of the same document, all of them. Made once a batch, for all layers.

    A document without sound hears nothing: its output is zero.
    """

    cu_queries: torch.Tensor
    """int32 (documents + 1,), from 0 to N."""
    cu_frames: torch.Tensor
    """int32 (documents + 1,), from 0 to F."""
    longest: tuple[int, int]
    """Bounds of a document's queries, and of its frames."""
    backend: Backend
    """Which way; not `auto`."""

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Return (N, H, D) of queries (N, H, D), and of keys and values (F, H, D) of the frames."""
        if not len(k):
            return q * 0.0 + k.sum()  # a zero through which gradients reach every parameter, on every rank
        if self.backend in ("varlen", "flash"):
            borders = self.cu_queries, self.cu_frames
            return by_kernel(self.backend, q, k, v, borders, self.longest, causal=False)
        if q.device.type != "cpu":
            return self._masked(q, k, v)
        parts = zip(
            torch.split(q, self._lengths[0]),
            torch.split(k, self._lengths[1]),
            torch.split(v, self._lengths[1]),
            strict=True,
        )
        return torch.cat([_one(*part) for part in parts])

    @cached_property
    def _lengths(self) -> tuple[list[int], list[int]]:
        both = self.cu_queries.tolist(), self.cu_frames.tolist()
        queries, frames = ([end - start for start, end in itertools.pairwise(borders)] for borders in both)
        return queries, frames

    @cached_property
    def _seen(self) -> torch.Tensor:
        """Which query (N) sees which frame (F)."""
        queries, frames = (
            torch.searchsorted(borders[1:], torch.arange(number, device=borders.device), right=True)
            for borders, number in ((self.cu_queries, int(self.cu_queries[-1])), (self.cu_frames, self._num_frames))
        )
        return queries[:, None] == frames[None]

    @property
    def _num_frames(self) -> int:
        return int(self.cu_frames[-1])

    def _masked(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attend under a mask: for devices and types that no kernel of variable lengths serves."""
        one, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        out = F.scaled_dot_product_attention(one, keys, values, attn_mask=self._seen)[0].transpose(0, 1)
        return out.where(self._seen.any(dim=1)[:, None, None], 0.0)


def _one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    if not len(k):
        return torch.zeros_like(q)
    one, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    return F.scaled_dot_product_attention(one, keys, values)[0].transpose(0, 1)
