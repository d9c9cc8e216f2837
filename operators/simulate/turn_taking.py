"""Turn-taking in a conversation: its events and their statistics, in recorded and simulated conversations alike.

Segments of one speaker less than 0.2 s apart are merged. A segment inside the floor holder's segment is a backchannel
and does not take the floor. Every other segment takes it: after a pause of the same speaker (hold), or after a gap or
an overlap with another speaker (switch; the signed time between the two is the floor-transfer offset).
Source: Heldner & Edlund 2010, "Pauses, gaps and overlaps in conversations", J. Phonetics 38(4), section 2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.corpus.segments import Segment

Floats = NDArray[np.float64]
MERGE_S = 0.2
HOST_BINS_S = (0.0, 2.0, 5.0, 10.0, 20.0)
"""Lower edges of the bins of host lengths in which backchannels are counted."""
KINDS = ("hold", "switch_gap", "switch_overlap", "backchannel")


@dataclass(frozen=True)
class Event:
    """A segment after the first one, and how it relates to the floor."""

    kind: str
    offset_s: float
    """Time from the floor's end to the onset; for a backchannel, its onset as a share of the host's length."""
    duration_s: float
    host_s: float
    """Length of the previous floor segment, or of the host."""
    speaker: str
    before: str
    """The previous floor holder, or the host's speaker."""


@dataclass(frozen=True)
class TurnAnalysis:
    """One conversation: its merged segments by start, and its events."""

    name: str
    segments: tuple[Segment, ...]
    events: tuple[Event, ...]
    floors_s: Floats
    """(F,) length of every segment that held the floor."""
    hosts: tuple[int, ...]
    """Number of backchannels in each of those segments."""


def merge_segments(segments: Iterable[Segment], within_s: float = MERGE_S) -> list[Segment]:
    """Merge each speaker's segments that are less than `within_s` apart; return all of them by start.

    >>> merge_segments([Segment(0, 1, "a"), Segment(1.1, 2, "a"), Segment(1.5, 3, "b")])
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


def analyze_turns(name: str, segments: Iterable[Segment]) -> TurnAnalysis:
    """Return the events of a conversation."""
    joined = merge_segments(segments)
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
    return TurnAnalysis(name, tuple(joined), tuple(events), lengths, tuple(hosts))


def shares(analysis: TurnAnalysis) -> dict[str, float]:
    """Return shares of the time in which no one, two or more, and three or more speak, and total times in seconds.

    `silence` is a share of the time from the first onset to the last end; `overlap` and `three` are shares of the time
    in which anyone speaks.
    """
    if not analysis.segments:
        return {"silence": 0.0, "overlap": 0.0, "three": 0.0, "total_s": 0.0, "speech_s": 0.0}
    times = np.array([t for s in analysis.segments for t in (s.start_s, s.end_s)])
    steps = np.tile([1, -1], len(analysis.segments))
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


def offsets(analysis: TurnAnalysis) -> list[tuple[str, float]]:
    """Return new speaker and offset in seconds of each change of speaker, in order."""
    return [(e.speaker, e.offset_s) for e in analysis.events if e.kind.startswith("switch")]


def intraclass(groups: Sequence[Sequence[float]]) -> float:
    """Return the one-way intraclass correlation: the share of the variance that is between groups.

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


def transition_matrix(analyses: Iterable[TurnAnalysis]) -> Floats:
    """Return the probability (4, 4) of each kind of event (column) after each (row), both ordered as KINDS."""
    counts = np.zeros((4, 4))
    for analysis in analyses:
        kinds = [KINDS.index(event.kind) for event in analysis.events]
        np.add.at(counts, (kinds[:-1], kinds[1:]), 1)
    matrix: Floats = counts / np.maximum(1, counts.sum(1, keepdims=True))
    return matrix


def host_bin(lengths_s: Floats) -> NDArray[np.int64]:
    """Return the bin (N,) of HOST_BINS_S of each host length (N,) in seconds."""
    found: NDArray[np.int64] = np.searchsorted(HOST_BINS_S, lengths_s, side="right") - 1
    return found
