"""The order of packs, computed and never stored: a position in the stream is one integer.

Three levels. A mixture takes turns between components (tasks, length buckets) by whole-number weights. Within a
component shards are permuted, and packs are permuted within each window of consecutive shards, so that a reader of
remote shards needs only a window of them at a time.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

WINDOW_PACKS = 2048
"""Packs of a shard within which the costliest may be taken in groups."""
GROUP_PACKS = 64
"""Packs of a group, whatever the number of ranks: how many there are changes no order."""
GROUPED_SHARE = 4
"""One pack in so many stands in a group."""


@dataclass(frozen=True)
class Span:
    """Packs side by side in one shard, counted through all shards."""

    first: int
    size: int
    grouped: bool = False
    """Whether the first quarter of each 2,048 packs stands sorted by cost, to be taken in groups of 64."""

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        if not self.grouped:
            return 0
        whole, rest = divmod(self.size, WINDOW_PACKS)
        return whole * _GROUPS + rest // GROUPED_SHARE // GROUP_PACKS

    def group(self, number: int) -> int:
        """Return the first pack of a group."""
        window, inside = divmod(number, _GROUPS)
        return self.first + window * WINDOW_PACKS + inside * GROUP_PACKS

    def single(self, number: int) -> int:
        """Return a pack that stands in no group."""
        if not self.grouped:
            return self.first + number
        each = WINDOW_PACKS - _GROUPS * GROUP_PACKS
        whole, rest = divmod(self.size, WINDOW_PACKS)
        window = min(number // each, whole)  # the last window may hold more singles than a whole one
        inside = number - window * each
        groups = _GROUPS if window < whole else rest // GROUPED_SHARE // GROUP_PACKS
        return self.first + window * WINDOW_PACKS + groups * GROUP_PACKS + inside


_GROUPS = WINDOW_PACKS // GROUPED_SHARE // GROUP_PACKS


def _round_keys(seed: int, address: str) -> tuple[int, ...]:
    data = hashlib.blake2b(f"{seed}\x1f{address}".encode(), digest_size=32).digest()
    return tuple(int.from_bytes(data[i : i + 8], "little") for i in range(0, 32, 8))


_cached_keys = lru_cache(maxsize=256)(_round_keys)


def permute(index: int, size: int, keys: tuple[int, ...]) -> int:
    """Return where a keyed permutation of `range(size)` takes an index, in constant time and memory.

    A Feistel network on the smallest even number of bits that holds `size`, walked until it lands inside.
    Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains", section 4 (cycle walking).

    >>> sorted(permute(i, 10, (1, 2, 3, 4)) for i in range(10)) == list(range(10))
    True
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for key in keys:
            mixed = ((right + 1) * 0x9E3779B97F4A7C15 ^ key) & 0xFFFFFFFFFFFFFFFF
            mixed = ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((mixed >> 32) & mask)
        index = (left << half) | right
        if index < size:
            return index


def permute_all(size: int, keys: tuple[int, ...]) -> NDArray[np.int64]:
    """Return `permute` of every index at once.

    >>> permute_all(10, (1, 2, 3, 4)).tolist() == [permute(i, 10, (1, 2, 3, 4)) for i in range(10)]
    True
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    found = np.arange(size, dtype=np.uint64)
    walking = np.arange(size)
    while walking.size:
        left, right = found[walking] >> half, found[walking] & mask
        for key in keys:
            mixed = ((right + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(key)
            mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
            left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
        found[walking] = (left << half) | right
        walking = walking[found[walking] >= size]
    return found.astype(np.int64)


@dataclass(frozen=True)
class PackOrder:
    """Which pack stands at a position of the endless stream of one component's epochs."""

    spans: tuple[Span, ...]
    seed: int
    name: str = ""
    window_shards: int = 8

    @cached_property
    def num_packs(self) -> int:
        """Packs in an epoch."""
        return sum(span.size for span in self.spans)

    def at(self, position: int) -> int:
        """Return the index (counted through all shards) of the pack at a position.

        >>> order = PackOrder((Span(0, 3), Span(3, 2)), seed=1)
        >>> sorted(order.at(p) for p in range(5)), sorted(order.at(p) for p in range(5, 10))
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
        """
        epoch, rest = divmod(position, self.num_packs)
        shards, starts = _windows(self.spans, self.seed, self.name, self.window_shards, epoch)
        number = int(np.searchsorted(starts, rest, side="right")) - 1
        start = int(starts[number])
        chosen = shards[number * self.window_shards : (number + 1) * self.window_shards]
        spans: list[Span] = [self.spans[shard] for shard in chosen.tolist()]
        inside = rest - start
        address = f"{self.name}-packs-{epoch}-{number}"
        groups = sum(span.num_groups for span in spans)
        singles = sum(span.size for span in spans) - groups * GROUP_PACKS
        single = inside
        if groups:
            # Groups begin where the stream's position is a multiple of their size; singles fill up to there.
            lead = min(singles, -(epoch * self.num_packs + start) % GROUP_PACKS)
            slots = groups + (singles - lead) // GROUP_PACKS
            slot, within = divmod(inside - lead, GROUP_PACKS)
            if inside < lead:
                single = inside
            elif slot < slots:
                taken = permute(slot, slots, _cached_keys(self.seed, f"{address}-groups"))
                if taken < groups:
                    for span in spans:
                        if taken < span.num_groups:
                            return span.group(taken) + within
                        taken -= span.num_groups
                single = lead + (taken - groups) * GROUP_PACKS + within
            else:
                single = lead + (slots - groups) * GROUP_PACKS + inside - lead - slots * GROUP_PACKS
        single = permute(single, singles, _cached_keys(self.seed, address))
        for span in spans:
            here = span.size - span.num_groups * GROUP_PACKS
            if single < here:
                return span.single(single)
            single -= here
        raise AssertionError("a position outside its window")


