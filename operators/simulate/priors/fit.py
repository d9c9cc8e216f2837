"""Estimates a prior from recorded conversations."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from operators.errors import InputError
from operators.simulate.priors.liveliness import average_hold_probabilities
from operators.simulate.priors.prior import Prior
from operators.simulate.turn_taking import (
    HOST_BINS_S,
    KINDS,
    Event,
    Floats,
    TurnAnalysis,
    host_bin,
    intraclass,
    offsets,
)

_LEVELS = 201


def quantiles(values: Sequence[float] | Floats, digits: int = 4) -> tuple[float, ...]:
    """Return quantiles (201,) at even levels from 0 to 1, with both ends pulled in so that means are preserved.

    Values between two levels are interpolated linearly; up to the longest of all pauses that would be far too high.
    """
    array = np.asarray(values, dtype=np.float64)
    table = np.quantile(array, np.linspace(0, 1, _LEVELS))
    for end, inner, tail in ((-1, -2, array >= table[-2]), (0, 1, array <= table[1])):
        table[end] = 2 * array[tail].mean() - table[inner]
    found: list[float] = np.maximum.accumulate(table).round(digits).tolist()
    return tuple(found)


def fit(name: str, source: str, analyses: Sequence[TurnAnalysis]) -> Prior:
    """Estimate a prior from conversations.

    Raises:
        InputError: they have too few changes of speaker or too few pauses.
    """
    events = [event for analysis in analyses for event in analysis.events]
    by_kind = {kind: [event for event in events if event.kind == kind] for kind in KINDS}
    switches = by_kind["switch_gap"] + by_kind["switch_overlap"]
    if len(switches) < 50 or len(by_kind["hold"]) < 10:
        raise InputError(
            f"{source}: {len(switches)} changes of speaker and {len(by_kind['hold'])} pauses are too few to fit a "
            "prior (50 and 10 are needed); add recordings with two or more speakers"
        )
    floor_kinds = [[e.kind for e in analysis.events if e.kind != "backchannel"] for analysis in analyses]
    after = {kind: [0, 0] for kind in KINDS[:3]}
    for kinds in floor_kinds:
        for previous, kind in itertools.pairwise(kinds):
            after[previous][0] += kind == "hold"
            after[previous][1] += 1
    counts, numbers = np.zeros(len(HOST_BINS_S)), np.zeros(len(HOST_BINS_S))
    for analysis in analyses:
        bins = host_bin(analysis.floors_s)
        np.add.at(counts, bins, np.array(analysis.hosts))
        np.add.at(numbers, bins, 1)
    rates = counts / np.maximum(1, numbers)
    after_kind, dispersion = _host_rates(analyses, rates)
    channels = by_kind["backchannel"]
    fallback = [event.duration_s for event in channels] or [0.4]
    lengths = []
    for number in range(len(HOST_BINS_S)):
        own = [e.duration_s for e in channels if host_bin(np.array([e.host_s]))[0] == number]
        lengths.append(quantiles(own if len(own) >= 20 else fallback, 3))
    room = [e.offset_s * e.host_s / max(1e-6, e.host_s - e.duration_s) for e in channels] or [0.5]
    conversation, speaker, serial = _components(analyses)
    hold_shares = [after[kind][0] / max(1, after[kind][1]) for kind in KINDS[:3]]
    overlaps = len(by_kind["switch_overlap"]) / len(switches)
    (of_holds, of_channels), correlation = _liveliness(analyses, rates, dispersion)
    # Since holds follow holds, a shift of all log-odds moves the share of holds by more: by the slope of the chain's
    # stationary state, log-odds(share) = log(after_switch / (1 - after_hold)).
    after_switch = (1 - overlaps) * hold_shares[1] + overlaps * hold_shares[2]
    liveliness = (round(of_holds / (1 + hold_shares[0] - after_switch), 4), of_channels)
    pauses = _normal_scores([[e.offset_s for e in analysis.events if e.kind == "hold"] for analysis in analyses])
    return Prior(
        name=name,
        source=source,
        offset_s=quantiles([event.offset_s for event in switches]),
        pause_s=quantiles([event.offset_s for event in by_kind["hold"]]),
        segment_s=quantiles(np.concatenate([analysis.floors_s for analysis in analyses])),
        hold_after=average_hold_probabilities(hold_shares, overlaps, liveliness[0]),
        offset_after=_offset_after(analyses),
        return_share=_return_share(analyses),
        dominance=_dominance(analyses),
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


def _host_rates(analyses: Sequence[TurnAnalysis], rates: Floats) -> tuple[tuple[float, float, float], float]:
    """Return the factor on the rate of backchannels by how the host began, and the dispersion.

    Factors are such that the share of hosts with any backchannel equals that of the recorded hosts that began the same
    way: over the lengths of those hosts after a change of speaker, since overlaps make them longer in a simulation
    too, but over all lengths after a hold.
    """
    from scipy.optimize import brentq

    some, number = np.zeros(3), np.zeros(3)
    bins = np.zeros((3, len(rates)))
    squares = above = 0.0
    for analysis in analyses:
        kinds = [KINDS.index(event.kind) for event in analysis.events if event.kind != "backchannel"]
        wanted = rates[host_bin(analysis.floors_s)]
        np.add.at(some, kinds, np.array(analysis.hosts[1:]) > 0)
        np.add.at(number, kinds, 1.0)
        np.add.at(bins, (np.array(kinds, np.int64), host_bin(analysis.floors_s[1:])), 1.0)
        squares += float((wanted**2).sum())
        above += float(((np.array(analysis.hosts) - wanted) ** 2 - wanted).sum())
    shape = float(np.clip(squares / max(above, 1e-9), 0.2, 1e3))
    bins[0] = bins.sum(0)
    bins /= np.maximum(1.0, bins.sum(1, keepdims=True))

    def missing(times: float, kind: int) -> float:
        without = float((bins[kind] * (1 + times * rates / shape) ** -shape).sum())
        return float(without - (1 - some[kind] / max(1.0, number[kind])))

    found = [
        float(brentq(missing, 0.0, 50.0, args=(kind,))) if missing(0.0, kind) > 0 > missing(50.0, kind) else 1.0
        for kind in range(3)
    ]
    hold, gap, overlap = (round(times, 4) for times in found)
    return (hold, gap, overlap), round(shape, 3)


def _liveliness(
    analyses: Sequence[TurnAnalysis], rates: Floats, dispersion: float
) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Return the spread of conversations in holds and backchannels, and its correlations with their offsets."""
    rows = []
    scores = _normal_scores([[value for _, value in offsets(analysis)] for analysis in analyses])
    for analysis, group in zip(analyses, scores, strict=True):
        kinds = [event.kind for event in analysis.events if event.kind != "backchannel"]
        expected = float(rates[host_bin(analysis.floors_s)].sum())
        if len(kinds) < 20 or len(group) < 10 or expected < 5:
            continue
        held = (kinds.count("hold") + 0.5) / (len(kinds) + 1)
        ratio = (sum(analysis.hosts) + 0.5) / expected
        chance = (1 / (len(kinds) * held * (1 - held)), (1 + 1 / dispersion) / expected, 1 / len(group))
        rows.append((np.log(held / (1 - held)), np.log(ratio), float(np.mean(group)), *chance))
    if len(rows) < 10:
        return (0.0, 0.0), (0.0, 0.0, 0.0)
    table = np.array(rows)
    observed = np.cov(table[:, :3].T)
    noise = table[:, 3:].mean(0)
    true = np.maximum(np.diag(observed) - noise, 1e-4)
    scale = np.sqrt(np.outer(true, true))
    holds_back, holds_late, back_late = (
        float(np.clip(observed[i, j] / scale[i, j], -0.9, 0.9)) for i, j in ((0, 1), (0, 2), (1, 2))
    )
    spread = np.sqrt(true).round(4).tolist()
    return (spread[0], spread[1]), (round(holds_late, 4), round(back_late, 4), round(holds_back, 4))


