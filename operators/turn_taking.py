"""How people take turns: events of a conversation, a prior fitted to many, and what a simulator needs of it.

The floor: segments of one speaker closer than 0.2 s are one. A segment that lies inside the floor holder's is a
backchannel and takes no floor. Any other one takes it: the holder's own after a pause (hold), another's after a gap
or an overlap (switch; the signed time between them is the floor-transfer offset).
Source: Heldner & Edlund 2010, "Pauses, gaps and overlaps in conversations", J. Phonetics 38(4), section 2.
"""

import itertools
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


_LEVELS = 201


def quantiles(values: Sequence[float] | Floats, digits: int = 4) -> tuple[float, ...]:
    """Return quantiles at even levels from 0 to 1, drawn in at the ends so that means are kept.

    Between two levels values are read off a straight line, which to the longest of all pauses would be far too high.
    """
    array = np.asarray(values, dtype=np.float64)
    table = np.quantile(array, np.linspace(0, 1, _LEVELS))
    for end, inner, beyond in ((-1, -2, array >= table[-2]), (0, 1, array <= table[1])):
        table[end] = 2 * array[beyond].mean() - table[inner]
    found: list[float] = np.maximum.accumulate(table).round(digits).tolist()
    return tuple(found)


def fit(name: str, source: str, talks: Sequence[Talk]) -> Prior:
    """Estimate a prior from conversations.

    Raises:
        InputError: there is too little talk in them.
    """
    events = [event for talk in talks for event in talk.events]
    by_kind = {kind: [event for event in events if event.kind == kind] for kind in KINDS}
    switches = by_kind["switch_gap"] + by_kind["switch_overlap"]
    if len(switches) < 50 or len(by_kind["hold"]) < 10:
        raise InputError(
            f"{source}: {len(switches)} changes of speaker and {len(by_kind['hold'])} pauses are too few to fit a "
            "prior to; give more recordings, with two speakers or more"
        )
    floor_kinds = [[e.kind for e in talk.events if e.kind != "backchannel"] for talk in talks]
    after = {kind: [0, 0] for kind in KINDS[:3]}
    for kinds in floor_kinds:
        for one, following in itertools.pairwise(kinds):
            after[one][0] += following == "hold"
            after[one][1] += 1
    counts, numbers = np.zeros(len(HOST_BINS_S)), np.zeros(len(HOST_BINS_S))
    for talk in talks:
        bins = host_bin(talk.floors_s)
        np.add.at(counts, bins, np.array(talk.hosts))
        np.add.at(numbers, bins, 1)
    rates = counts / np.maximum(1, numbers)
    after_kind, dispersion = _uneven(talks, rates)
    channels = by_kind["backchannel"]
    fallback = [event.duration_s for event in channels] or [0.4]
    lengths = []
    for number in range(len(HOST_BINS_S)):
        own = [e.duration_s for e in channels if host_bin(np.array([e.host_s]))[0] == number]
        lengths.append(quantiles(own if len(own) >= 20 else fallback, 3))
    room = [e.offset_s * e.host_s / max(1e-6, e.host_s - e.duration_s) for e in channels] or [0.5]
    conversation, speaker, serial = _components(talks)
    hold_shares = [after[kind][0] / max(1, after[kind][1]) for kind in KINDS[:3]]
    overlaps = len(by_kind["switch_overlap"]) / len(switches)
    (of_holds, of_channels), correlation = _liveliness(talks, rates, dispersion)
    # A shift of all odds moves the share of holds by more, for holds follow holds: by the slope of the chain's
    # stationary state, log-odds(share) = log(after_switch / (1 - after_hold)).
    after_switch = (1 - overlaps) * hold_shares[1] + overlaps * hold_shares[2]
    liveliness = (round(of_holds / (1 + hold_shares[0] - after_switch), 4), of_channels)
    pauses = _normal_scores([[e.offset_s for e in talk.events if e.kind == "hold"] for talk in talks])
    return Prior(
        name=name,
        source=source,
        offset_s=quantiles([event.offset_s for event in switches]),
        pause_s=quantiles([event.offset_s for event in by_kind["hold"]]),
        segment_s=quantiles(np.concatenate([talk.floors_s for talk in talks])),
        hold_after=_central_holds(
            hold_shares,
            overlaps,
            liveliness[0],
        ),
        offset_after=_offset_after(talks),
        return_share=_return_share(talks),
        dominance=_dominance(talks),
        conversation_share=conversation,
        speaker_share=speaker,
        serial=serial,
        pause_conversation_share=max(0.0, intraclass(pauses)),
        pause_length_correlation=_pause_length_correlation(by_kind["hold"]),
        backchannels_per_host=tuple(rates.round(4).tolist()),
        backchannels_after=after_kind,
        backchannel_dispersion=dispersion,
        backchannel_s=tuple(lengths),
        backchannel_onset=quantiles(np.clip(room, 0, 1), 3),
        liveliness=liveliness,
        liveliness_correlation=correlation,
    )


