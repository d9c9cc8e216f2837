"""Compares simulated conversations with recorded ones: distances of turn-taking, with bootstrap intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import scipy  # its modules are loaded when they are used
from numpy.typing import NDArray

from operators.corpus.segments import Segment
from operators.errors import InputError
from operators.simulate.priors.prior import Prior
from operators.simulate.turn_taking import (
    TurnAnalysis,
    analyze_turns,
    host_bin,
    intraclass,
    offsets,
    shares,
    transition_matrix,
)

Floats = NDArray[np.float64]

MEASURES: Mapping[str, str] = {
    "offset": "floor-transfer offset: signed time from one speaker's end to the next one's start",
    "pause": "pause before the same speaker continues",
    "overlap": "overlap at changes of speaker",
    "backchannel": "length of segments inside another speaker's segment",
    "segment": "length of segments that hold the floor",
    "turn": "time for which a speaker holds the floor, pauses included",
}


def analyze_conversations(conversations: pa.Table) -> list[TurnAnalysis]:
    """Return the turn-taking of each row of CONVERSATIONS."""
    found = []
    for row in conversations.select(["conversation_id", "sample_rate_hz", "turns"]).to_pylist():
        rate_hz = row["sample_rate_hz"]
        segments = [
            Segment(t["start_sample"] / rate_hz, (t["start_sample"] + t["num_samples"]) / rate_hz, t["speaker"])
            for t in row["turns"]
        ]
        found.append(analyze_turns(row["conversation_id"], segments))
    return found


def values_of(measure: str, analysis: TurnAnalysis) -> list[float]:
    """Return a conversation's values of a measure, in seconds."""
    match measure:
        case "offset":
            return [value for _, value in offsets(analysis)]
        case "pause":
            return [event.offset_s for event in analysis.events if event.kind == "hold"]
        case "overlap":
            return [-event.offset_s for event in analysis.events if event.kind == "switch_overlap"]
        case "backchannel":
            return [event.duration_s for event in analysis.events if event.kind == "backchannel"]
        case "segment":
            return list(analysis.floors_s)
        case "turn":
            return _turns(analysis)
    raise ValueError(f"unknown measure {measure}; choose from {', '.join(MEASURES)}")


def _turns(analysis: TurnAnalysis) -> list[float]:
    if not analysis.segments:
        return []
    lengths, holder, start, end = (
        [],
        analysis.segments[0].speaker,
        analysis.segments[0].start_s,
        analysis.segments[0].end_s,
    )
    for event in analysis.events:
        if event.kind == "backchannel":
            continue
        begin = end + event.offset_s
        if event.speaker != holder:
            lengths.append(end - start)
            holder, start = event.speaker, begin
        end = begin + event.duration_s
    return [*lengths, end - start]


@dataclass(frozen=True)
class Figures:
    """Summary statistics of a set of conversations."""

    overlap_share: float
    silence_share: float
    three_speaker_share: float
    overlap_share_sd: float
    """Standard deviation over conversations."""
    silence_share_sd: float
    conversation_icc: float
    speaker_icc: float
    partner_correlation: float | None
    """Correlation of the partners' mean offsets over two-speaker conversations; None for fewer than 20."""
    offset_autocorrelation: tuple[float, ...]
    """At lags 1 to 5, with each conversation's mean subtracted."""
    turn_entropy_bits: float
    """Entropy of the next speaker, given the current floor holder."""
    backchannels_per_host: tuple[float, ...]
    """Mean number by the length of the host: from 0, 2, 5, 10 and 20 s."""
    gap_survival: tuple[float, ...]
    """Share of gaps at changes of speaker that last longer than each of SURVIVAL_S."""
    overlap_share_interval: tuple[float, float]
    """95 % interval, by resampling conversations."""
    silence_share_interval: tuple[float, float]
    three_speaker_share_interval: tuple[float, float]


