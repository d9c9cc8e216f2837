"""Randomness with an address: a draw depends on (seed, purpose, id) and on nothing else.

No result may depend on the number of workers, the layout of blocks or the order of arrival, so there is no
sequential generator anywhere: every draw has an address. Source: Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3" (Philox), keyed here by BLAKE2b of the address.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from operators.rng_kernels import highest


def rng(seed: int, purpose: str, identifier: str) -> np.random.Generator:
    """Return the generator that belongs to this address.

    >>> float(rng(0, "turns", "train-000001").random()) == float(rng(0, "turns", "train-000001").random())
    True
    >>> float(rng(0, "turns", "train-000001").random()) == float(rng(0, "turns", "train-000002").random())
    False
    """
    key = hashlib.blake2b(f"{seed}\x1f{purpose}\x1f{identifier}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def hash64(text: str) -> int:
    """Return 64 hash bits of a text, the same on every machine (unlike `hash`)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hash64_many(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return `hash64` of each text, (N,) uint64."""
    return np.fromiter((hash64(text) for text in texts), dtype=np.uint64, count=len(texts))


def rendezvous(address: str, candidates: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Choose `count` candidates by highest random weight.

    Adding or removing a candidate changes the choice only where it wins or leaves.

    Args:
        address: who chooses, for instance seed, purpose and conversation id in one text.
        candidates: (N,) `hash64` of each candidate.
        count: how many to take, at most N.

    Returns:
        (count,) indices of the chosen, the highest weight first.

    Source: Thaler & Ravishankar 1998, "Using name-based mappings to increase hit rates".

    >>> names = ["ann", "bob", "cid", "dee"]
    >>> chosen = [names[i] for i in rendezvous("0:talk-1", hash64_many(names), 2)]
    >>> fewer = [n for n in names if n == chosen[0] or n != chosen[1]]
    >>> fewer[rendezvous("0:talk-1", hash64_many(fewer), 1)[0]] == chosen[0]
    True
    """
    return np.asarray(highest(candidates, np.uint64(hash64(address)), min(count, len(candidates))))


def rendezvous_order(address: str, names: Sequence[str]) -> list[int]:
    """Return all indices of names by falling random weight: a shuffle that a new name does not disturb.

    >>> sorted(rendezvous_order("0:x", ["a", "b", "c"]))
    [0, 1, 2]
    """
    found: list[int] = rendezvous(address, hash64_many(names), len(names)).tolist()
    return found
