"""The order of packs, computed and never stored: a position in the stream is one integer.

Two levels: shards are permuted, and packs are permuted within each window of consecutive shards, so that a
reader of remote shards needs only a window of them at a time.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate


def _round_keys(seed: int, address: str) -> tuple[int, ...]:
    data = hashlib.blake2b(f"{seed}\x1f{address}".encode(), digest_size=32).digest()
    return tuple(int.from_bytes(data[i : i + 8], "little") for i in range(0, 32, 8))


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


@dataclass(frozen=True)
class PackOrder:
    """Which pack stands at a position of the endless stream of epochs."""

    shard_sizes: tuple[int, ...]
    seed: int
    window_shards: int = 8

    @property
    def num_packs(self) -> int:
        """Packs in an epoch."""
        return sum(self.shard_sizes)

    def at(self, position: int) -> int:
        """Return the index (counted through all shards) of the pack at a position.

        >>> order = PackOrder((3, 2), seed=1)
        >>> sorted(order.at(p) for p in range(5)), sorted(order.at(p) for p in range(5, 10))
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
        """
        epoch, rest = divmod(position, self.num_packs)
        windows, starts = _windows(self.shard_sizes, self.seed, self.window_shards, epoch)
        number = bisect_right(starts, rest) - 1
        shards = windows[number]
        inside = permute(
            rest - starts[number],
            sum(size for _, size in shards),
            _round_keys(self.seed, f"packs-{epoch}-{number}"),
        )
        for first, size in shards:
            if inside < size:
                return first + inside
            inside -= size
        raise AssertionError("a position outside its window")


@lru_cache(maxsize=4)
def _windows(
    shard_sizes: tuple[int, ...], seed: int, window: int, epoch: int
) -> tuple[list[list[tuple[int, int]]], Sequence[int]]:
    """Return the shards (first pack, size) of each window of an epoch, and where each window starts."""
    firsts = [0, *accumulate(shard_sizes)]
    keys = _round_keys(seed, f"shards-{epoch}")
    order = [permute(i, len(shard_sizes), keys) for i in range(len(shard_sizes))]
    shards = [(firsts[i], shard_sizes[i]) for i in order if shard_sizes[i]]
    windows = [shards[i : i + window] for i in range(0, len(shards), window)]
    return windows, [0, *accumulate(sum(size for _, size in shards) for shards in windows)][:-1]