SURVIVAL_S = (0.2, 0.5, 1.0, 2.0, 4.0)


def _bootstrap_interval(
    parts: Sequence[Mapping[str, float]], share: str, of: str, draws: int = 200
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a share over conversations."""
    amounts = np.array([[part[share] * part[of], part[of]] for part in parts])
    picks = np.random.default_rng(0).integers(0, len(parts), (draws, len(parts)))
    sums = amounts[picks].sum(1)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1e-9), [0.025, 0.975]).tolist()
    return low, high


def figures(analyses: Sequence[TurnAnalysis]) -> Figures:
    """Return summary statistics; shares are of all time (silence) or of all speech, summed over conversations."""
    parts = [shares(analysis) for analysis in analyses if analysis.segments]
    total, speech = sum(p["total_s"] for p in parts), sum(p["speech_s"] for p in parts)
    groups = [values_of("offset", analysis) for analysis in analyses]
    by_speaker: list[list[float]] = []
    partners = []
    for analysis in analyses:
        own: dict[str, list[float]] = {}
        for speaker, value in offsets(analysis):
            own.setdefault(speaker, []).append(value)
        by_speaker += list(own.values())
        if len(own) == 2 and min(map(len, own.values())) >= 5:
            partners.append([float(np.mean(values)) for values in own.values()])
    gaps = np.array([value for group in groups for value in group if value >= 0])
    hosts, numbers = np.zeros(5), np.zeros(5)
    for analysis in analyses:
        bins = host_bin(analysis.floors_s)
        np.add.at(hosts, bins, np.array(analysis.hosts, dtype=np.float64))
        np.add.at(numbers, bins, 1)
    return Figures(
        overlap_share=sum(p["overlap"] * p["speech_s"] for p in parts) / speech,
        silence_share=sum(p["silence"] * p["total_s"] for p in parts) / total,
        three_speaker_share=sum(p["three"] * p["speech_s"] for p in parts) / speech,
        overlap_share_sd=float(np.std([p["overlap"] for p in parts])),
        silence_share_sd=float(np.std([p["silence"] for p in parts])),
        conversation_icc=intraclass(groups),
        speaker_icc=intraclass(by_speaker),
        # Each pair is counted in both orders, so that the correlation does not depend on the order.
        partner_correlation=float(np.corrcoef(np.array([*partners, *(p[::-1] for p in partners)]).T)[0, 1])
        if len(partners) >= 20
        else None,
        offset_autocorrelation=tuple(_autocorrelation(groups, lag) for lag in range(1, 6)),
        turn_entropy_bits=_turn_entropy(analyses),
        backchannels_per_host=tuple((hosts / np.maximum(1, numbers)).round(4).tolist()),
        gap_survival=tuple(float(np.mean(gaps > limit)) if len(gaps) else 0.0 for limit in SURVIVAL_S),
        overlap_share_interval=_bootstrap_interval(parts, "overlap", "speech_s"),
        silence_share_interval=_bootstrap_interval(parts, "silence", "total_s"),
        three_speaker_share_interval=_bootstrap_interval(parts, "three", "speech_s"),
    )


def _autocorrelation(groups: Sequence[Sequence[float]], lag: int) -> float:
    pairs = []
    for group in groups:
        if len(group) > lag:
            mean = float(np.mean(group))
            pairs += [(a - mean, b - mean) for a, b in zip(group, group[lag:], strict=False)]
    return float(np.corrcoef(np.array(pairs).T)[0, 1]) if len(pairs) > 2 else 0.0


def _turn_entropy(analyses: Sequence[TurnAnalysis]) -> float:
    total = weight = 0.0
    for analysis in analyses:
        counts: dict[str, dict[str, int]] = {}
        for event in analysis.events:
            if event.kind.startswith("switch"):
                row = counts.setdefault(event.before, {})
                row[event.speaker] = row.get(event.speaker, 0) + 1
        for row in counts.values():
            number = sum(row.values())
            total -= sum(n * np.log2(n / number) for n in row.values())
            weight += number
    return float(total / weight) if weight else 0.0


@dataclass(frozen=True)
class Distance:
    """Distance of two distributions of times in seconds."""

    ks: float
    """Kolmogorov-Smirnov statistic."""
    w1_s: float
    """Wasserstein-1 distance in seconds."""
    ks_low: float
    """Lower end of the 95 % interval, by resampling simulated conversations."""
    ks_high: float
    median: float
    median_real: float
    number: int
    number_real: int


def distance(measure: str, simulated: Sequence[TurnAnalysis], real: Sequence[float], draws: int = 100) -> Distance:
    """Compare a measure of simulated conversations with values in seconds from recorded ones.

    Raises:
        InputError: one side has no values of the measure.
    """
    groups = [np.array(values_of(measure, analysis)) for analysis in simulated]
    values = np.concatenate([np.zeros(0), *groups])
    if not len(values) or not len(real):
        raise InputError(f"no {measure} in the {'simulated' if not len(values) else 'recorded'} conversations")
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(draws):
        drawn = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        if len(drawn):
            resampled.append(float(scipy.stats.ks_2samp(drawn, real).statistic))
    low, high = np.quantile(resampled, [0.025, 0.975]).tolist() if resampled else (0.0, 1.0)
    return Distance(
        ks=float(scipy.stats.ks_2samp(values, real).statistic),
        w1_s=float(scipy.stats.wasserstein_distance(values, real)),
        ks_low=low,
        ks_high=high,
        median=float(np.median(values)),
        median_real=float(np.median(np.asarray(real))),
        number=len(values),
        number_real=len(real),
    )


def scorecard(simulated: Sequence[TurnAnalysis], real: Sequence[TurnAnalysis], draws: int = 100) -> dict[str, object]:
    """Compare simulated conversations with recorded ones, measure by measure; a measure that one side lacks is None."""
    distances: dict[str, object] = {}
    for measure in MEASURES:
        reference = [value for analysis in real for value in values_of(measure, analysis)]
        try:
            distances[measure] = asdict(distance(measure, simulated, reference, draws))
        except InputError:
            distances[measure] = None
    matrices = [transition_matrix(analyses) for analyses in (simulated, real)]
    return {
        "distances": distances,
        "simulated": asdict(figures(simulated)),
        "real": asdict(figures(real)),
        "transition_matrix": matrices[0].round(4).tolist(),
        "transition_matrix_real": matrices[1].round(4).tolist(),
        "transition_tv": transition_tv(*matrices),
        "num_conversations": len(simulated),
        "num_conversations_real": len(real),
    }


def transition_tv(one: Floats, other: Floats) -> float:
    """Return the greatest total-variation distance of the rows of two transition matrices."""
    return float(0.5 * np.abs(one - other).sum(1).max())


def against_prior(simulated: Sequence[TurnAnalysis], prior: Prior, draws: int = 100) -> dict[str, object]:
    """Compare simulated conversations with the distributions of a prior."""
    levels = (np.arange(2000) + 0.5) / 2000

    def drawn(table: Sequence[float]) -> list[float]:
        values: list[float] = np.interp(levels, np.linspace(0, 1, len(table)), table).tolist()
        return values

    tables: dict[str, Callable[[], list[float]]] = {
        "offset": lambda: drawn(prior.offset_s),
        "pause": lambda: drawn(prior.pause_s),
        "overlap": lambda: [-value for value in drawn(prior.offset_s) if value < 0],
        "segment": lambda: drawn(prior.segment_s),
    }
    found: dict[str, object] = {}
    for measure, table in tables.items():
        try:
            found[measure] = asdict(distance(measure, simulated, table(), draws))
        except InputError:
            found[measure] = None
    return {"distances": found, "simulated": asdict(figures(simulated)), "num_conversations": len(simulated)}
