"""How people take turns: events of a conversation, a prior fitted to many, and what a simulator needs of it.

The floor: segments of one speaker closer than 0.2 s are one. A segment that lies inside the floor holder's is a
backchannel and takes no floor. Any other one takes it: the holder's own after a pause (hold), another's after a gap
or an overlap (switch; the signed time between them is the floor-transfer offset).
Source: Heldner & Edlund 2010, "Pauses, gaps and overlaps in conversations", J. Phonetics 38(4), section 2.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.errors import InputError

Floats = NDArray[np.float64]
MERGE_S = 0.2
HOST_BINS_S = (0.0, 2.0, 5.0, 10.0, 20.0)
"""Lower edges of the lengths of hosts that backchannels are counted by."""
KINDS = ("hold", "switch_gap", "switch_overlap", "backchannel")
PRESETS = ("meeting", "telephone", "broadcast")


@dataclass(frozen=True)
class Segment:
    """Somebody speaks."""

    start_s: float
    end_s: float
    speaker: str


@dataclass(frozen=True)
class Event:
    """Somebody begins to speak, and how that stands to the floor."""

    kind: str
    offset_s: float
    """To the floor's end; of a backchannel, its onset as a share of the host."""
    duration_s: float
    host_s: float
    """Length of the floor segment before, or of the host."""
    speaker: str
    before: str
    """Who had the floor."""


@dataclass(frozen=True)
class Talk:
    """One conversation: merged segments by start, and what happened."""

    name: str
    segments: tuple[Segment, ...]
    events: tuple[Event, ...]
    floors_s: Floats
    """Length of every segment that held the floor."""
    hosts: tuple[int, ...]
    """How many backchannels each of them was given."""


def read_rttm(paths: Iterable[str | Path]) -> dict[str, list[Segment]]:
    """Return the segments of each recording of RTTM files.

    Raises:
        InputError: a line cannot be read, or a segment lasts no time; names file and line.
    """
    found: dict[str, list[Segment]] = defaultdict(list)
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields or fields[0] != "SPEAKER":
                continue
            try:
                recording, start_s, length_s, speaker = fields[1], float(fields[3]), float(fields[4]), fields[7]
            except (IndexError, ValueError) as error:
                raise InputError(f"{path}:{number} is no RTTM line: {line!r}") from error
            if not length_s > 0 or start_s < 0:
                raise InputError(f"{path}:{number}: {speaker} speaks for {length_s} s from {start_s} s on")
            found[recording].append(Segment(start_s, start_s + length_s, speaker))
    return dict(found)


def merged(segments: Iterable[Segment], within_s: float = MERGE_S) -> list[Segment]:
    """Join each speaker's segments that are closer than `within_s`; return all by start.

    >>> merged([Segment(0, 1, "a"), Segment(1.1, 2, "a"), Segment(1.5, 3, "b")])
    [Segment(start_s=0, end_s=2, speaker='a'), Segment(start_s=1.5, end_s=3, speaker='b')]
    """
    by_speaker: dict[str, list[Segment]] = {}
    for segment in sorted(segments, key=lambda s: (s.start_s, s.end_s, s.speaker)):
        own = by_speaker.setdefault(segment.speaker, [])
        if own and segment.start_s - own[-1].end_s < within_s:
            own[-1] = Segment(own[-1].start_s, max(own[-1].end_s, segment.end_s), segment.speaker)
        else:
            own.append(segment)
    return sorted((s for own in by_speaker.values() for s in own), key=lambda s: (s.start_s, s.end_s, s.speaker))


def talk_of(name: str, segments: Iterable[Segment]) -> Talk:
    """Return what happened in a conversation."""
    joined = merged(segments)
    events: list[Event] = []
    floors: list[Segment] = []
    hosts: list[int] = []
    for segment in joined:
        if not floors:
            floors.append(segment)
            hosts.append(0)
            continue
        floor = floors[-1]
        length_s, held_s = segment.end_s - segment.start_s, floor.end_s - floor.start_s
        if segment.end_s <= floor.end_s and segment.speaker != floor.speaker:
            onset = (segment.start_s - floor.start_s) / held_s
            events.append(Event("backchannel", onset, length_s, held_s, segment.speaker, floor.speaker))
            hosts[-1] += 1
            continue
        offset_s = segment.start_s - floor.end_s
        kind = "hold" if segment.speaker == floor.speaker else "switch_gap" if offset_s >= 0 else "switch_overlap"
        events.append(Event(kind, offset_s, length_s, held_s, segment.speaker, floor.speaker))
        floors.append(segment)
        hosts.append(0)
    lengths = np.array([floor.end_s - floor.start_s for floor in floors])
    return Talk(name, tuple(joined), tuple(events), lengths, tuple(hosts))


def shares(talk: Talk) -> dict[str, float]:
    """Return how long nobody, two or more, and three or more speak.

    silence: of the time from the first word to the last; overlap and three: of the time in which anybody speaks.
    """
    if not talk.segments:
        return {"silence": 0.0, "overlap": 0.0, "three": 0.0, "total_s": 0.0, "speech_s": 0.0}
    times = np.array([t for s in talk.segments for t in (s.start_s, s.end_s)])
    steps = np.tile([1, -1], len(talk.segments))
    order = np.lexsort((steps, times))
    times, active = times[order], np.cumsum(steps[order])
    spans = np.diff(times)
    total, speech = float(times[-1] - times[0]), float(spans[active[:-1] >= 1].sum())
    return {
        "silence": 1 - speech / total,
        "overlap": float(spans[active[:-1] >= 2].sum()) / speech,
        "three": float(spans[active[:-1] >= 3].sum()) / speech,
        "total_s": total,
        "speech_s": speech,
    }


