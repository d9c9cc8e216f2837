"""What every timing has in common: the pieces it is given, a conversation's traits, and the timeline it returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from operators.simulate.priors.liveliness import conversation_liveliness
from operators.simulate.priors.prior import Prior

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TRANSITIONS = ("hold", "switch_gap", "switch_overlap", "backchannel", "start")
"""How a turn relates to the floor; `kind` arrays hold indices into this tuple."""
HOLD, GAP, OVERLAP, BACKCHANNEL, START = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Pool:
    """The pieces that the speakers of one conversation can say, and how much of them is wanted."""

    seconds: Floats
    """(P,) length of each piece; pieces are sorted by speaker, each speaker's in order."""
    begins: Ints
    """(S + 1,) first piece of each speaker, then P."""
    target: int
    """Number of turns wanted."""
    limit_s: float
    """No turn may end later, except the first."""


@dataclass(frozen=True)
class Traits:
    """How one conversation and its speakers differ from the average."""

    tempo: float
    """Standard normal score of the conversation's offsets."""
    pace: float
    """Standard normal score of the conversation's pauses."""
    habits: Floats
    """(S,) standard normal scores of the speakers' offsets."""
    steadiness: float
    """Shift of the log-odds of a hold."""
    chattiness: float
    """Factor on the rate of backchannels."""
    weights: Floats
    """(S,) how readily each speaker takes the floor; sums to 1."""

    @staticmethod
    def drawn(prior: Prior, num_speakers: int, draw: np.random.Generator) -> "Traits":
        """Draw the traits of one conversation."""
        tempo, pace = draw.standard_normal(2).tolist()
        habits = draw.standard_normal(num_speakers)
        steadiness, chattiness = conversation_liveliness(prior, draw.standard_normal(2).tolist(), tempo)
        weights = draw.dirichlet(np.full(num_speakers, prior.dominance))
        return Traits(tempo, pace, habits, steadiness, chattiness, weights)


@dataclass(frozen=True)
class Timeline:
    """Pieces in the order in which they take the floor."""

    piece: Ints
    """(T,) index into the pool."""
    who: Ints
    """(T,) speaker."""
    kind: NDArray[np.int8]
    """(T,) index into TRANSITIONS."""
    start_s: Floats
    """(T,) start in seconds."""
    num_dropped: int
    """Pieces left out because they would end after the limit."""
    num_clipped: int = 0
    """Offsets that had to be changed to fit."""


class Timing(ABC):
    """Decides who speaks when in one conversation; made once per batch from its prior.

    A subclass is a file of its own with a name, a source and its constants, and an entry in `TIMINGS`
    (operators/simulate/timing/__init__.py).
    """

    name: ClassVar[str]
    source: ClassVar[str]
    """The paper it implements, or what it was developed from."""
    has_backchannels: ClassVar[bool] = False
    """Whether backchannels can be added to its timelines."""

    def __init__(self, prior: Prior, min_own_pause_s: float) -> None:
        self.prior = prior
        self.min_own_pause_s = min_own_pause_s

    @abstractmethod
    def __call__(self, pool: Pool, traits: Traits, draw: np.random.Generator) -> Timeline:
        """Return the timeline of one conversation, from its own generator."""


def read_quantiles(table: tuple[float, ...] | Floats, levels: Floats | float) -> Floats:
    """Return the values (N,) at some levels (N,) of a table of quantiles at even levels from 0 to 1."""
    return np.asarray(np.interp(levels, np.linspace(0, 1, len(table)), np.array(table)))


def place_by_gaps(order: list[tuple[int, int]], gaps: Floats, pool: Pool, *, after_previous_only: bool) -> Timeline:
    """Place pieces one after the other by a signed gap before each; no speaker overlaps themselves.

    Args:
        order: piece and speaker of each turn.
        gaps: (T,) seconds.
        pool: the pieces.
        after_previous_only: whether a gap counts from the end of the previous turn, rather than of all turns so far.
    """
    own_end: dict[int, float] = {}
    last_end, last = 0.0, -1
    piece: list[int] = []
    who: list[int] = []
    kind: list[int] = []
    start: list[float] = []
    dropped = 0
    for (index, speaker), gap in zip(order, gaps.tolist(), strict=True):
        begin = max(last_end + gap, own_end.get(speaker, 0.0), 0.0)
        end = begin + float(pool.seconds[index])
        if end > pool.limit_s and piece:
            dropped += 1
            continue
        piece.append(index)
        who.append(speaker)
        kind.append(START if last < 0 else HOLD if speaker == last else GAP if begin >= last_end else OVERLAP)
        start.append(begin)
        own_end[speaker] = end
        last_end = end if after_previous_only else max(last_end, end)
        last = speaker
    return timeline_of(piece, who, kind, start, dropped)


def timeline_of(piece: list[int], who: list[int], kind: list[int], start_s: list[float], num_dropped: int) -> Timeline:
    """Return a timeline from lists."""
    return Timeline(
        np.array(piece, np.int64), np.array(who, np.int64), np.array(kind, np.int8), np.array(start_s), num_dropped
    )