@lru_cache(maxsize=64)
def _windows(
    spans: tuple[Span, ...], seed: int, name: str, window: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order of the shards in an epoch, and at which position each window of them starts."""
    order = permute_all(len(spans), _round_keys(seed, f"{name}-shards-{epoch}"))
    sizes = np.fromiter((span.size for span in spans), np.int64, len(spans))[order]
    order, sizes = order[sizes > 0], sizes[sizes > 0]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)[:-1]])
    return order, starts[::window]


@dataclass(frozen=True)
class Phase:
    """From a step on: how often each component is taken."""

    first_step: int
    weights: tuple[tuple[str, int], ...]

    @cached_property
    def turns(self) -> tuple[str, ...]:
        """One round of components, each as often as its weight and as evenly spread as can be.

        >>> Phase(0, (("a", 3), ("b", 1))).turns
        ('a', 'a', 'b', 'a')
        """
        total = sum(weight for _, weight in self.weights)
        credit = dict.fromkeys((name for name, _ in self.weights), 0)
        turns = []
        for _ in range(total):
            for name, weight in self.weights:
                credit[name] += weight
            chosen = max(credit, key=lambda name: credit[name])
            credit[chosen] -= total
            turns.append(chosen)
        return tuple(turns)

    @cached_property
    def before(self) -> dict[str, tuple[int, ...]]:
        """How often each component came before each turn of a round, and in the whole round."""
        return {n: tuple(accumulate((t == n for t in self.turns), initial=0)) for n, _ in self.weights}


MOST_TURNS = 10_000
_BUCKET = re.compile(r"-\d+$")
"""How the name of a component of documents of similar length ends: in its bucket, in columns."""


def growing(components: Mapping[str, int], num_steps: int) -> tuple[Phase, ...]:
    """Return phases that go from the shortest bucket to the longest, each as long as its share of the packs.

    Source: Jin et al. 2023, "GrowLength", arXiv:2310.00576.

    Raises:
        ValueError: the components are not buckets of length.

    >>> [(p.first_step, p.weights) for p in growing({"asr-000064": 10, "asr-000128": 30}, num_steps=8)]
    [(0, (('asr-000064', 1),)), (2, (('asr-000128', 1),))]
    """
    by_bucket: dict[str, dict[str, int]] = {}
    for name, number in components.items():
        if not _BUCKET.search(name):
            raise ValueError(
                f"train.mixture grow goes from short packs to long ones, but {name} has both; set --pack.packer buckets"
            )
        by_bucket.setdefault(name.rpartition("-")[2], {})[name] = number
    total, gone = sum(components.values()), 0
    phases = []
    for bucket in sorted(by_bucket):
        weights = phases_of([",".join(f"{n}={m}" for n, m in by_bucket[bucket].items())], components)[0].weights
        phases.append(Phase(num_steps * gone // total, weights))
        gone += sum(by_bucket[bucket].values())
    return tuple(
        b
        for b, later in zip(phases, [*phases[1:], None], strict=True)
        if later is None or later.first_step > b.first_step
    )


def mixture_names(texts: Sequence[str]) -> list[str]:
    """Return the names and patterns of a mixture before the components are known; none for `grow`.

    Raises:
        ValueError: it cannot be read.

    >>> mixture_names(["asr=3,continue=1", "500:asr-*=1"])
    ['asr', 'continue', 'asr-*']
    """
    if list(texts) == ["grow"]:
        return []
    names = [part.partition("=")[0].strip() for text in texts for part in text.rpartition(":")[2].split(",")]
    phases_of(texts, dict.fromkeys(names, 1))
    return names


def phases_of(texts: Sequence[str], components: Mapping[str, int], num_steps: int = 0) -> tuple[Phase, ...]:
    """Read a mixture: `asr=3,continue=1`, each from a step on: `500:asr=1`; names may be patterns; or `grow`.

    Args:
        texts: one phase each, or none for all components in proportion to their packs.
        components: packs of each component.
        num_steps: steps of the training, for `grow`.

    Raises:
        ValueError: a phase cannot be read, names nothing that is there, or the first starts after step 0.

    >>> phases_of(["asr=0.75,continue=0.25", "100:asr=1"], {"asr": 9, "continue": 9})[0].weights
    (('asr', 3), ('continue', 1))
    """
    if list(texts) == ["grow"]:
        return growing(components, num_steps)
    phases = []
    for text in texts:
        start, _, rest = text.rpartition(":")
        weights: dict[str, Fraction] = {}
        for part in rest.split(","):
            pattern, _, value = part.partition("=")
            names = [name for name in components if fnmatchcase(name, pattern.strip())]
            if not names:
                raise ValueError(f"train.mixture: no component {pattern.strip()}; there are {', '.join(components)}")
            try:
                weight = Fraction(value.strip() or "1")
                first_step = int(start or 0)
            except (ValueError, ZeroDivisionError) as error:
                raise ValueError(f"train.mixture: {text!r} is not [STEP:]NAME=WEIGHT,...") from error
            if weight < 0:
                raise ValueError(f"train.mixture: {text!r} has a negative weight")
            for name in names:
                # A pattern's weight is shared out in proportion to packs.
                share = Fraction(components[name], max(1, sum(components[n] for n in names)))
                weights[name] = weight * (share if len(names) > 1 else 1)
        whole = lcm(*(weight.denominator for weight in weights.values()))
        numbers = {name: int(weight * whole) for name, weight in weights.items() if weight and components[name]}
        if not numbers:
            raise ValueError(f"train.mixture: {text!r} takes no packs at all")
        shared = gcd(*numbers.values())
        numbers = {name: number // shared for name, number in numbers.items()}
        total = sum(numbers.values())
        if total > MOST_TURNS:  # to the nearest share; patterns over uneven components end up here
            numbers = {n: max(1, round(weight * MOST_TURNS / total)) for n, weight in numbers.items()}
        phases.append(Phase(first_step, tuple(numbers.items())))
    if phases and phases[0].first_step:
        raise ValueError(f"train.mixture: the first phase starts at step {phases[0].first_step}, not at 0")
    if any(a.first_step >= b.first_step for a, b in pairwise(phases)):
        raise ValueError("train.mixture: phases must start one after the other")
    return tuple(phases)


class Stream:
    """Which pack stands at a position of the endless stream of all components."""

    def __init__(
        self,
        components: Mapping[str, Sequence[Span]],
        seed: int,
        mixture: Sequence[str] = (),
        packs_per_step: int = 1,
        num_steps: int = 0,
        window_shards: int = 8,
    ) -> None:
        """Set up the orders.

        Raises:
            ValueError: the mixture cannot be read, or there are no packs.
        """
        sizes = {name: sum(span.size for span in spans) for name, spans in components.items()}
        self.num_packs = sum(sizes.values())
        """Packs in all components."""
        if not self.num_packs:
            raise ValueError("there are no packs")
        if not mixture:  # one stream of all, in proportion
            components = {"": sorted((span for spans in components.values() for span in spans), key=lambda s: s.first)}
            self._phases: tuple[Phase, ...] = (Phase(0, (("", 1),)),)
        else:
            self._phases = phases_of(mixture, sizes, num_steps)
        self._orders = {n: PackOrder(tuple(spans), seed, n, window_shards) for n, spans in components.items()}
        grouped = any(span.grouped for spans in components.values() for span in spans)
        self._unit = GROUP_PACKS if grouped else 1
        # A phase starts with a step; where packs are grouped, also with a group.
        self._starts = [-(-phase.first_step * packs_per_step // self._unit) * self._unit for phase in self._phases]
        self._taken: list[dict[str, int]] = [{}]
        for number in range(1, len(self._phases)):
            length = self._starts[number] - self._starts[number - 1]
            counts = dict(self._taken[-1])
            for name, _ in self._phases[number - 1].weights:
                counts[name] = counts.get(name, 0) + self._count(number - 1, name, length)
            self._taken.append(counts)

    def _count(self, phase: int, name: str, length: int) -> int:
        """Return how many of the first positions of a phase are a component's."""
        turns, before = self._phases[phase].turns, self._phases[phase].before[name]
        blocks, rest = divmod(length, self._unit)
        rounds, turn = divmod(blocks, len(turns))
        number = (rounds * before[-1] + before[turn]) * self._unit
        return number + (rest if turns[turn] == name else 0)

    def where(self, position: int) -> tuple[str, int]:
        """Return the component at a position, and the position in its own stream."""
        phase = bisect_right(self._starts, position) - 1
        inside = position - self._starts[phase]
        turns = self._phases[phase].turns
        name = turns[inside // self._unit % len(turns)]
        return name, self._taken[phase].get(name, 0) + self._count(phase, name, inside)

    def at(self, position: int) -> int:
        """Return the index (counted through all shards) of the pack at a position.

        >>> stream = Stream({"a": [Span(0, 4)], "b": [Span(4, 4)]}, seed=0, mixture=["a=3,b=1"])
        >>> sum(stream.at(p) < 4 for p in range(100, 140))
        30
        """
        name, own = self.where(position)
        return self._orders[name].at(own)

    def epoch(self, position: int) -> int:
        """Return how often the component at a position has been gone through before: above 0, packs come again."""
        name, own = self.where(position)
        return own // self._orders[name].num_packs