def offsets(talk: Talk) -> list[tuple[str, float]]:
    """Return who took the floor from somebody else, and the offset, in order."""
    return [(e.speaker, e.offset_s) for e in talk.events if e.kind.startswith("switch")]


def intraclass(groups: Sequence[Sequence[float]]) -> float:
    """Return the share of the variance that lies between groups: the one-way intraclass correlation.

    Source: Shrout & Fleiss 1979, "Intraclass correlations", ICC(1,1), for groups of unequal sizes.

    >>> intraclass([[1.0, 1.0], [5.0, 5.0]])
    1.0
    """
    kept = [np.asarray(group, dtype=np.float64) for group in groups if len(group) > 1]
    if len(kept) < 2:
        return 0.0
    sizes = np.array([len(group) for group in kept], dtype=np.float64)
    total = sizes.sum()
    mean = sum(group.sum() for group in kept) / total
    between = sum(n * (group.mean() - mean) ** 2 for n, group in zip(sizes, kept, strict=True)) / (len(kept) - 1)
    within = sum(((group - group.mean()) ** 2).sum() for group in kept) / (total - len(kept))
    size = (total - (sizes**2).sum() / total) / (len(kept) - 1)
    return float((between - within) / (between + (size - 1) * within)) if between + within > 0 else 0.0


def transition_matrix(talks: Iterable[Talk]) -> Floats:
    """Return how often each kind of event follows each: rows and columns as KINDS, rows summing to 1."""
    counts = np.zeros((4, 4))
    for talk in talks:
        kinds = [KINDS.index(event.kind) for event in talk.events]
        np.add.at(counts, (kinds[:-1], kinds[1:]), 1)
    matrix: Floats = counts / np.maximum(1, counts.sum(1, keepdims=True))
    return matrix


def host_bin(lengths_s: Floats) -> NDArray[np.int64]:
    """Return the bin of HOST_BINS_S that each host's length falls into."""
    found: NDArray[np.int64] = np.searchsorted(HOST_BINS_S, lengths_s, side="right") - 1
    return found


@dataclass(frozen=True, kw_only=True)
class Prior:
    """How people take turns in one kind of talk; quantiles stand at even levels from 0 to 1."""

    name: str
    source: str
    """What it was fitted to."""
    offset_s: tuple[float, ...]
    """Quantiles of floor-transfer offsets; below 0 is overlap."""
    pause_s: tuple[float, ...]
    """Quantiles of pauses before holds."""
    segment_s: tuple[float, ...]
    """Quantiles of the lengths of segments that hold the floor."""
    hold_after: tuple[float, float, float]
    """Chance of a hold after a hold, a gap and an overlap, backchannels left out, in the average conversation."""
    offset_after: tuple[float, float]
    """Mean normal score of the offset after a hold, and after a change of speaker."""
    return_share: float
    """How often the floor goes back to who had it before, of switches with three or more speakers."""
    dominance: float
    """Concentration of the Dirichlet distribution of the speakers' shares."""
    conversation_share: float
    """Share of the variance of (normal-scored) offsets that conversations differ by."""
    speaker_share: float
    """The same, of speakers within a conversation."""
    serial: float
    """Correlation of what is left with the offset before."""
    pause_conversation_share: float
    """Share of the variance of (normal-scored) pauses that conversations differ by."""
    pause_length_correlation: float
    """Rank correlation of a pause with the length of the segment before it."""
    backchannels_per_host: tuple[float, ...]
    """Mean number by the length of the host, in the bins of HOST_BINS_S."""
    backchannels_after: tuple[float, float, float]
    """How many times that, where the host began with a hold, a gap, an overlap."""
    backchannel_dispersion: float
    """Shape of the gamma distribution by which hosts of one length differ: small is uneven."""
    backchannel_s: tuple[tuple[float, ...], ...]
    """Quantiles of their lengths, a row for each bin of the host's length."""
    backchannel_onset: tuple[float, ...]
    """Quantiles of where in the host they begin, of the room they have."""
    liveliness: tuple[float, float] = (0.0, 0.0)
    """How much conversations differ: standard deviations of the log-odds of holds and of the log-rate of backchannels,
    beyond chance."""
    liveliness_correlation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Over conversations: of later offsets with holds, of these with backchannels, of holds with backchannels."""

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Prior":
        """Read a prior back.

        Raises:
            TypeError: it has other fields.
        """
        fields: dict[str, Any] = {
            name: tuple(tuple(part) if isinstance(part, list) else part for part in value)
            if isinstance(value, list)
            else value
            for name, value in data.items()
        }
        return Prior(**fields)

    def to_json(self) -> str:
        """Write a prior down."""
        return json.dumps(asdict(self), indent=1) + "\n"


@cache
def prior_of(name: str) -> Prior:
    """Return a preset, or the prior in a JSON file that `hubbub data fit` wrote.

    Raises:
        InputError: there is neither.
    """
    if name in PRESETS:
        text = resources.files("operators").joinpath("priors", f"{name}.json").read_text()
        return Prior.from_json(json.loads(text))
    try:
        return Prior.from_json(json.loads(Path(name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"converse.prior {name} is none of {', '.join(PRESETS)} and no file that `hubbub data fit` wrote: {error}"
        ) from error
