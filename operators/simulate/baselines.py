"""Other simulators' turn-taking under the same interface: what a comparison of training data needs.

Each decides who speaks when in one conversation from the same prior and the same pieces; casting, acoustics and
everything behind are shared, so that a difference is a difference of turn-taking.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.simulate.timeline_kernels import GAP, HOLD, OVERLAP, START
from operators.simulate.turn_taking import Prior

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LANDINI_LONGEST_S = 7.0
LIBRISPEECHMIX_LEAST_S = 0.5


@dataclass(frozen=True)
class Timeline:
    """Pieces in the order of speaking."""

    piece: Ints
    who: Ints
    kind: NDArray[np.int8]
    start_s: Floats
    num_dropped: int


def _place(order: list[tuple[int, int]], gaps: Floats, seconds: Floats, limit_s: float, *, own_only: bool) -> Timeline:
    """Put pieces on the timeline by a gap before each, to the end of all before; nobody overlaps themselves."""
    own_end: dict[int, float] = {}
    last_end, last = 0.0, -1
    piece: list[int] = []
    who: list[int] = []
    kind: list[int] = []
    start: list[float] = []
    dropped = 0
    for (index, speaker), gap in zip(order, gaps.tolist(), strict=True):
        begin = max(last_end + gap, own_end.get(speaker, 0.0), 0.0)
        end = begin + float(seconds[index])
        if end > limit_s and piece:
            dropped += 1
            continue
        sort = START if last < 0 else HOLD if speaker == last else GAP if begin >= last_end else OVERLAP
        piece.append(index)
        who.append(speaker)
        kind.append(sort)
        start.append(begin)
        own_end[speaker] = end
        last_end = end if own_only else max(last_end, end)
        last = speaker
    return Timeline(
        np.array(piece, np.int64), np.array(who, np.int64), np.array(kind, np.int8), np.array(start), dropped
    )


def _table(quantiles: tuple[float, ...], levels: Floats) -> Floats:
    return np.asarray(np.interp(levels, np.linspace(0, 1, len(quantiles)), np.array(quantiles)))


def sasc(
    seconds: Floats, begins: Ints, target: int, limit_s: float, prior: Prior, draw: np.random.Generator
) -> Timeline:
    """Speaker-aware simulation: a speaker's own mean gap and a deviation from it, speakers by a Markov chain.

    Means and deviations are drawn from the prior's table, split by its shares of variance (the paper's are kernel
    densities of one corpus); same-speaker and different-speaker gaps apart.

    Source: Gedeon & Mihajlik 2025, "Speaker-aware simulation of conversational speech", arXiv:2509.15808, as
    described by its authors; no code of theirs is published.
    """
    speakers = len(begins) - 1
    shares = (min(0.9, prior.conversation_share + prior.speaker_share), min(0.9, prior.pause_conversation_share))
    tables = (np.array(prior.offset_s), np.array(prior.pause_s))
    means = [t.mean() + np.sqrt(share) * (_table(tuple(t), draw.random(speakers)) - t.mean())
             for t, share in zip(tables, shares, strict=True)]  # fmt: skip
    at = begins[:-1].copy()
    order: list[tuple[int, int]] = []
    gaps = []
    last = int(draw.integers(speakers))
    hold = prior.hold_after[1]
    while len(order) < target:
        ready = [s for s in range(speakers) if at[s] < begins[s + 1]]
        if not ready:
            break
        others = [s for s in ready if s != last]
        stays = last in ready and (not others or draw.random() < hold) if order else last in ready
        speaker = last if stays else others[int(draw.integers(len(others)))]
        which = 1 if order and speaker == last else 0
        table, share = tables[which], shares[which]
        deviation = np.sqrt(1 - share) * (_table(tuple(table), draw.random(1))[0] - table.mean())
        gaps.append(means[which][speaker] + deviation if order else 0.0)
        order.append((int(at[speaker]), speaker))
        at[speaker] += 1
        last = speaker
    return _place(order, np.array(gaps), seconds, limit_s, own_only=True)


def landini(
    seconds: Floats, begins: Ints, target: int, limit_s: float, prior: Prior, draw: np.random.Generator
) -> Timeline:
    """Independent pauses and overlaps: labels shuffled, three distributions and a coin, none longer than 7 s.

    Source: Landini et al. 2022, "From simulated mixtures to simulated conversations as training data for end-to-end
    neural diarization", arXiv:2204.00890, section 3.
    """
    speakers = len(begins) - 1
    # The multiset of labels is shuffled; each speaker's pieces keep their order.
    labels = draw.permutation(np.repeat(np.arange(speakers), np.diff(begins)))[:target]
    at = begins[:-1].copy()
    offsets = np.array(prior.offset_s)
    below = float((offsets < 0).mean())
    order, gaps = [], []
    last = -1
    for speaker in labels.tolist():
        order.append((int(at[speaker]), speaker))
        at[speaker] += 1
        level = draw.random()
        if speaker == last or last < 0:
            gap = float(_table(prior.pause_s, np.array([level]))[0])
        elif draw.random() < below:
            gap = float(_table(prior.offset_s, np.array([level * below]))[0])
        else:
            gap = float(_table(prior.offset_s, np.array([below + level * (1 - below)]))[0])
        gaps.append(float(np.clip(gap, -LANDINI_LONGEST_S, LANDINI_LONGEST_S)))
        last = speaker
    return _place(order, np.array(gaps), seconds, limit_s, own_only=False)


def librispeechmix(
    seconds: Floats, begins: Ints, target: int, limit_s: float, prior: Prior, draw: np.random.Generator
) -> Timeline:
    """One utterance a speaker, each begun a uniform delay after the one before, at least half a second.

    Source: Kanda et al. 2020, "Serialized output training for end-to-end overlapped speech recognition",
    arXiv:2003.12687, section 4.1 (LibriSpeechMix). The prior is not used.
    """
    del prior
    order = [(int(begins[s]), int(s)) for s in draw.permutation(len(begins) - 1) if begins[s] < begins[s + 1]][:target]
    piece: list[int] = []
    who: list[int] = []
    kind: list[int] = []
    start: list[float] = []
    begin, end, dropped = 0.0, 0.0, 0
    for number, (index, speaker) in enumerate(order):
        if number:
            before = float(seconds[order[number - 1][0]])
            begin += float(draw.uniform(min(LIBRISPEECHMIX_LEAST_S, before), before))
        if begin + seconds[index] > limit_s and piece:
            dropped += 1
            continue
        piece.append(index)
        who.append(speaker)
        kind.append(START if not piece[:-1] else GAP if begin >= end else OVERLAP)
        start.append(begin)
        end = max(end, begin + float(seconds[index]))
    return Timeline(
        np.array(piece, np.int64), np.array(who, np.int64), np.array(kind, np.int8), np.array(start), dropped
    )


MODELS = {"sasc": sasc, "landini": landini, "librispeechmix": librispeechmix}
