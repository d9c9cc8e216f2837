"""Intervals and tests that resample what is independent: speakers where they are known, else recordings.

Recordings that share speakers are no independent draws: 40 conversations among 8 voices say little more about new
voices than 8 do. So speakers are drawn with replacement, and a recording counts by how often its speakers are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.errors import InputError
from operators.rng import rng
from operators.scoring.sessions import Session, speakers_of

UNITS = ("auto", "speakers", "recordings")
NUM_FLIPS = 10_000
"""Sign flips of the permutation test, where there are too many to be listed."""
_LISTED_UNITS = 13
_BIN_S = 0.001


@dataclass(frozen=True)
class Units:
    """What is resampled, of some sessions."""

    recordings: tuple[str, ...]
    members: NDArray[np.float64]
    """(U, R): 1 where unit u takes part in recording r."""
    about: str

    @property
    def num_units(self) -> int:
        """Return U."""
        return len(self.members)

    @property
    def are_apart(self) -> bool:
        """Return whether every recording has one unit."""
        return bool((self.members.sum(axis=0) == 1).all())

    def draws(self, seed: int, number: int) -> NDArray[np.float64]:
        """Return how often each unit is drawn in each draw (number, U), 1 on average."""
        units = self.num_units
        drawn = rng(seed, "bootstrap", "units").multinomial(units, np.full(units, 1 / units), size=number)
        return np.asarray(drawn, dtype=float)

    def weights(self, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much recordings count in each draw (B, R): 1 + the sum of (times drawn - 1) of its units.

        The first order of the product of times drawn, of which Owen 2007, "The pigeonhole bootstrap", makes weights.
        """
        return np.asarray(1.0 + (drawn - 1.0) @ self.members)

    def parts(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each unit's part (U,) in the sum of values of recordings (R,).

        A recording's value is taken for the sum of what its units bring, and found by least squares: half of what
        happens in a dialogue is the other speaker's doing.
        """
        effects = np.linalg.lstsq(self.members.T, values, rcond=None)[0]
        return np.asarray(effects * self.members.sum(axis=1))

    def tail(self) -> float:
        """Return the percentile, as a share, that bounds 95 % from below with so few units.

        The percentile interval of n units is too narrow by the normal's quantile instead of Student's, and by dividing
        by n instead of n - 1. Source: Hesterberg 2015, "What teachers should know about the bootstrap", section 4.3
        (expanded percentile interval).
        """
        from scipy.stats import norm, t

        free = self.num_units - 1
        return float(norm.cdf(-np.sqrt((free + 1) / free) * t.ppf(0.975, free)))


def units_of(sessions: Sequence[Session], wanted: str = "auto") -> Units:
    """Return what is resampled.

    With `auto`, names of speakers are taken for global unless there are no more of them than one recording has: then
    every recording numbers its own. Speakers who are in the same recordings are one unit.

    Raises:
        InputError: `wanted` is none of `UNITS`.
    """
    if wanted not in UNITS:
        raise InputError(f"units {wanted} is none of {', '.join(UNITS)}")
    speakers: dict[str, set[str]] = {}
    for session in sessions:
        speakers.setdefault(session.recording_id, set()).update(speakers_of(session.reference))
    recordings = tuple(sorted(speakers))
    number = len(recordings)
    by_recording = Units(recordings, np.eye(number), f"{number} recordings")
    names = sorted(set().union(*speakers.values())) if speakers else []
    if wanted == "recordings" or not names:
        return by_recording
    if wanted == "auto" and len(names) <= max(map(len, speakers.values())):
        about = f"{number} recordings, whose speakers have the same names everywhere and are taken for different people"
        return Units(recordings, by_recording.members, about)
    rows = {tuple(float(name in speakers[recording]) for recording in recordings) for name in names}
    rows |= {tuple(float(one == other) for other in recordings) for one in recordings if not speakers[one]}
    found = np.array(sorted(rows, reverse=True))
    if (found.sum(axis=0) == 1).all() and len(found) == number:
        return Units(recordings, found, f"{number} recordings, which share no speaker")
    return Units(recordings, found, f"{len(names)} speakers, in {len(found)} groups with the same recordings")


def per_recording(units: Units, sessions: Sequence[Session], values: Sequence[float]) -> NDArray[np.float64]:
    """Return the values of sessions (N,) summed over each recording (R,)."""
    place = {name: number for number, name in enumerate(units.recordings)}
    sums = np.zeros(len(place))
    np.add.at(sums, [place[session.recording_id] for session in sessions], np.asarray(values, float))
    return sums


def ratio_draws(
    units: Units, drawn: NDArray[np.float64], errors: NDArray[np.float64], base: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the ratio of sums in each draw (B,), of errors and bases of recordings (R,).

    Args:
        units: what is drawn.
        drawn: how often each unit is drawn (B, U).
        errors: of each recording.
        base: what they are divided by; its sum is above 0.

    Where recordings have several units, the ratio is taken to first order: each unit's part in it is drawn.
    """
    total = base.sum()
    rate = errors.sum() / total
    if units.are_apart:
        weights = units.weights(drawn)
        sums = weights @ base
        return np.asarray(np.where(sums > 0, (weights @ errors) / np.where(sums > 0, sums, 1.0), rate))
    return np.asarray(rate + (drawn - 1.0) @ units.parts(errors - rate * base) / total)


def median_draws(
    units: Units, drawn: NDArray[np.float64], values: Sequence[Sequence[float]], sessions: Sequence[Session]
) -> NDArray[np.float64]:
    """Return the median in each draw (B,), to a millisecond, of the values of each session in seconds."""
    place = {name: number for number, name in enumerate(units.recordings)}
    bins = [np.rint(np.asarray(own, float) / _BIN_S).astype(int) for own in values]
    highest = max((int(own.max()) for own in bins if len(own)), default=0)
    table = np.zeros((len(place), highest + 1))
    for session, own in zip(sessions, bins, strict=True):
        np.add.at(table[place[session.recording_id]], own, 1.0)
    sums = np.cumsum(np.maximum(units.weights(drawn), 0.0) @ table, axis=1)
    return np.asarray(np.argmax(sums >= sums[:, -1:] / 2, axis=1) * _BIN_S)


def interval(draws: NDArray[np.float64], units: Units, lowest: float | None = 0.0) -> tuple[float, float] | None:
    """Return the 95 % interval of draws (B,); None where fewer than two units can be resampled."""
    if units.num_units < 2:
        return None
    tail = units.tail()
    low, high = (float(np.quantile(draws, share)) for share in (tail, 1 - tail))
    return (low if lowest is None else max(lowest, low), high)


def sign_flip_p(units: Units, differences: NDArray[np.float64], seed: int) -> float | None:
    """Return the two-sided p of recordings' contributions to a difference (R,), by exchanging the systems unit by unit.

    A recording's contribution is split among its units by `Units.parts`. All flips are listed for up to 13 units, else
    10,000 are drawn. Source: Smucker, Allan & Carterette 2007, "A comparison of statistical significance tests".
    """
    if units.num_units < 2:
        return None
    parts = units.parts(differences)
    size = abs(parts.sum())
    if units.num_units <= _LISTED_UNITS:
        codes = np.arange(2**units.num_units)
        signs = 1.0 - 2.0 * ((codes[:, None] >> np.arange(units.num_units)) & 1)
    else:
        signs = 1.0 - 2.0 * rng(seed, "permutation", "units").integers(0, 2, size=(NUM_FLIPS, units.num_units))
        signs[0] = 1.0  # the observed one is one of them
    # A hair's breadth: sums of the same parts in another order are equal.
    return float(np.mean(np.abs(signs @ parts) >= size * (1 - 1e-9)))