def _normal_scores(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the values of each group as normal scores: normal quantiles of their ranks among all values."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    flat = [value for group in groups for value in group]
    scores = ndtri(rankdata(flat) / (len(flat) + 1)) if flat else np.zeros(0)
    ends = np.cumsum([0, *(len(group) for group in groups)])
    return [scores[a:b].tolist() for a, b in itertools.pairwise(ends.tolist())]


def _offset_after(analyses: Sequence[TurnAnalysis]) -> tuple[float, float]:
    scores = _normal_scores([[value for _, value in offsets(analysis)] for analysis in analyses])
    held: list[float] = []
    taken: list[float] = []
    for analysis, group in zip(analyses, scores, strict=True):
        coming = iter(group)
        before = ""
        for event in analysis.events:
            if event.kind.startswith("switch"):
                (held if before == "hold" else taken).append(next(coming))
            if event.kind != "backchannel":
                before = event.kind
    after_hold, after_switch = (float(np.mean(values)) if values else 0.0 for values in (held, taken))
    return round(after_hold, 4), round(after_switch, 4)


def _components(analyses: Sequence[TurnAnalysis]) -> tuple[float, float, float]:
    """Return the variance shares of conversations and of their speakers, and the lag-one correlation of the rest."""
    scores = _normal_scores([[value for _, value in offsets(analysis)] for analysis in analyses])
    within: list[list[float]] = []
    now, following = [], []
    for analysis, group in zip(analyses, scores, strict=True):
        by_speaker: dict[str, list[float]] = defaultdict(list)
        for (speaker, _), value in zip(offsets(analysis), group, strict=True):
            by_speaker[speaker].append(value)
        means = {speaker: float(np.mean(values)) for speaker, values in by_speaker.items()}
        within += list(by_speaker.values())
        left = [value - means[speaker] for (speaker, _), value in zip(offsets(analysis), group, strict=True)]
        now += left[:-1]
        following += left[1:]
    of_conversation = max(0.0, intraclass(scores))
    of_speaker = max(0.0, intraclass(within) - of_conversation)
    # Subtracting means of few values biases the correlation downward.
    bias = 1 / max(2.0, float(np.mean([len(group) for group in within if group] or [2])))
    serial = float(np.corrcoef(now, following)[0, 1]) + bias if len(now) > 2 else 0.0
    return round(of_conversation, 4), round(of_speaker, 4), round(float(np.clip(serial, 0, 0.9)), 4)


def _pause_length_correlation(holds: Sequence[Event]) -> float:
    from scipy.stats import spearmanr

    found: Any = spearmanr([event.host_s for event in holds], [event.offset_s for event in holds])
    return round(float(found.statistic), 4)


def _return_share(analyses: Sequence[TurnAnalysis]) -> float:
    back = total = 0
    for analysis in analyses:
        if len({segment.speaker for segment in analysis.segments}) < 3:
            continue
        holders: list[str] = []
        for event in analysis.events:
            if event.kind == "backchannel" or event.speaker == (holders[-1] if holders else event.before):
                continue
            holders = [*(holders or [event.before]), event.speaker][-3:]
            if len(holders) == 3:
                total += 1
                back += holders[0] == holders[2]
    return round(back / total, 4) if total else 0.5


def _dominance(analyses: Sequence[TurnAnalysis]) -> float:
    """Return a Dirichlet concentration by the method of moments, from the sum of the speakers' squared shares."""
    estimates = []
    for analysis in analyses:
        taken: dict[str, int] = defaultdict(int)
        for event in analysis.events:
            if event.kind != "backchannel":
                taken[event.speaker] += 1
        number, total = len(taken), sum(taken.values())
        if number < 2 or total < 20:
            continue
        evenness = sum((n / total) ** 2 for n in taken.values()) - 1 / total
        if evenness > 1 / number:  # E[sum p^2] = (a + 1) / (number a + 1)
            estimates.append((1 - evenness) / (number * evenness - 1))
    return round(float(np.clip(np.median(estimates), 0.2, 100.0)), 3) if estimates else 5.0
