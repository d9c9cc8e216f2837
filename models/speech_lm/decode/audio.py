"""Decoding of audio in slots: the cells of each column drawn, column by column, without the host."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.layouts.layout import Layout
from models.sequence.batch import Batch
from models.sequence.tokenizer import ByteTokenizer
from models.speech_lm.decode.cache import StaticCache
from models.speech_lm.decode.column import append_column
from models.speech_lm.decode.depth_column import depth_cells
from models.speech_lm.decode.sampling import Sampling
from models.speech_lm.depth import DepthTransformer
from models.speech_lm.model import SpeechLM


@dataclass(frozen=True)
class AudioTask:
    """What all answers of one call have in common."""

    layout: Layout
    max_frames: int
    """Longest answer."""
    end: int
    """The text token that ends audio."""
    sampling: Sampling
    pad_weight: float
    """Weight in training of the cells that said that audio goes on."""

    @property
    def num_columns(self) -> int:
        """Columns of the longest answer (C)."""
        return self.layout.num_columns(self.max_frames)


@dataclass(frozen=True)
class Given:
    """What is known of an answer before any of it is drawn."""

    lead: int
    """Columns, from the first, of which every cell is given."""
    forced: NDArray[np.int64]
    """(S, C) cells."""
    is_free: NDArray[np.bool_]
    """(S, C) which of them are drawn instead."""
    length: int
    """Columns that hold given frames."""


class AudioSlots:
    """Answers of audio being decoded, one a slot. All state is on the device and changed in place."""

    def __init__(self, model: SpeechLM, cache: StaticCache, task: AudioTask) -> None:
        """Allocate the state; the cache has a row for each slot."""
        assert model.audio_head is not None
        self._model, self.cache, self._task, self._head = model, cache, task, model.audio_head
        slots, device, streams, columns = len(cache.rows), cache.rows.device, task.layout.num_streams, task.num_columns
        ranges = [task.layout.id_range(column, task.max_frames) for column in range(columns)]
        self._width = max(high - low for low, high in ranges)
        self._lows = torch.tensor([low for low, _ in ranges], device=device)
        self._text = torch.zeros_like(cache.rows)
        self._columns = torch.zeros_like(cache.rows)  # the one that is decided next
        self._given = torch.zeros_like(cache.rows)
        self._ends = torch.full_like(cache.rows, columns)
        self.running = torch.zeros_like(cache.rows, dtype=torch.bool)
        self._forced = torch.zeros((slots, streams, columns), dtype=torch.int64, device=device)
        self._is_free = torch.zeros((slots, streams, columns), dtype=torch.bool, device=device)
        self._made = torch.zeros_like(self._forced)
        self._cells = torch.zeros((slots, streams), dtype=torch.int64, device=device)
        self._uniforms = torch.zeros((slots, columns, streams + 1, 2), device=device)

    def fill(
        self,
        slots: Sequence[int],
        numbers: Sequence[int],
        given: Sequence[Given],
        prompts: Batch,
        hidden: torch.Tensor,
        kept: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """Put read prompts into slots, and decide the first columns that are not given.

        Args:
            slots: free ones (n,).
            numbers: of the answers (n,), which their draws depend on.
            given: what is known of each; all have the same lead.
            prompts: packed, with the columns that are given entirely.
            hidden: (n, d) last state of each.
            kept: keys and values of the packed prompts.
        """
        device, lead = self._text.device, given[0].lead
        places = torch.tensor(slots, device=device)
        self.cache.insert(places, kept, prompts)
        forced, is_free = (
            torch.from_numpy(np.stack(part)) for part in zip(*((g.forced, g.is_free) for g in given), strict=True)
        )
        self._forced[places], self._is_free[places] = forced.to(device), is_free.to(device)
        self._made[places] = self._forced[places]
        self._columns[places] = lead
        self._given[places] = torch.tensor([one.length for one in given], device=device)
        self._ends[places] = self._task.num_columns
        streams = self._cells.shape[1]
        drawn = self._task.sampling.uniforms(numbers, self._task.num_columns, streams)
        self._uniforms[places] = drawn.to(device)
        states = hidden.new_zeros((len(self._text), hidden.shape[1]))
        states[places] = hidden
        active = torch.zeros_like(self.running)
        active[places] = lead < self._task.num_columns
        self._decide(states, active)

    def step(self, window: int) -> None:
        """Append the columns that were decided, and decide the next ones.

        Args:
            window: columns that are attended to.
        """
        active = self.running.clone()
        hidden = append_column(self._model, self.cache, self._text, self._cells, window)
        self.cache.lengths.add_(active)
        self._decide(hidden, active)

    def _decide(self, hidden: torch.Tensor, active: torch.Tensor) -> None:
        """Decide whether answers end, and the cells of the next column, in the slots that are active (B,)."""
        last, rows = self._task.num_columns - 1, self.cache.rows
        at = self._columns.clamp(max=last)  # of slots that are full nothing is kept
        uniforms = self._uniforms[rows, at]
        goes_on = active
        if self._task.layout.is_open_ended:
            logits = self._model.text_logits(hidden)
            pair = torch.stack((logits[:, ByteTokenizer.PAD], logits[:, self._task.end]), dim=1).float()
            pair[:, 0] -= math.log(self._task.pad_weight)
            # Generated audio may end only after the part of it that is given.
            stops = self._task.sampling.draw(pair, uniforms[:, -1], None).bool() & active & (at >= self._given)
            self._ends.copy_(torch.where(stops, at, self._ends))
            goes_on = active & ~stops
        cells = torch.where(goes_on[:, None], self._drawn(hidden, at, uniforms), self._made[rows, :, at])
        self._made[rows, :, at] = cells
        self._cells.copy_(torch.where(goes_on[:, None], cells, self._cells))
        self._columns.add_(goes_on)
        self.running.copy_(torch.where(active, goes_on & (self._columns <= last), self.running))

    def _drawn(self, hidden: torch.Tensor, at: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Return the cells (B, S) of columns `at` (B,)."""
        rows, size = self.cache.rows, self._model.vocabulary.codebook_size
        forced, is_free = self._forced[rows, :, at], self._is_free[rows, :, at]
        lows = self._lows[at]
        recent = self._recent(at, lows)

        def drawn(logits: torch.Tensor, streams: slice) -> torch.Tensor:
            """Draw cells (B, s) of some streams, from logits (B, s, V)."""
            if self._width < size:
                ids = lows[:, None, None] + torch.arange(self._width, device=lows.device)
                logits = logits.gather(2, ids.expand(-1, logits.shape[1], -1))
            draws = uniforms[:, :-1][:, streams].flatten(0, 1)
            came = None if recent is None else recent[:, streams].flatten(0, 1)
            chosen = self._task.sampling.draw(logits.flatten(0, 1).float(), draws, came)
            cells = chosen.view(logits.shape[:2]) + lows[:, None]
            return torch.where(is_free[:, streams], cells, forced[:, streams])

        if isinstance(self._head, DepthTransformer):
            return depth_cells(self._head, hidden, lambda s, logits: drawn(logits[:, None], slice(s, s + 1))[:, 0])
        return drawn(self._head(hidden).view(len(hidden), -1, size), slice(None))

    def _recent(self, at: torch.Tensor, lows: torch.Tensor) -> torch.Tensor | None:
        """Return the ids (B, S, W), above the column's lowest, of the columns before; -1 where there are too few."""
        window = self._task.sampling.repetition_window
        if not 0 < window < self._task.num_columns:
            return None
        before = at[:, None] - window + torch.arange(window, device=at.device)
        index = before.clamp(min=0)[:, None].expand(-1, self._made.shape[1], -1)
        came = self._made.gather(2, index) - lows[:, None, None]
        return came.masked_fill((at < window)[:, None, None], -1)

    def look(self) -> list[bool]:
        """Return which slots are still running; waits for the device."""
        running: list[bool] = self.running.tolist()
        return running

    def read(self, slots: Sequence[int]) -> list[tuple[NDArray[np.int64], int]]:
        """Return the cells (S, C) of some slots' answers, and their columns; waits for the device."""
        places = torch.tensor(slots, device=self._text.device)
        return list(zip(self._made[places].cpu().numpy(), self._ends[places].tolist(), strict=True))
