"""Packs of each step, distributed over ranks and made into batches ahead of time; its position is one integer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from models.sequence.batch import Batch, collate
from models.sequence.documents import Codes, GridSpec, PackedDocuments
from models.training.augment import Augment
from models.training.order import Span, Stream


class PackSource(Protocol):
    """Packs by index, counted over all shards."""

    @property
    def components(self) -> Mapping[str, Sequence[Span]]:
        """Where the packs of each component are."""
        ...

    @property
    def digest(self) -> str:
        """Digest of all packs."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Return a pack's columns, and the sum of its documents' squared columns."""
        ...

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start fetching packs that will be needed soon."""
        ...

    def __getitem__(self, index: int) -> PackedDocuments:
        """Return one pack."""
        ...


def step_cost(num_columns: int, sum_squares: int, dim: int) -> float:
    """Return what a pack costs in floating-point operations, per layer and up to a factor.

    Matrices cost 24 d^2 a column, attention 2 d for each pair of columns of a document.
    Source: Narayanan et al. 2021, arXiv:2104.04473, section 5.1, causal attention counted once.
    """
    return 24.0 * dim * dim * num_columns + 2.0 * dim * sum_squares


def share(costs: Sequence[float], world_size: int) -> list[list[int]]:
    """Distribute packs over ranks: equal numbers (within one) at nearly equal cost.

    The costliest pack goes to the least loaded rank that may still take one. Every rank computes the same assignment.

    >>> share([4.0, 1.0, 1.0, 2.0], world_size=2)
    [[0, 2], [1, 3]]
    """
    limit = -(-len(costs) // world_size)
    loads = np.zeros(world_size)
    shares: list[list[int]] = [[] for _ in range(world_size)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = int(np.argmin(loads))
        shares[rank].append(index)
        loads[rank] = loads[rank] + costs[index] if len(shares[rank]) < limit else np.inf
    return [sorted(chosen) for chosen in shares]


@dataclass(frozen=True)
class StepPacks:
    """One rank's batches of one step."""

    step: int
    epoch: int
    """How many times the step's first pack was used before."""
    batches: tuple[Batch, ...]
    fillers: tuple[Batch, ...] = ()
    """Batches that count for nothing, so that this rank makes as many passes as the others."""


@dataclass(frozen=True)
class Loader:
    """Makes each step's batches while the previous step is computed."""

    source: PackSource
    stream: Stream
    grid: GridSpec
    packs_per_step: int
    packs_per_pass: int = 1
    rank: int = 0
    world_size: int = 1
    dim: int = 1024
    """Width of the model, for the cost of attention relative to the rest."""
    augment: Augment | None = None
    """Augmentation of prompt audio, drawn by seed and position, so that it does not depend on the rank."""
    seed: int = 0
    """Root of the augmentation's draws."""
    ahead: int = 2
    """Steps that are prepared ahead."""
    equal_passes: bool = False
    """Whether every rank makes as many passes in a step: ranks that hold parts of the parameters wait for each other in
    each of them."""
    pin: bool = False
    """Whether batches are in pinned memory, for asynchronous copies to a GPU."""

    def indices(self, step: int) -> list[int]:
        """Return the packs of a step, counted from 1, over all ranks."""
        first = (step - 1) * self.packs_per_step
        return [self.stream.at(position) for position in range(first, first + self.packs_per_step)]

    def places_of(self, indices: Sequence[int]) -> list[int]:
        """Return the indices, within a step, of this rank's packs."""
        if self.world_size == 1:
            return list(range(len(indices)))
        costs = [step_cost(*self.source.size(index), self.dim) for index in indices]
        return share(costs, self.world_size)[self.rank]

    def share_of(self, indices: Sequence[int]) -> list[int]:
        """Return this rank's packs of a step."""
        return [indices[place] for place in self.places_of(indices)]

    def load(self, step: int) -> StepPacks:
        """Return a step's batches."""
        first, indices = (step - 1) * self.packs_per_step, self.indices(step)
        places = self.places_of(indices)
        packs = [self.source[indices[place]] for place in places]
        change = [self._augmented(first + place) for place in places] if self.augment else None
        batches = [
            collate(
                packs[start : start + self.packs_per_pass],
                self.grid,
                change and change[start : start + self.packs_per_pass],
            )
            for start in range(0, len(packs), self.packs_per_pass)
        ]
        fillers = []
        if self.equal_passes:
            most = -(-len(indices) // self.world_size)  # packs of the rank with the most
            missing = -(-most // self.packs_per_pass) - len(batches)
            fillers = [batches[-1] if batches else collate([self.source[indices[0]]], self.grid)] * missing
        if self.pin:
            batches, fillers = ([batch.apply(torch.Tensor.pin_memory) for batch in some] for some in (batches, fillers))
        return StepPacks(step, self.stream.epoch(first), tuple(batches), tuple(fillers))

    def first(self, number: int) -> Iterator[Batch]:
        """Yield up to so many packs from the beginning of the order, whatever the rank, a batch each."""
        for position in range(min(number, self.stream.num_packs)):
            yield collate([self.source[self.stream.at(position)]], self.grid)

    def _augmented(self, position: int) -> Callable[[Codes], Codes]:
        draw = np.random.Generator(np.random.Philox(key=[self.seed & (2**64 - 1), position]))
        augment = self.augment or Augment()
        return lambda codes: augment(codes, self.grid.codebook_size, draw)

    def steps(self, first: int, last: int) -> Iterator[StepPacks]:
        """Yield steps first..last; an error in a pack is raised when its step is reached."""
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            coming: list[Future[StepPacks]] = []
            load: Callable[[int], StepPacks] = self.load
            prefetched = first - 1
            try:
                for step in range(first, last + 1):
                    while prefetched < min(last, step + 4 * self.ahead):
                        prefetched += 1
                        self.source.prefetch(self.indices(prefetched))
                    while len(coming) < self.ahead and step + len(coming) <= last:
                        coming.append(pool.submit(load, step + len(coming)))
                    yield coming.pop(0).result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
