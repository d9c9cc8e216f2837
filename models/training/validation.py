"""Validation: the loss on fixed packs, computed by the code of the training loss, on every rank alike."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from models.config.options import Training
from models.parallel.collectives import sum_over_ranks
from models.parallel.sharding import reshard
from models.sequence.batch import collate
from models.sequence.documents import GridSpec
from models.speech_lm.model import SpeechLM
from models.training.loader import PackSource
from models.training.metrics import ValidationRecord
from models.training.step import Process, TrainingState, batch_loss, loss_parts, weighted

Judge = Callable[[SpeechLM], tuple[float, float]]
"""Transcribes this rank's part of a few conversations: errors, and the words that they are divided by."""


class Validator:
    """Computes the loss on validation packs: a sum over ranks divided by a sum over ranks, as in a training step.

    Without augmentation and auxiliary losses, and with the weights that checkpoints hold for use: the running mean
    where one is kept.
    """

    def __init__(
        self, source: PackSource, grid: GridSpec, config: Training, process: Process, judge: Judge | None = None
    ) -> None:
        """Distribute the packs over ranks, in passes of `packs_per_pass` packs of one component.

        Where ranks hold parts of the parameters, they wait for each other in each pass: all make as many.

        Raises:
            ValueError: cpWER decides what is best, but there is no judge.
        """
        if judge is None and config.best_by == "cpwer":
            raise ValueError("train.best_by cpwer: there are no conversations to transcribe")
        self._judge = judge if config.validate_conversations else None
        self._source, self._grid, self._config, self._process = source, grid, config, process
        self._components = sorted(source.components)
        passes = []
        for number, name in enumerate(self._components):
            packs = [i for span in source.components[name] for i in range(span.first, span.first + span.size)]
            size = config.packs_per_pass
            passes += [(number, packs[start : start + size]) for start in range(0, len(packs), size)]
        readers = process.readers(config)
        self._mine = passes[readers.rank :: readers.world_size]
        most = -(-len(passes) // readers.world_size)
        fillers = most - len(self._mine) if config.shard == "full" else 0
        self._fillers = [passes[0][1]] * fillers

    def is_due(self, step: int) -> bool:
        """Return whether there is a validation after a step: every so many, and after the last one."""
        every = self._config.validate_every
        return every > 0 and (step % every == 0 or step == self._config.steps)

    def __call__(self, state: TrainingState, step: int) -> ValidationRecord:
        """Return the losses after a step; every rank must call this.

        Args:
            state: its weights are used, and are the same afterwards.
            step: steps done.

        Raises:
            ValueError: nothing in the packs is predicted.
        """
        started = time.monotonic()
        with torch.no_grad(), _weights_for_use(state, self._config):
            sums = self._sums(state)
            cpwer = None if self._judge is None else self._cpwer(self._judge(state.model))
        total = sums.sum(0)
        if not total[1] > 0:
            raise ValueError("nothing in the validation packs is predicted, so there is no validation loss")
        loss, text_loss, audio_loss = _means(total)
        components = {
            name: _means(row)[0] for name, row in zip(self._components, sums.tolist(), strict=True) if row[1] > 0
        }
        seconds = time.monotonic() - started
        return ValidationRecord(step, loss, text_loss, audio_loss, components, seconds, cpwer)

    def _cpwer(self, found: tuple[float, float]) -> float:
        """Return the errors of all ranks divided by the words of all.

        Raises:
            ValueError: nobody says a word.
        """
        sums = torch.tensor(found, dtype=torch.float32, device=self._process.device)  # whole numbers below 2**24
        if self._process.world_size > 1:
            sum_over_ranks([sums])
        errors, words = sums.tolist()
        if not words:
            raise ValueError("train.validate_conversations: no word is said in them, so they have no cpWER")
        return float(errors / words)

    def _sums(self, state: TrainingState) -> torch.Tensor:
        """Return losses and weights, summed over all packs of each component and over ranks; float64 (C, 6)."""
        config, device = self._config, torch.device(self._process.device)
        self._source.prefetch([index for _, indices in self._mine for index in indices])
        sums = torch.zeros(len(self._components), 6, dtype=torch.float64, device=device)
        for number, indices in self._mine:
            batch = collate([self._source[index] for index in indices], self._grid)
            loss = batch_loss(
                state.model, weighted(batch, config), state.backend, device, config, context=state.context
            )
            sums[number] += loss_parts(loss)[:6]
        for indices in self._fillers:
            batch = collate([self._source[index] for index in indices], self._grid)
            batch_loss(state.model, weighted(batch, config), state.backend, device, config, context=state.context)
        if self._process.world_size > 1:
            sums = sums.float()
            sum_over_ranks([sums])
        return sums.double().cpu()


def _means(sums: torch.Tensor | list[float]) -> tuple[float, float, float]:
    """Return the loss, that of text and that of audio, from sums and weights."""
    total, weight, text_total, text_weight, audio_total, audio_weight = map(float, sums)
    return total / max(weight, 1e-8), text_total / max(text_weight, 1e-8), audio_total / max(audio_weight, 1e-8)


@contextmanager
def _weights_for_use(state: TrainingState, config: Training) -> Iterator[None]:
    """Exchange the trained weights for their running mean, where one is kept, until the block ends."""
    _exchange(state)
    state.model.eval()
    try:
        yield
    finally:
        state.model.train()
        if config.shard == "full":
            reshard(state.model)  # whole parameters that are still there hold the weights of the block
        _exchange(state)


def _exchange(state: TrainingState) -> None:
    for name, mean in state.averages.items():
        parameter = state.trained[name].detach()
        value = parameter.clone()
        parameter.copy_(mean)
        mean.copy_(value)
