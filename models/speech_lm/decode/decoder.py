"""What decodes for a model, call after call: its weights in the precision of decoding, slots and captured steps."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.sequence.batch import Batch, collate
from models.sequence.documents import GridSpec, PackedDocuments
from models.sequence.grammar import Grammar
from models.speech_lm.decode.audio import AudioSlots, AudioTask, Given
from models.speech_lm.decode.beam import BeamSearch, BeamState
from models.speech_lm.decode.cache import StaticCache
from models.speech_lm.decode.engine import decode_all
from models.speech_lm.decode.graphs import Pace, Runner, Step, pace_of, slot_bucket, window_bucket
from models.speech_lm.decode.text import Rules, TextSlots
from models.speech_lm.decode.weights import Versions, decoding_copy, versions_of
from models.speech_lm.model import SpeechLM
from models.speech_lm.precision import precision_of, type_of
from models.speech_lm.whisper.cache import HeardCache
from models.speech_lm.whisper.model import WhisperLM


@dataclass(frozen=True)
class _Kept:
    """Slots for text that were used before, and may be again."""

    slots: TextSlots
    runner: Runner
    key: tuple[int, int]  # slots and end


class Decoder:
    """Decodes for one model. As long as it lives, so do a GPU's slots for text and the captured steps."""

    def __init__(self, model: SpeechLM, pace: Pace | None = None) -> None:
        """Take the model, on its device.

        Args:
            model: the speech-LLM; where its parameters change, the next call decodes with the new ones.
            pace: how decoding is scheduled; by default as its device is best served.
        """
        self._model = model
        self._device = next(model.parameters()).device
        self._pace = pace or pace_of(self._device.type)
        self._weights: SpeechLM | None = None
        self._versions: Versions = ()
        self._kept: _Kept | None = None
        self.steps = 0
        """Columns appended so far, each to all slots at once."""

    def text(
        self,
        prompts: Sequence[PackedDocuments],
        grid: GridSpec,
        *,
        end: int,
        max_tokens: int,
        grammars: Sequence[Grammar[Any]] | None,
        slots: int,
    ) -> list[list[int]]:
        """Return the likeliest tokens that continue each prompt; see `generate.greedy_text`."""
        if not prompts or not max_tokens:
            return [[] for _ in prompts]
        weights, backend = self._decoding_weights(), self._model.backend()
        number = slot_bucket(slots) if self._pace.in_buckets else min(slots, len(prompts))
        columns = [self._model.columns_of(prompt) for prompt in prompts]
        frames = 0
        if isinstance(self._model, WhisperLM):
            max_tokens = min(max_tokens, self._model.room_for_text(prompts))
            frames = max(map(self._model.frames_of, prompts))
        size = (number, max(columns) + max_tokens, frames)
        kept = self._text_slots(weights, size, end, max_tokens, grammars)
        rules = kept.slots.rules

        def fill(free: list[int], numbers: list[int]) -> list[int]:
            batch = collate([prompts[n] for n in numbers], grid).to(self._device)
            hidden, read, batch = self._model.prefill(batch, backend)
            kept.slots.fill(free, numbers, batch, hidden.to(weights.norm.weight.dtype), read)
            return [columns[n] for n in numbers]

        look_every = 1 if rules is not None and rules.on_host else self._pace.look_every
        answers, steps = decode_all(kept.slots, number, fill, len(prompts), kept.runner, look_every, max_tokens - 1)
        self.steps += steps
        return answers

    def beams(
        self,
        prompts: Sequence[PackedDocuments],
        grid: GridSpec,
        search: BeamSearch,
        *,
        grammars: Sequence[Grammar[Any]] | None,
        slots: int,
    ) -> list[list[int]]:
        """Return the best answer to each prompt that a beam search finds; see `generate.beam_text`."""
        weights, backend = self._decoding_weights(), self._model.backend()
        answers: list[list[int]] = []
        for start in range(0, len(prompts), slots):
            some = prompts[start : start + slots]
            columns = [self._model.columns_of(prompt) for prompt in some]
            most, frames = search.max_tokens, 0
            if isinstance(self._model, WhisperLM):
                most = min(most, self._model.room_for_text(some))
                frames = max(map(self._model.frames_of, some))
            rows = len(some) * search.width
            rules = None
            if grammars:
                of_rows = [one for one in grammars[start : start + slots] for _ in range(search.width)]
                rules = Rules(of_rows, rows, self._device)
                if not rules.on_host:  # which a beam search refuses
                    rules.begin(range(rows), range(rows))
            batch = collate(some, grid).to(self._device)
            hidden, read, batch = self._model.prefill(batch, backend)
            first = torch.arange(len(some), device=self._device) * search.width
            cache = self._cache((rows, max(columns) + most, frames))
            cache.insert(first, read, batch)
            cache.reorder(first.repeat_interleave(search.width))
            state = BeamState(weights, cache, rules, columns)
            with torch.autocast(self._device.type, enabled=False) if weights is not self._model else nullcontext():
                answers += replace(search, max_tokens=most).run(state, hidden.to(weights.norm.weight.dtype))
        return answers

    def audio(
        self,
        prompts: Sequence[PackedDocuments],
        grid: GridSpec,
        given: Sequence[Given],
        task: AudioTask,
        slots: int,
    ) -> list[tuple[NDArray[np.int64], int]]:
        """Return the cells (S, C) that continue each prompt, and how many columns of them are the answer.

        Args:
            prompts: of one document each.
            grid: what their integers mean.
            given: what is known of each answer.
            task: what they have in common.
            slots: answers that are made at once.
        """
        if not prompts or not task.num_columns:
            return [(one.forced, 0) for one in given]
        weights, backend = self._decoding_weights(), self._model.backend()
        number = slot_bucket(slots) if self._pace.in_buckets else min(slots, len(prompts))
        longest = max(prompt.num_columns for prompt in prompts)
        cache = self._cache((number, longest + task.num_columns, 0))
        assert isinstance(cache, StaticCache)
        made = AudioSlots(weights, cache, task)
        runner = Runner(self._in_precision(weights, made.step), self._pace, made.cache.capacity)

        def fill(free: list[int], numbers: list[int]) -> list[int]:
            columns = dict.fromkeys(numbers, 0)
            # Columns of which all is given are read with the prompt, as in training, where a prompt may see both ways.
            for lead in sorted({given[n].lead for n in numbers}):
                places = [(slot, n) for slot, n in zip(free, numbers, strict=True) if given[n].lead == lead]
                some = [n for _, n in places]
                batch = collate([prompts[n] for n in some], grid).to(self._device)
                lead_cells = np.stack([given[n].forced[:, :lead].T for n in some])
                batch = batch.with_given(torch.from_numpy(lead_cells).to(self._device))
                hidden, read, batch = self._model.prefill(batch, backend)
                hidden = hidden.to(weights.norm.weight.dtype)
                made.fill([slot for slot, _ in places], some, [given[n] for n in some], batch, hidden, read)
                columns |= dict(zip(some, _columns(batch), strict=True))
            return [columns[n] for n in numbers]

        answers, steps = decode_all(
            made, number, fill, len(prompts), runner, self._pace.look_every, task.num_columns - 1
        )
        self.steps += steps
        return answers

    def _decoding_weights(self) -> SpeechLM:
        """Return the model that steps are run with: on a GPU a copy, cast once; elsewhere the model itself."""
        self._model.eval()
        if self._device.type != "cuda":
            return self._model
        versions = versions_of(self._model)
        if self._weights is None or self._versions != versions:
            self._kept = None
            self._weights = decoding_copy(self._model, type_of(precision_of(self._device.type)))
            self._versions = versions
        return self._weights

    def _cache(self, size: tuple[int, int, int]) -> StaticCache | HeardCache:
        """Return an empty cache for slots, columns and frames, in the type that keys and values are computed in."""
        slots, capacity, frames = size
        kind = self._device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self._model.norm.weight.dtype
        if self._pace.in_buckets:
            capacity = window_bucket(capacity)
        shape = self._model.shape
        if isinstance(self._model, WhisperLM):
            return HeardCache.allocate(shape, slots, capacity, frames, dtype, self._device)
        return StaticCache.allocate(shape, slots, capacity, dtype, self._device)

    def _text_slots(
        self,
        weights: SpeechLM,
        size: tuple[int, int, int],
        end: int,
        limit: int,
        grammars: Sequence[Grammar[Any]] | None,
    ) -> _Kept:
        """Return slots for a call: those of the call before, with what was captured of them, where they serve."""
        number, capacity, frames = size
        key, kept = (number, end), self._kept
        if kept is not None and kept.key == key and _holds(kept.slots.cache, capacity, frames):
            rules = kept.slots.rules
            if (
                kept.slots.most_tokens >= limit
                and (rules is None) == (not grammars)
                and (rules is None or rules.renew(grammars or ()))
            ):
                kept.slots.limit_to(limit)
                return kept
        self._kept = None  # its memory is free before more is taken
        made_rules = Rules(grammars, number, self._device) if grammars else None
        slots = TextSlots(weights, self._cache(size), end=end, limit=limit, rules=made_rules)
        runner = Runner(self._in_precision(weights, slots.step), self._pace, slots.cache.capacity)
        made = _Kept(slots, runner, key)
        self._kept = made if self._pace.capture is not None else None
        return made

    def _in_precision(self, weights: SpeechLM, step: Step) -> Step:
        """Return a step that computes in the type of its weights, where these are a copy."""
        if weights is self._model:
            return step

        def cast_once(window: int) -> None:
            with torch.autocast(self._device.type, enabled=False):
                step(window)

        return cast_once


def _holds(cache: StaticCache | HeardCache, capacity: int, frames: int) -> bool:
    enough = frames == 0 or not isinstance(cache, HeardCache) or cache.most_frames >= frames
    return cache.capacity >= capacity and enough


def _columns(batch: Batch) -> list[int]:
    """Return the columns of each document."""
    return [end - start for start, end in pairwise(batch.boundaries)]
