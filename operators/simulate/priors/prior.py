"""A prior: the distributions of turn-taking that a simulator draws from."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Turn-taking in one kind of conversation; quantiles are at even levels from 0 to 1, times in seconds."""

    name: str
    source: str
    """The recordings it was fitted to."""
    offset_s: tuple[float, ...]
    """Quantiles of floor-transfer offsets; negative offsets are overlaps."""
    pause_s: tuple[float, ...]
    """Quantiles of pauses before holds."""
    segment_s: tuple[float, ...]
    """Quantiles of the lengths of segments that hold the floor."""
    hold_after: tuple[float, float, float]
    """Probability of a hold after a hold, a gap and an overlap, ignoring backchannels, in the average conversation."""
    offset_after: tuple[float, float]
    """Mean normal score of the offset after a hold, and after a change of speaker."""
    return_share: float
    """Share of the switches that give the floor back to its previous holder, with three or more speakers."""
    dominance: float
    """Concentration of the Dirichlet distribution of the speakers' shares."""
    conversation_share: float
    """Share of the variance of (normal-scored) offsets that is between conversations."""
    speaker_share: float
    """Share of that variance that is between the speakers of a conversation."""
    serial: float
    """Correlation of the remaining variance with the previous offset."""
    pause_conversation_share: float
    """Share of the variance of (normal-scored) pauses that is between conversations."""
    pause_length_correlation: float
    """Rank correlation of a pause with the length of the segment before it."""
    backchannels_per_host: tuple[float, ...]
    """Mean number of backchannels by the length of the host, in the bins of HOST_BINS_S."""
    backchannels_after: tuple[float, float, float]
    """Factor on that number where the host began with a hold, a gap, an overlap."""
    backchannel_dispersion: float
    """Shape of the gamma distribution of rates among hosts of one length; small values are uneven."""
    backchannel_s: tuple[tuple[float, ...], ...]
    """Quantiles of the lengths of backchannels, one row per bin of the host's length."""
    backchannel_onset: tuple[float, ...]
    """Quantiles of the onset of backchannels, as a share of the room that they have in the host."""
    liveliness: tuple[float, float] = (0.0, 0.0)
    """Standard deviations over conversations of the log-odds of holds and of the log-rate of backchannels, beyond
    chance."""
    liveliness_correlation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Correlations over conversations: offsets with holds, offsets with backchannels, holds with backchannels."""

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Prior":
        """Return the prior in parsed JSON.

        Raises:
            TypeError: fields are missing or unknown.
            ValueError: a field holds what is no number, NaN or infinity, or quantiles that fall.
        """
        fields: dict[str, Any] = {
            name: tuple(tuple(part) if isinstance(part, list) else part for part in value)
            if isinstance(value, list)
            else value
            for name, value in data.items()
        }
        prior = Prior(**fields)
        for name, value in asdict(prior).items():
            if name not in ("name", "source"):
                _check(name, value)
        return prior

    def to_json(self) -> str:
        """Return the prior as JSON text."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


_QUANTILES = ("offset_s", "pause_s", "segment_s", "backchannel_s", "backchannel_onset")


def _check(name: str, value: Any) -> None:
    """Check that a field holds finite numbers, and quantiles that do not fall."""
    rows = value if isinstance(value, tuple) and any(isinstance(row, tuple) for row in value) else (value,)
    for row in rows:
        numbers = row if isinstance(row, tuple) else (row,)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise ValueError(f"{name} holds {number!r}, which is no finite number")
        if name in _QUANTILES and (len(numbers) < 2 or any(a > b for a, b in pairwise(numbers))):
            raise ValueError(f"{name} must be two or more quantiles that do not fall")