def _uneven(talks: Sequence[Talk], rates: Floats) -> tuple[tuple[float, float, float], float]:
    """Return how many times as many backchannels hosts are given by how they began, and the dispersion.

    So many times that as many have one at all as of the recorded hosts that began so: of their own lengths after a
    change of speaker, for overlaps make them longer in a simulation too, but of all lengths after a hold.
    """
    from scipy.optimize import brentq

    some, number = np.zeros(3), np.zeros(3)
    bins = np.zeros((3, len(rates)))
    squares = above = 0.0
    for talk in talks:
        kinds = [KINDS.index(event.kind) for event in talk.events if event.kind != "backchannel"]
        wanted = rates[host_bin(talk.floors_s)]
        np.add.at(some, kinds, np.array(talk.hosts[1:]) > 0)
        np.add.at(number, kinds, 1.0)
        np.add.at(bins, (np.array(kinds, np.int64), host_bin(talk.floors_s[1:])), 1.0)
        squares += float((wanted**2).sum())
        above += float(((np.array(talk.hosts) - wanted) ** 2 - wanted).sum())
    shape = float(np.clip(squares / max(above, 1e-9), 0.2, 1e3))
    bins[0] = bins.sum(0)
    bins /= np.maximum(1.0, bins.sum(1, keepdims=True))

    def missing(times: float, kind: int) -> float:
        none = float((bins[kind] * (1 + times * rates / shape) ** -shape).sum())
        return float(none - (1 - some[kind] / max(1.0, number[kind])))

    found = [
        float(brentq(missing, 0.0, 50.0, args=(kind,))) if missing(0.0, kind) > 0 > missing(50.0, kind) else 1.0
        for kind in range(3)
    ]
    one, two, three = (round(times, 4) for times in found)
    return (one, two, three), round(shape, 3)


def host_bin(lengths_s: Floats) -> NDArray[np.int64]:
    """Return the bin of HOST_BINS_S that each host's length falls into."""
    found: NDArray[np.int64] = np.searchsorted(HOST_BINS_S, lengths_s, side="right") - 1
    return found


