"""The speech-LLM: a decoder-only transformer over the token grid. Read this file first.

A column's vector is the sum of the embeddings of its cells: one of text and S of audio. Pre-norm blocks with
rotary positions that start at 0 in every document, grouped-query attention and SwiGLU follow; one linear head
predicts the next column's text cell, one its audio cells (or, in the depth layout, a small transformer
predicts them one after the other).

Sources: Touvron et al. 2023, "LLaMA", arXiv:2302.13971, section 2.2 (RMSNorm, SwiGLU, RoPE); Ainslie et al. 2023,
"GQA", arXiv:2305.13245; Henry et al. 2020, "Query-Key Normalization", arXiv:2010.04245; Copet et al. 2023,
"MusicGen", arXiv:2306.05284, section 2.2 (sum of codebook embeddings, a head each).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.attention import Backend, packed_attention
from models.batch import Batch
from models.ctc import ctc_loss
from models.front_end import FrontEnd
from models.lora import LoRALinear, freeze_all_but_updates
from models.loss import by_cell, linear_cross_entropy, target_weight


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Size of the transformer."""

    dim: int = 128
    """Width of the residual stream (d)."""
    num_layers: int = 4
    """Blocks."""
    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int = 2
    """Key and value heads; divides num_heads."""
    ffn_dim: int = 384
    """Width inside SwiGLU."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    qk_norm: bool = True
    """Whether queries and keys are normalized per head."""
    prompt_attention: Literal["causal", "both"] = "causal"
    """Whether the columns before the first predicted one see each other in both directions (a prefix LM)."""
    depth_dim: int = 0
    """Width of the depth transformer, where the layout has one; half of dim where 0."""
    depth_layers: int = 2
    """Its blocks."""
    head_width: int = 0
    """Width of a head; dim / num_heads where 0."""
    norm_eps: float = 1e-6
    """What keeps RMSNorm from dividing by zero."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias (Qwen2)."""
    tie_text: bool = False
    """Whether text is predicted by its embeddings, transposed."""
    rope_scaling: tuple[float, ...] = ()
    """Llama 3's stretch of the slow rotary frequencies: factor, low and high frequency factor, original length."""
    encoder: str | None = None
    """Speech encoder (folder or hub id) that audio of codec pcm is heard through (`models.front_end`)."""
    projector: Literal["mlp", "queries"] = "mlp"
    """What makes columns of the encoder's frames: stacked frames and two layers, or queries over windows."""
    encoder_rank: int = 0
    """Above 0, the encoder's attention gets trained updates of this rank; else it is frozen."""
    lora_rank: int = 0
    """Above 0, the blocks are frozen and their matrices get trained updates of this rank (`models.lora`)."""
    lora_alpha: float = 32.0
    """Updates are scaled by lora_alpha / lora_rank."""

    def __post_init__(self) -> None:
        """Check that the heads divide the width."""
        if (not self.head_width and self.dim % self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError("model: num_heads must divide dim, and num_kv_heads must divide num_heads")
        if self.head_dim % 2:
            raise ValueError(f"model: a head of width {self.head_dim} cannot be rotated in pairs")
        if self.rope_scaling and len(self.rope_scaling) != 4:
            raise ValueError("model.rope_scaling takes four numbers, or none")

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width or self.dim // self.num_heads


# Named sizes, fixed so that everyone means the same; parameters without embeddings and heads.
SIZES: dict[str, Shape] = {
    "tiny": Shape(dim=128, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=448),  # 0.9M
    "small": Shape(dim=256, num_layers=6, num_heads=4, num_kv_heads=2, ffn_dim=768),  # 4.7M
    "base": Shape(dim=768, num_layers=12, num_heads=12, num_kv_heads=4, ffn_dim=2304),  # 83M + heads
    "0.6b": Shape(dim=1024, num_layers=28, num_heads=16, num_kv_heads=8, ffn_dim=3584, rope_theta=1e6),
    "1b": Shape(dim=2048, num_layers=16, num_heads=32, num_kv_heads=8, ffn_dim=8192, rope_theta=5e5),
    "7b": Shape(dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, ffn_dim=11008, rope_theta=5e5),
}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the embeddings and heads must cover; follows from tokenizer, codec and layout."""

    text_size: int
    num_streams: int
    codebook_size: int
    ordinal: bool
    """Whether neighboring codes mean neighboring values."""
    encoder_digest: str = ""
    """Digest of the weights of the encoder that audio is heard through, where there is one."""
    depth: bool = False
    """Whether a column's audio cells are predicted one after the other, by a small transformer over the streams."""


def rotary(positions: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines (N, 1, head_dim / 2) of each position.

    Slow frequencies are stretched where the shape says so, as in Dubey et al. 2024, "Llama 3", arXiv:2407.21783.
    """
    exponents = torch.arange(0, shape.head_dim, 2, device=positions.device, dtype=torch.float32) / shape.head_dim
    frequencies = shape.rope_theta**-exponents
    if shape.rope_scaling:
        factor, low, high, length = shape.rope_scaling
        turns = length * frequencies / (2 * math.pi)  # in the length that the LLM was first trained for
        smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        frequencies = frequencies * (smooth + (1.0 - smooth) / factor)
    angles = positions[:, None].float() * frequencies
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair (x[i], x[i + D/2]) of heads (N, H, D) by its angle."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose weight is kept in float32 and used in whatever its input is in, so that the fused kernel serves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized states."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


@dataclass
class KeyValueCache:
    """Keys and values of the sequences being generated, one padded row each."""

    keys: list[torch.Tensor]  # per layer (B, L, G, D)
    values: list[torch.Tensor]  # per layer (B, L, G, D)
    lengths: torch.Tensor  # (B,) columns in use


def linear(shape: Shape, inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """Return a matrix of a block, with a low-rank update where the shape has one."""
    if shape.lora_rank:
        return LoRALinear(inputs, outputs, shape.lora_rank, shape.lora_alpha, bias=bias)
    return nn.Linear(inputs, outputs, bias=bias)


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Queries (..., H, D), keys and values (..., G, D) to what each query gathers (..., H, D)."""


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.num_heads, self.num_kv_heads = shape.num_heads, shape.num_kv_heads
        width = (shape.num_heads + 2 * shape.num_kv_heads) * self.head_dim
        self.qkv = linear(shape, shape.dim, width, bias=shape.qkv_bias)
        self.out = linear(shape, shape.num_heads * self.head_dim, shape.dim)
        self.q_norm = RMSNorm(self.head_dim, eps=shape.norm_eps) if shape.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, eps=shape.norm_eps) if shape.qk_norm else nn.Identity()

    def heads(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries (N, H, D), keys (N, G, D) and values (N, G, D) of states (N, d)."""
        sizes = [self.num_heads * self.head_dim, *[self.num_kv_heads * self.head_dim] * 2]
        q, k, v = self.qkv(x).split(sizes, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))
        return rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin), v


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = linear(shape, shape.dim, 2 * shape.ffn_dim)
        self.down = linear(shape, shape.ffn_dim, shape.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return states (N, d)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: torch.Tensor = self.down(F.silu(gate) * up)
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + swiglu(norm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.dim, eps=shape.norm_eps)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.dim, eps=shape.norm_eps)
        self.ffn = SwiGLU(shape)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states (N, d), and the keys and values (N, G, D) that were attended to."""
        q, k, v = self.begin(x, cos, sin)
        return self.finish(x, attend(q, k, v)), k, v

    def begin(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values: all before attention, as `finish` is all behind it."""
        return self.attention.heads(self.attention_norm(x), cos, sin)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add what attention gathered (N, H, D), then the feed-forward part."""
        x = x + self.attention.out(attended.flatten(-2))
        out: torch.Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class DepthTransformer(nn.Module):
    """Predicts the cells of one column from its state, each from those above it.

    Source: Défossez et al. 2024, "Moshi", arXiv:2410.00037, section 3.4.1: z is the temporal state, and stream k sees z
    and the cells of streams below k.
    """

    CHUNK = 1024
    """Columns whose cells are predicted at a time; the rest is made again in the backward pass."""

    def __init__(self, shape: Shape, vocabulary: Vocabulary) -> None:
        super().__init__()
        width = shape.depth_dim or shape.dim // 2
        heads = max(1, width // 64)
        small = Shape(
            dim=width, num_layers=shape.depth_layers, num_heads=heads, num_kv_heads=heads, ffn_dim=3 * width,
            rope_theta=shape.rope_theta, qk_norm=shape.qk_norm,
        )  # fmt: skip
        self.num_streams, self.size, self.shape = vocabulary.num_streams, vocabulary.codebook_size, small
        self.from_state = nn.Linear(shape.dim, width, bias=False)
        # Cell k - 1 is what stream k sees: the same table as for columns, one row of pad a stream.
        self.embedding = nn.Embedding(vocabulary.num_streams * (vocabulary.codebook_size + 1), width)
        self.start = nn.Embedding(vocabulary.num_streams, width)
        self.blocks = nn.ModuleList(Block(small) for _ in range(shape.depth_layers))
        self.norm = RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vocabulary.num_streams * vocabulary.codebook_size, bias=False)

    def states(self, hidden: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Return what each stream's cell is predicted from (P, S', w).

        Args:
            hidden: (P, d) the columns' states.
            cells: (P, S' - 1) the cells above, from the first stream on; pad is `codebook_size`.
        """
        number = cells.shape[1] + 1
        streams = torch.arange(number, device=hidden.device)
        x = self.from_state(hidden)[:, None] + self.start(streams)[None]
        above = self.embedding(cells + streams[:-1] * (self.size + 1))
        x = torch.cat((x[:, :1], x[:, 1:] + above), dim=1)
        cos, sin = rotary(streams, self.shape)

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (P, H, S', D)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

        for block in self.blocks:
            x, _, _ = block(x, cos, sin, attend)
        out: torch.Tensor = self.norm(x)
        return out

    def _chunk_loss(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        states = self.states(hidden, targets[:, :-1])
        head = self.head.weight.view(self.num_streams, self.size, -1)
        logits = torch.einsum("psw,svw->psv", states, head)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=self.size, reduction="none")
        return (losses.view(targets.shape) * by_cell(weights)).sum()

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the cross-entropies of columns' cells (P, S); pads count for nothing.

        Weights are of columns (P,) or of cells (P, S).
        """
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for start in range(0, len(hidden), self.CHUNK):
            rows = slice(start, start + self.CHUNK)
            total = total + checkpoint(
                self._chunk_loss, hidden[rows], targets[rows], weights[rows], use_reentrant=False
            )
        return total


@dataclass(frozen=True)
class Loss:
    """Sums over the cells that count, to be divided by the sum of weights of all ranks."""

    total: torch.Tensor  # weighted sum of cross-entropies, with gradient
    weight: torch.Tensor  # sum of the weights
    text_total: torch.Tensor
    text_weight: torch.Tensor
    audio_total: torch.Tensor
    audio_weight: torch.Tensor


class SpeechLM(nn.Module):
    """Predicts every next column of a packed batch."""

    def __init__(self, shape: Shape, vocabulary: Vocabulary) -> None:
        """Build the modules; weights are drawn by `initialize`."""
        super().__init__()
        self.shape, self.vocabulary = shape, vocabulary
        self.text_embedding = nn.Embedding(vocabulary.text_size, shape.dim, padding_idx=0)
        # One table for all streams: stream s's id v is row s (V + 1) + v; row V of each stream is pad and stays zero.
        rows = vocabulary.num_streams * (vocabulary.codebook_size + 1)
        continuous = shape.encoder is not None
        self.audio_embedding = None if continuous else nn.Embedding(rows, shape.dim)
        self.front_end = (
            None if shape.encoder is None else FrontEnd(shape.encoder, shape.projector, shape.encoder_rank, shape.dim)
        )
        self.audio_norm = RMSNorm(shape.dim, eps=shape.norm_eps)  # a sum of S embeddings would dwarf one of text
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.dim, eps=shape.norm_eps)
        self.text_head = None if shape.tie_text else nn.Linear(shape.dim, vocabulary.text_size, bias=False)
        heads = vocabulary.num_streams * vocabulary.codebook_size
        self.audio_head: nn.Linear | DepthTransformer | None = None  # what is continuous is heard, not predicted
        if not continuous:
            self.audio_head = (
                DepthTransformer(shape, vocabulary) if vocabulary.depth else nn.Linear(shape.dim, heads, bias=False)
            )
        if shape.lora_rank:
            freeze_all_but_updates(self.blocks)
            self.norm.requires_grad_(False)
        self.recompute = False
        """Whether what a block does is done again in the backward pass, instead of kept."""
        offsets = torch.arange(vocabulary.num_streams) * (vocabulary.codebook_size + 1)
        self.register_buffer("stream_offsets", offsets, persistent=False)
        self.stream_offsets: torch.Tensor

    @torch.no_grad()
    def initialize(self, seed: int) -> "SpeechLM":
        """Draw the weights: normal(0, .02), outputs of blocks scaled down by depth (GPT-2), pads zero.

        Where codes are ordinal, a stream's embeddings start on a line, level by level, with a tenth of the noise: the
        sum over streams is then a linear projection of the spectrogram. It finds the way from sound to text sooner
        (an earlier demo corpus, 750 steps: loss .149 instead of .169).
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in sorted(self.named_parameters()):
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            spread = 0.02
            if name.endswith(("attention.out.weight", "ffn.down.weight")):
                spread /= math.sqrt(2 * self.shape.num_layers)
            if name.endswith("update_up") or "update_up." in name:
                spread = 0.0  # an update begins as nothing
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        self.text_embedding.weight[0] = 0.0
        if self.audio_embedding is None:
            return self
        if self.vocabulary.ordinal:
            size = self.vocabulary.codebook_size
            levels = (torch.arange(size) - (size - 1) / 2) / (size * 0.2887)  # unit spread
            directions = torch.randn(self.vocabulary.num_streams, 1, self.shape.dim, generator=generator) * 0.02
            table = self.audio_embedding.weight.view(self.vocabulary.num_streams, size + 1, self.shape.dim)
            table.mul_(0.1)[:, :size] += levels[:, None] * directions
        pads = torch.arange(1, self.vocabulary.num_streams + 1) * (self.vocabulary.codebook_size + 1) - 1
        self.audio_embedding.weight[pads] = 0.0
        if isinstance(self.audio_head, DepthTransformer):
            self.audio_head.embedding.weight[pads] = 0.0
        return self

    def num_parameters(self) -> int:
        """Return the number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, text: torch.Tensor, audio: torch.Tensor, audio_columns: torch.Tensor) -> torch.Tensor:
        """Return column vectors (N, d) of text cells (N,) and audio cells (A, S) of some of the columns."""
        x = self.text_embedding(text)
        if self.front_end is not None:
            heard = self.front_end(audio, audio_columns)
            if not len(audio):
                return torch.add(x, heard.sum())  # nothing: but every parameter gets a gradient, on every rank
            added: torch.Tensor = x.index_add(0, audio_columns, self.audio_norm(heard).to(x.dtype))
            return added
        assert self.audio_embedding is not None
        pad = audio == self.vocabulary.codebook_size
        # A pad cell's row gets no gradient: its weight in the sum is zero, and so it stays zero.
        summed = F.embedding_bag(
            audio + self.stream_offsets,
            self.audio_embedding.weight,
            mode="sum",
            per_sample_weights=(~pad).to(self.audio_embedding.weight.dtype),
        )
        x = x.index_add(0, audio_columns, self.audio_norm(summed).to(x.dtype))
        assert isinstance(x, torch.Tensor)
        return x

    @property
    def text_weight(self) -> torch.Tensor:
        """The matrix (V, d) that predicts text."""
        return self.text_embedding.weight if self.text_head is None else self.text_head.weight

    def text_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits of the next text cell (..., V) of states (..., d)."""
        return F.linear(hidden, self.text_weight)

    def states(self, batch: Batch, backend: Backend = "loop") -> torch.Tensor:
        """Return the states (N, d) from which the next column is predicted."""
        hidden, _ = self._run(batch, backend, keep=False)
        return hidden

    def _run(
        self, batch: Batch, backend: Backend, keep: bool
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        x = self.embed(batch.text, batch.audio, batch.audio_columns)
        cos, sin = rotary(batch.positions, self.shape)
        prompts = batch.prompts if self.shape.prompt_attention == "both" else None

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return packed_attention(q, k, v, batch.cu_seqlens, batch.boundaries, batch.max_seqlen, backend, prompts)

        kept = []
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x, k, v = checkpoint(block, x, cos, sin, attend, use_reentrant=False)
            else:
                x, k, v = block(x, cos, sin, attend)
            if keep:
                kept.append((k, v))
        out: torch.Tensor = self.norm(x)
        return out, kept

    def forward(
        self,
        batch: Batch,
        backend: Backend = "loop",
        z_weight: float = 0.0,
        stream_weights: torch.Tensor | None = None,
        ctc_weight: float = 0.0,
    ) -> Loss:
        """Return the summed loss of a batch; see `operators.schema` for which cells count.

        Args:
            batch: packed documents.
            backend: of attention.
            z_weight: of the z-loss of text, and of audio where its cells are predicted side by side.
            stream_weights: (S,) weight of each audio stream, beside that of the span.
            ctc_weight: of the CTC loss that helps to find what was said in what is heard (`models.ctc`).
        """
        hidden = self.states(batch, backend)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        pad = self.vocabulary.codebook_size
        text_targets = batch.text_targets[:, None]
        text_total = linear_cross_entropy(
            hidden[batch.text_from], self.text_weight, text_targets, batch.text_weights, z_weight=z_weight
        )
        audio_states, audio_weights = hidden[batch.audio_from], batch.audio_weights
        if stream_weights is not None:
            audio_weights = audio_weights[:, None] * stream_weights
        if self.audio_head is None:
            if len(audio_states):
                raise ValueError("audio that is heard through an encoder cannot be predicted")
            audio_total = hidden.new_zeros((), dtype=text_total.dtype)
        elif isinstance(self.audio_head, DepthTransformer):
            audio_total = self.audio_head.loss(audio_states, batch.audio_targets, audio_weights)
        else:
            audio_total = linear_cross_entropy(
                audio_states, self.audio_head.weight, batch.audio_targets, audio_weights, pad, z_weight
            )
        text_weight = target_weight(text_targets, batch.text_weights)
        audio_weight = target_weight(batch.audio_targets, audio_weights, ignored=pad)
        total = text_total + audio_total
        if ctc_weight:
            total = total + ctc_weight * ctc_loss(hidden, self.text_weight, batch)
        return Loss(total, text_weight + audio_weight, text_total, text_weight, audio_total, audio_weight)

    @torch.no_grad()
    def prefill(self, batch: Batch, room: int, backend: Backend = "loop") -> tuple[torch.Tensor, KeyValueCache]:
        """Read prompts packed in one batch; return the last state of each (B, d), and a cache with room for more.

        Source: Zhao et al. 2024, "Prepacking", arXiv:2404.09529: prompts of any lengths prefilled without padding.
        """
        hidden, kept = self._run(batch, backend, keep=True)
        lengths = batch.cu_seqlens.diff().to(torch.int64)
        size = (
            len(lengths),
            int(lengths.max()) + room,
            self.shape.num_kv_heads,
            self.shape.head_dim,
        )
        row = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
        cache = KeyValueCache([], [], lengths)
        for keys, values in kept:
            for rows, stored in ((keys, cache.keys), (values, cache.values)):
                padded = rows.new_zeros(size)
                padded[row, batch.positions] = rows
                stored.append(padded)
        return hidden[batch.cu_seqlens[1:].to(torch.int64) - 1], cache

    @torch.no_grad()
    def step(self, text: torch.Tensor, cache: KeyValueCache, audio: torch.Tensor | None = None) -> torch.Tensor:
        """Append one column to every sequence of the cache; return its states (B, d).

        Args:
            text: (B,) text cells.
            cache: grows by a column.
            audio: (B, S) audio cells, where the columns are of audio.
        """
        if audio is None:
            x = self.text_embedding(text)
        else:
            x = self.embed(text, audio, torch.arange(len(text), device=text.device))
        cos, sin = rotary(cache.lengths, self.shape)
        rows = torch.arange(len(text), device=x.device)
        longest = int(cache.lengths.max()) + 1
        seen = torch.arange(longest, device=x.device)[None] <= cache.lengths[:, None]  # (B, L)
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            assert isinstance(block, Block)
            q, k, v = block.begin(x, cos, sin)
            keys[rows, cache.lengths], values[rows, cache.lengths] = k, v
            attended = F.scaled_dot_product_attention(
                q[:, :, None],  # (B, H, 1, D)
                keys[:, :longest].transpose(1, 2),
                values[:, :longest].transpose(1, 2),
                attn_mask=seen[:, None, None],
                enable_gqa=self.shape.num_heads != self.shape.num_kv_heads,
            )
            x = block.finish(x, attended[:, :, 0])
        cache.lengths = cache.lengths + 1
        out: torch.Tensor = self.norm(x)
        return out


Size = Literal["tiny", "small", "base", "0.6b", "1b", "7b"]
