"""The speech-LLM: a decoder-only transformer over the token grid. Read this file first.

A column's vector is the sum of the embeddings of its cells: one of text and S of audio. Pre-norm blocks with
rotary positions that start at 0 in every document, grouped-query attention and SwiGLU follow; one linear head
predicts the next column's text cell, one its audio cells (or, in the depth layout, a small transformer
predicts them one after the other).

Sources: those of its parts (`transformer.py`); Copet et al. 2023, "MusicGen", arXiv:2306.05284, section 2.2
(sum of codebook embeddings, a head each).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.config.options import Backend, CtcPlace, Recompute
from models.config.shape import Shape, Vocabulary
from models.kernels import fused, plain
from models.kernels.ctc import likeliest
from models.kernels.loss import linear_cross_entropy, target_weight
from models.sequence.batch import Batch
from models.sequence.documents import PackedDocuments
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.activity import activity_loss
from models.speech_lm.attention.backends import choose_backend
from models.speech_lm.attention.packed import PackedAttention
from models.speech_lm.ctc import ctc_loss
from models.speech_lm.depth import DepthTransformer
from models.speech_lm.diarization import FrameTransforms, classes_of
from models.speech_lm.front_end import FrontEnd
from models.speech_lm.hearing.compress import merge_runs, stacked, stacked_lengths, stretch_lengths
from models.speech_lm.lora import freeze_all_but_updates
from models.speech_lm.precision import precision_of, type_of
from models.speech_lm.transformer import Attend, Block, RMSNorm, rotary, run_block


@dataclass(frozen=True)
class Loss:
    """Sums over the cells that count, to be divided by the sum of weights of all ranks."""

    total: torch.Tensor  # weighted sum of cross-entropies, with gradient
    weight: torch.Tensor  # sum of the weights
    text_total: torch.Tensor  # of text cells that say more than that audio goes on
    text_weight: torch.Tensor
    audio_total: torch.Tensor
    audio_weight: torch.Tensor
    ctc_total: torch.Tensor  # of the auxiliary losses, without their weights
    activity_total: torch.Tensor
    seen: Batch | None = None  # the columns that the blocks read, where they are fewer than those given


@dataclass(frozen=True)
class Embedded:
    """A batch as vectors: of all of its columns, or of those that are left of them."""

    x: torch.Tensor  # (N, d)
    batch: Batch  # of these columns
    heard: torch.Tensor | None = None  # (A, d) what the projector makes of audio, before any is left out
    heard_batch: Batch | None = None  # whose columns of audio those are


def _updated(table: torch.Tensor, update: torch.Tensor | None) -> torch.Tensor:
    """Return a table (V, d) with an update (R, d) added to its first rows.

    Source: PEFT, "Trainable Tokens" (huggingface.co/docs/peft): a few rows of a frozen table are trained.
    """
    if update is None:
        return table
    return torch.cat([table[: len(update)] + update, table[len(update) :]])


class SpeechLM(nn.Module):
    """Predicts every next column of a packed batch."""

    def __init__(self, shape: Shape, vocabulary: Vocabulary) -> None:
        """Build the modules; weights are drawn by `initialize`."""
        super().__init__()
        self.shape, self.vocabulary = shape, vocabulary
        self.text_embedding = nn.Embedding(vocabulary.text_size, shape.dim, padding_idx=0)
        # With low-rank updates, only the rows of our special tokens are trained, which a text LLM does not know.
        new_rows = (min(ByteTokenizer.FIRST_TEXT, vocabulary.text_size), shape.dim)
        self.text_update_up = nn.Parameter(torch.zeros(new_rows)) if shape.lora_rank else None
        self.head_update_up = nn.Parameter(torch.zeros(new_rows)) if shape.lora_rank and not shape.tie_text else None
        # One table for all streams: stream s's id v is row s (V + 1) + v; row V of each stream is pad and stays zero.
        rows = vocabulary.num_streams * (vocabulary.codebook_size + 1)
        continuous = shape.encoder is not None
        self.audio_embedding = None if continuous else nn.Embedding(rows, shape.dim)
        self.front_end = FrontEnd(shape) if continuous else None
        self.told = FrameTransforms(shape.dim, is_first=True) if shape.diarization == "frames" else None
        self.audio_norm = self._make_audio_norm(shape)
        self.blocks = self._make_blocks(shape)
        self.norm: nn.RMSNorm | nn.LayerNorm = self._make_norm(shape)
        self.text_head = None if shape.tie_text else nn.Linear(shape.dim, vocabulary.text_size, bias=False)
        heads = vocabulary.num_streams * vocabulary.codebook_size
        self.audio_head: nn.Linear | DepthTransformer | None = None  # continuous audio is input only
        if not continuous:
            self.audio_head = (
                DepthTransformer(shape, vocabulary) if vocabulary.depth else nn.Linear(shape.dim, heads, bias=False)
            )
        if shape.lora_rank:
            freeze_all_but_updates(self.blocks)
            self.norm.requires_grad_(False)
            self.text_embedding.requires_grad_(False)
            if self.text_head is not None:
                self.text_head.requires_grad_(False)
        self.pretrained: frozenset[str] = frozenset()
        """Names of the parameters that came from a text LLM."""
        self.recompute: Recompute = "none"
        """What of a block the backward pass computes again, instead of keeping it."""
        offsets = torch.arange(vocabulary.num_streams) * (vocabulary.codebook_size + 1)
        self.register_buffer("stream_offsets", offsets, persistent=False)
        self.stream_offsets: torch.Tensor

    # What a decoder of another kind (`whisper/`) has in place of a text LLM's parts.
    def _make_blocks(self, shape: Shape) -> nn.ModuleList:
        return nn.ModuleList(Block(shape) for _ in range(shape.num_layers))

    def _make_norm(self, shape: Shape) -> nn.RMSNorm | nn.LayerNorm:
        return RMSNorm(shape.dim, eps=shape.norm_eps)

    def _make_audio_norm(self, shape: Shape) -> nn.RMSNorm | nn.Identity:
        return RMSNorm(shape.dim, eps=shape.norm_eps)  # a sum of S embeddings would dwarf one of text

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

    @property
    def pad_row_of(self) -> torch.Tensor | None:
        """The parameter whose first row, `<pad>`'s, is to stay as it is: the table, where it is also the head.

        The row is added to every audio column, so it stays zero, and `<pad>`'s logit with it. That takes nothing away:
        a softmax depends on differences of logits.
        """
        if self.text_head is not None:
            return None
        return self.text_embedding.weight if self.text_update_up is None else self.text_update_up

    def check(self, batch: Batch) -> None:
        """Check, on the host, that tokens are in the vocabulary: a GPU would only report that it stopped.

        Raises:
            ValueError: one is not.
        """
        known = self.vocabulary.text_size
        if (largest := batch.text.numpy().max(initial=0)) >= known:
            raise ValueError(f"a text token is {largest}, but the model knows {known}; is this another tokenizer?")

    def columns_of(self, prompt: PackedDocuments) -> int:
        """Return the columns that a prompt of one document takes in a cache."""
        return prompt.num_columns

    def num_parameters(self) -> int:
        """Return the number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, text: torch.Tensor, audio: torch.Tensor, audio_columns: torch.Tensor) -> torch.Tensor:
        """Return column vectors (N, d) of text cells (N,) and audio cells (A, S) of some of the columns."""
        x = self._embed_text(text)
        assert self.audio_embedding is not None  # else audio goes through a front end: `_embed_batch`
        pad, table = self.vocabulary.codebook_size, self.audio_embedding.weight
        # A pad cell's row gets no gradient: its weight in the sum is zero, and so it stays zero.
        ops = fused if fused.is_supported(table, "embedding sum") else plain
        summed = ops.embedding_sum(table, audio + self.stream_offsets, self.stream_offsets + pad)
        x = x.index_add(0, audio_columns, self.audio_norm(summed).to(x.dtype))
        assert isinstance(x, torch.Tensor)
        return x

    def _add_heard(self, x: torch.Tensor, encoded: torch.Tensor, audio_columns: torch.Tensor) -> torch.Tensor:
        """Add what a front end makes of audio (A, d) to column vectors (N, d)."""
        if not len(audio_columns):
            return torch.add(x, encoded.sum())  # adds zero, so that every parameter has a gradient on every rank
        added: torch.Tensor = x.index_add(0, audio_columns, self.audio_norm(encoded).to(x.dtype))
        return added

    def _embed_batch(self, batch: Batch) -> Embedded:
        if self.front_end is None:
            if batch.features is not None:
                raise ValueError("these packs hold features of a speech encoder, which the model does not have")
            return Embedded(self.embed(batch.text, batch.audio, batch.audio_columns), batch)
        if batch.features is None:
            heard = self.front_end(batch.audio, batch.audio_columns, self._classes(batch))
        else:
            heard = self.front_end.project_stored(batch.features, batch.feature_scales, batch.feature_columns)
        left = given = stacked(batch, self.shape)
        if self.told is not None and len(heard):
            heard = self.told(heard, classes_of(given))
        vectors = heard
        if self.shape.compress == "ctc" and len(given.audio_columns):
            labels = likeliest(self.norm(heard.detach()), self.text_weight)
            lengths = stacked_lengths(stretch_lengths(batch), self.shape)
            keep, vectors = merge_runs(heard, labels, lengths, ByteTokenizer.PAD)
            left = given.without_columns(given.audio_columns[~keep])
        x = self._add_heard(self._embed_text(left.text), vectors, left.audio_columns)
        return Embedded(x, left, heard, given)

    def _classes(self, batch: Batch) -> torch.Tensor | None:
        """Return what each column of audio is (A, 4), where the model is told whom to hear."""
        return None if self.shape.diarization == "none" else classes_of(batch)

    @property
    def text_weight(self) -> torch.Tensor:
        """The matrix (V, d) that predicts text."""
        return self.text_table if self.text_head is None else _updated(self.text_head.weight, self.head_update_up)

    @property
    def text_table(self) -> torch.Tensor:
        """The matrix (V, d) that text is read by."""
        return _updated(self.text_embedding.weight, self.text_update_up)

    def _embed_text(self, text: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.text_embedding(text)
        if self.text_update_up is None:
            return x
        is_new = (text != ByteTokenizer.PAD) & (text < len(self.text_update_up))
        return x + F.embedding(text.where(is_new, 0), self.text_update_up, padding_idx=0) * is_new[:, None]

    def text_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits of the next text cell (..., V) of states (..., d)."""
        return F.linear(hidden, self.text_weight)

    def backend(self) -> Backend:
        """Return the attention that suits the model's device, and the precision that it computes in."""
        device_type = self.norm.weight.device.type
        return choose_backend(device_type, "auto", type_of(precision_of(device_type)), self.shape.head_dim)

    def states(self, batch: Batch, backend: Backend = "loop") -> torch.Tensor:
        """Return the states (N, d) from which the next column is predicted, of the columns that the blocks read."""
        return self._run(self._embed_batch(batch), backend, keep=False)[0]

    def _run(
        self, embedded: Embedded, backend: Backend, keep: bool, spread: Callable[[Attend], Attend] | None = None
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        x, batch = embedded.x, embedded.batch
        if torch.is_autocast_enabled(x.device.type):  # a sum of two types costs a GPU a pass over both
            x = x.to(torch.get_autocast_dtype(x.device.type))
        cos, sin = rotary(batch.positions, self.shape)
        prompts = batch.prompts if self.shape.prompt_attention == "both" else None
        attend: Attend = PackedAttention(batch.cu_seqlens, batch.boundaries, batch.max_seqlen, backend, prompts)
        if spread is not None:
            attend = spread(attend)
        kept = []
        readable = x
        for number, block in enumerate(self.blocks):
            if number == self.shape.num_layers - 1:
                readable = x
            x, k, v = run_block(block, x, cos, sin, attend, self.recompute)
            if keep:
                kept.append((k, v))
        out: torch.Tensor = self.norm(x)
        return out, kept, readable

    def forward(
        self,
        batch: Batch,
        backend: Backend = "loop",
        z_weight: float = 0.0,
        stream_weights: torch.Tensor | None = None,
        ctc_weight: float = 0.0,
        activity_weight: float = 0.0,
        spread: Callable[[Attend], Attend] | None = None,
        ctc_at: CtcPlace = "output",
    ) -> Loss:
        """Return the summed loss of a batch; see `operators.schema` for which cells count.

        Args:
            batch: packed documents.
            backend: of attention.
            z_weight: of the z-loss of text, and of audio where its cells are predicted side by side.
            stream_weights: (S,) weight of each audio stream, multiplied by that of the span.
            ctc_weight: weight of the summed CTC loss on prompt audio (`ctc.py`).
            activity_weight: weight of the summed loss on who talks where (`activity.py`), computed on the input of the
                last block, because nothing attends to what that block makes of a prompt.
            spread: makes attention one over several ranks, where the batch holds this rank's columns alone.
            ctc_at: whose states the CTC loss reads.
        """
        given, embedded = batch, self._embed_batch(batch)
        batch = embedded.batch
        hidden, _, readable = self._run(embedded, backend, keep=False, spread=spread)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        pad = self.vocabulary.codebook_size
        text_matrix = self.text_weight

        def text_loss(cells: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
            targets, weights = batch.text_targets[cells, None], batch.text_weights[cells]
            states = hidden[batch.text_from[cells]]
            losses = linear_cross_entropy(states, text_matrix, targets, weights, z_weight=z_weight)
            return losses, target_weight(targets, weights)

        if batch.num_pads:
            (text_total, text_weight), (pad_total, pad_weight) = text_loss(batch.text_says), text_loss(batch.text_pads)
        else:
            text_total, text_weight = text_loss(slice(None))
            pad_total, pad_weight = torch.zeros_like(text_total), torch.zeros_like(text_weight)
        audio_states, audio_weights = hidden[batch.audio_from], batch.audio_weights
        if stream_weights is not None:
            audio_weights = audio_weights[:, None] * stream_weights
        if self.audio_head is None:
            if len(audio_states):
                raise ValueError("audio that goes through an encoder cannot be predicted")
            audio_total = hidden.new_zeros((), dtype=text_total.dtype)
        elif isinstance(self.audio_head, DepthTransformer):
            audio_total = self.audio_head.loss(audio_states, batch.audio_targets, audio_weights)
        else:
            audio_total = linear_cross_entropy(
                audio_states, self.audio_head.weight, batch.audio_targets, audio_weights, pad, z_weight
            )
        audio_weight = target_weight(batch.audio_targets, audio_weights, ignored=pad)
        total = text_total + pad_total + audio_total
        ctc_total = activity_total = torch.zeros_like(text_total)
        if ctc_weight:
            ctc_total = (
                self._ctc(embedded, text_matrix) if ctc_at == "projector" else ctc_loss(hidden, text_matrix, batch)
            )
            total = total + ctc_weight * ctc_total
        if activity_weight:
            activity_total = activity_loss(self.norm(readable), text_matrix, batch)
            total = total + activity_weight * activity_total
        weight = text_weight + pad_weight + audio_weight
        parts = (text_total, text_weight, audio_total, audio_weight, ctc_total, activity_total)
        return Loss(total, weight, *parts, seen=None if batch is given else batch)

    def _ctc(self, embedded: Embedded, text_matrix: torch.Tensor) -> torch.Tensor:
        """Return the summed CTC loss of what the projector makes of audio, normalized as the text head's input is."""
        if embedded.heard is None or embedded.heard_batch is None:
            raise ValueError(
                "train.ctc_at projector reads what is made of an encoder's frames; the model has no encoder"
            )
        return ctc_loss(self.norm(embedded.heard), text_matrix, embedded.heard_batch, of_audio=True)

    def weight_of(self, batch: Batch, stream_weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the `weight` of a batch's `Loss`, a scalar, which is known before the forward pass."""
        weights = batch.audio_weights if stream_weights is None else batch.audio_weights[:, None] * stream_weights
        return batch.text_weights.sum() + target_weight(batch.audio_targets, weights, self.vocabulary.codebook_size)

    @torch.no_grad()
    def prefill(self, batch: Batch, backend: Backend = "loop") -> tuple[torch.Tensor, Any, Batch]:
        """Read prompts packed in one batch; return the last state of each (B, d), and each layer's keys and values.

        Keys and values (N, G, D) are of all columns of the batch that is returned with them: where the model leaves
        some out, of those that are left. Source: Zhao et al. 2024, "Prepacking", arXiv:2404.09529: prompts of any
        lengths prefilled without padding.
        """
        embedded = self._embed_batch(batch)
        hidden, kept, _ = self._run(embedded, backend, keep=True)
        return hidden[embedded.batch.cu_seqlens[1:].to(torch.int64) - 1], kept, embedded.batch

    def embed_column(self, text: torch.Tensor, audio: torch.Tensor | None) -> torch.Tensor:
        """Return the vectors (B, d) of one column of each of B sequences.

        Args:
            text: (B,) text cells.
            audio: (B, S) audio cells, where the columns are of audio.
        """
        if audio is None:
            return self._embed_text(text)
        return self.embed(text, audio, torch.arange(len(text), device=text.device))