def _liveliness(
    talks: Sequence[Talk], rates: Floats, dispersion: float
) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Return how much conversations differ in holds and backchannels, and how that goes with their offsets."""
    rows = []
    scores = _normal_scores([[value for _, value in offsets(talk)] for talk in talks])
    for talk, group in zip(talks, scores, strict=True):
        kinds = [event.kind for event in talk.events if event.kind != "backchannel"]
        expected = float(rates[host_bin(talk.floors_s)].sum())
        if len(kinds) < 20 or len(group) < 10 or expected < 5:
            continue
        held = (kinds.count("hold") + 0.5) / (len(kinds) + 1)
        ratio = (sum(talk.hosts) + 0.5) / expected
        chance = (1 / (len(kinds) * held * (1 - held)), (1 + 1 / dispersion) / expected, 1 / len(group))
        rows.append((np.log(held / (1 - held)), np.log(ratio), float(np.mean(group)), *chance))
    if len(rows) < 10:
        return (0.0, 0.0), (0.0, 0.0, 0.0)
    table = np.array(rows)
    seen = np.cov(table[:, :3].T)
    noise = table[:, 3:].mean(0)
    true = np.maximum(np.diag(seen) - noise, 1e-4)
    scale = np.sqrt(np.outer(true, true))
    holds_back, holds_late, back_late = (float(np.clip(seen[i, j] / scale[i, j], -0.9, 0.9))
                                         for i, j in ((0, 1), (0, 2), (1, 2)))  # fmt: skip
    spread = np.sqrt(true).round(4).tolist()
    return (spread[0], spread[1]), (round(holds_late, 4), round(back_late, 4), round(holds_back, 4))


def _central_holds(shares: Sequence[float], overlaps: float, spread: float) -> tuple[float, float, float]:
    """Return the chances of a hold in the average conversation, from the shares over all of them.

    Steady conversations have more holds, so that what follows a hold is seen in them more often than elsewhere: the
    shares over all mix the chain with how conversations differ. Solved over a normal spread of log-odds, each
    conversation's chain at its stationary state.
    """
    wanted = np.clip(np.array(shares), 0.01, 0.99)
    if spread <= 0:
        return tuple(shares)  # type: ignore[return-value]
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    goal = np.log(wanted / (1 - wanted))
    odds = goal.copy()
    for _ in range(200):
        chance, hold = _chains(odds, overlaps, spread * nodes)
        seen = np.stack([hold, (1 - hold) * (1 - overlaps), (1 - hold) * overlaps]) * weights
        mean = (seen * chance).sum(1) / seen.sum(1)
        odds += 0.7 * (goal - np.log(mean / (1 - mean)))
    found: list[float] = (1 / (1 + np.exp(-odds))).round(6).tolist()
    return (found[0], found[1], found[2])


def _chains(odds: Floats, overlaps: float, shifts: Floats) -> tuple[Floats, Floats]:
    """Return chances of a hold (3, N) and stationary shares of holds (N,) of chains whose log-odds are shifted."""
    chance = 1 / (1 + np.exp(-(odds[:, None] + shifts)))
    after_switch = (1 - overlaps) * chance[1] + overlaps * chance[2]
    return chance, after_switch / (1 - chance[0] + after_switch)


def tempo_of_switches(prior: Prior) -> float:
    """Return the mean score of conversations' tempo over changes of speaker, which lively conversations have more of.

    Offsets keep their distribution over all changes of speaker if it is taken off.
    """
    if not prior.liveliness[0]:
        return 0.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    shares = np.clip(np.array(prior.hold_after), 1e-6, 1 - 1e-6)
    overlaps = float((np.array(prior.offset_s) < 0).mean())
    _, hold = _chains(np.log(shares / (1 - shares)), overlaps, prior.liveliness[0] * nodes)
    switches = weights * (1 - hold)
    return float(prior.liveliness_correlation[0] * (switches * nodes).sum() / switches.sum())


def livelinesses(prior: Prior, normals: Sequence[float], tempo: float) -> tuple[float, float]:
    """Return a conversation's holds as a shift of log-odds, and backchannels as a factor.

    Args:
        prior: with spreads and correlations.
        normals: two standard normal draws.
        tempo: the conversation's standard normal score of offsets.
    """
    late_hold, late_back, hold_back = prior.liveliness_correlation
    hold = late_hold * tempo + np.sqrt(max(0.0, 1 - late_hold**2)) * normals[0]
    rest = np.sqrt(max(1e-9, 1 - late_hold**2))
    mixed = np.clip((hold_back - late_hold * late_back) / rest, -1.0, 1.0)
    left = np.sqrt(max(0.0, 1 - late_back**2 - mixed**2))
    back = late_back * tempo + mixed * normals[0] + left * normals[1]
    of_hold, of_back = prior.liveliness
    return float(of_hold * hold), float(np.exp(of_back * back - of_back**2 / 2))


def hosts_dispersion(prior: Prior) -> float:
    """Return the shape of the gamma distribution that is left to hosts when conversations differ too."""
    of_conversations = float(np.exp(prior.liveliness[1] ** 2) - 1)
    return 1 / max(1e-3, (1 + 1 / prior.backchannel_dispersion) / (1 + of_conversations) - 1)


def _normal_scores(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """Replace values by the normal quantiles of their ranks among all."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    flat = [value for group in groups for value in group]
    scores = ndtri(rankdata(flat) / (len(flat) + 1)) if flat else np.zeros(0)
    ends = np.cumsum([0, *(len(group) for group in groups)])
    return [scores[a:b].tolist() for a, b in itertools.pairwise(ends.tolist())]


def _offset_after(talks: Sequence[Talk]) -> tuple[float, float]:
    scores = _normal_scores([[value for _, value in offsets(talk)] for talk in talks])
    held: list[float] = []
    taken: list[float] = []
    for talk, group in zip(talks, scores, strict=True):
        coming = iter(group)
        before = ""
        for event in talk.events:
            if event.kind.startswith("switch"):
                (held if before == "hold" else taken).append(next(coming))
            if event.kind != "backchannel":
                before = event.kind
    after_hold, after_switch = (float(np.mean(values)) if values else 0.0 for values in (held, taken))
    return round(after_hold, 4), round(after_switch, 4)


def _components(talks: Sequence[Talk]) -> tuple[float, float, float]:
    """Return the shares of conversations and of speakers within them, and the lag-one correlation of the rest."""
    scores = _normal_scores([[value for _, value in offsets(talk)] for talk in talks])
    within: list[list[float]] = []
    now, following = [], []
    for talk, group in zip(talks, scores, strict=True):
        by_speaker: dict[str, list[float]] = defaultdict(list)
        for (speaker, _), value in zip(offsets(talk), group, strict=True):
            by_speaker[speaker].append(value)
        means = {speaker: float(np.mean(values)) for speaker, values in by_speaker.items()}
        within += list(by_speaker.values())
        left = [value - means[speaker] for (speaker, _), value in zip(offsets(talk), group, strict=True)]
        now += left[:-1]
        following += left[1:]
    of_conversation = max(0.0, intraclass(scores))
    of_speaker = max(0.0, intraclass(within) - of_conversation)
    # Taking out means of few values leaves a correlation below zero where there is none.
    bias = 1 / max(2.0, float(np.mean([len(group) for group in within if group] or [2])))
    serial = float(np.corrcoef(now, following)[0, 1]) + bias if len(now) > 2 else 0.0
    return round(of_conversation, 4), round(of_speaker, 4), round(float(np.clip(serial, 0, 0.9)), 4)


def _pause_length_correlation(holds: Sequence[Event]) -> float:
    from scipy.stats import spearmanr

    found: Any = spearmanr([event.host_s for event in holds], [event.offset_s for event in holds])
    return round(float(found.statistic), 4)


def _return_share(talks: Sequence[Talk]) -> float:
    back = total = 0
    for talk in talks:
        if len({segment.speaker for segment in talk.segments}) < 3:
            continue
        holders: list[str] = []
        for event in talk.events:
            if event.kind == "backchannel" or event.speaker == (holders[-1] if holders else event.before):
                continue
            holders = [*(holders or [event.before]), event.speaker][-3:]
            if len(holders) == 3:
                total += 1
                back += holders[0] == holders[2]
    return round(back / total, 4) if total else 0.5


def _dominance(talks: Sequence[Talk]) -> float:
    """Return a Dirichlet concentration by moments: the mean of the speakers' squared shares."""
    estimates = []
    for talk in talks:
        taken: dict[str, int] = defaultdict(int)
        for event in talk.events:
            if event.kind != "backchannel":
                taken[event.speaker] += 1
        number, total = len(taken), sum(taken.values())
        if number < 2 or total < 20:
            continue
        evenness = sum((n / total) ** 2 for n in taken.values()) - 1 / total
        if evenness > 1 / number:  # E[sum p^2] = (a + 1) / (number a + 1)
            estimates.append((1 - evenness) / (number * evenness - 1))
    return round(float(np.clip(np.median(estimates), 0.2, 100.0)), 3) if estimates else 5.0
