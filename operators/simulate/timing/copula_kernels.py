"""Compiled loops of the copula timing: who speaks when in one conversation, from draws made beforehand."""

from collections.abc import Callable
from math import exp, log1p, sqrt
from typing import Any

import numpy as np
from numba import njit

from operators.simulate.timing.quantile_kernels import normal_cdf, quantile_at, zero_crossing_level
from operators.simulate.timing.timing import GAP, HOLD, OVERLAP, START

_compiled: Callable[[Any], Any] = njit(cache=True, nogil=True)

LESS_LEFT = 1.3
"""Correction in `coupling`: of pairs with room for an overlap, those with more room have less of it left.
Found by simulation; offsets deviate by .010 (Kolmogorov-Smirnov) with 1 and by .005 with 1.3, for two and four
speakers."""


@_compiled
def coupling(offsets, lengths, back, switches, min_pause, steps):
    """Tabulate how overlaps are assigned to pairs of segments, so that all of them fit and none is clipped.

    An overlap must be shorter than both segments it joins. Let S_M(x) be the share of pairs with room for an overlap
    above x, S_X(x) the wanted share of such overlaps. Going down from the longest overlap, those still to be placed are
    given to the pairs with room in proportion to what is left of each: an overlap at hazard
    dS_X / (S_M - S_X). Then the offsets as a whole follow `offsets`, wherever S_M > S_X.

    Args:
        offsets: (L,) quantiles of the wanted offsets, in seconds.
        lengths: (P,) lengths of segments in seconds, rising.
        back: share of the switches that give the floor back to its previous holder.
        switches: share of segments that began with a change of speaker.
        min_pause: least silence between two segments of one speaker, in seconds.
        steps: rows of the table.

    Returns:
        Overlaps (steps + 1,) in seconds, falling to 0, and the hazard (steps + 1,) accumulated from 0 to each.
    """
    below = zero_crossing_level(offsets)
    overlap = np.empty(steps + 1)
    hazard = np.zeros(steps + 1)
    for step in range(steps + 1):
        overlap[step] = max(0.0, -quantile_at(offsets, below * step / steps))
    finest = max(1e-6, (2 * overlap[0] + min_pause) / 1000)
    longer = np.empty(1002)
    passed = 0
    for index in range(1002):  # share of lengths above each multiple of `finest`, in one pass
        while passed < len(lengths) and lengths[passed] <= index * finest:
            passed += 1
        longer[index] = 1.0 - passed / len(lengths)
    short_gaps = 0.0  # share of gaps shorter than a speaker's least pause
    for step in range(64):
        short_gaps += quantile_at(offsets, below + (1 - below) * (step + 0.5) / 64) < min_pause
    short_gaps *= (1 - below) / 64
    for step in range(steps - 1, -1, -1):
        x = (overlap[step] + overlap[step + 1]) / 2
        level = below * (step + 0.5) / steps
        alone = longer[int(x / finest)]
        # Where the floor goes back, its speaker's own last segment bounds the overlap: if the current segment began
        # with an overlap itself (and so was long enough for it), it still lasts that long into the current segment.
        lost = 0.0
        for other in range(4, steps, 8):
            had = overlap[other]
            room = max(1e-9, longer[int(had / finest)])
            lost += (longer[int(max(x, had) / finest)] - longer[int((x + had + min_pause) / finest)]) / room
        lost *= below / ((steps + 3) // 8)
        lost += short_gaps * (alone - longer[int((x + min_pause / 2) / finest)])
        first = alone - LESS_LEFT * back * switches * lost
        spare = first * alone - level
        hazard[step] = hazard[step + 1] + (below / steps / spare if spare > below / steps / 4 else 4.0)
    return overlap, hazard


@_compiled
def coupled_offset(u, room, offsets, overlap, hazard):
    """Return the offset in seconds at a level u, for a pair of segments with room for an overlap of `room` seconds."""
    steps = len(overlap) - 1
    low, high = 0, steps  # overlaps fall: find where they become shorter than the room
    while low < high:
        middle = (low + high) // 2
        if overlap[middle] > room:
            low = middle + 1
        else:
            high = middle
    most = hazard[low]
    if low > 0 and overlap[low - 1] > overlap[low]:
        share = (room - overlap[low]) / (overlap[low - 1] - overlap[low])
        most += share * (hazard[low - 1] - hazard[low])
    if room <= 0:
        most = 0.0
    chance = 1.0 - exp(-most)
    if u < chance:
        left = most + log1p(-u)
        step = steps
        while step > 0 and hazard[step - 1] < left:
            step -= 1
        if step == 0:
            return -min(overlap[0], room)
        share = (left - hazard[step]) / max(1e-300, hazard[step - 1] - hazard[step])
        return -min(room, overlap[step] + share * (overlap[step - 1] - overlap[step]))
    below = zero_crossing_level(offsets)
    level = (u - chance) / max(1e-12, 1.0 - chance)
    return max(0.0, quantile_at(offsets, below + level * (1.0 - below)))


@_compiled
def choose_speaker(at, begins, weights, placed, last, before, previous, left, draw, hold_after, return_share):
    """Decide who takes the floor next.

    Args:
        at: (S,) next piece of each speaker.
        begins: (S + 1,) first piece of each speaker, then P.
        weights: (S,) how readily each speaker takes the floor.
        placed: (S,) whether each speaker has had the floor.
        last: who has the floor, or -1.
        before: who had it before, or -1.
        previous: kind of the last segment.
        left: number of segments still wanted.
        draw: (3,) uniform: hold or switch, then who.
        hold_after: (3,) probability of a hold after a hold, a gap, an overlap.
        return_share: share of the switches that give the floor back, with three or more speakers.

    Returns:
        The speaker, or -1 if no one has a piece left; and whether the floor is held.
    """
    speakers = len(begins) - 1
    ready = unplaced = 0
    total = 0.0
    for s in range(speakers):
        if at[s] < begins[s + 1]:
            ready += 1
            if s != last:
                total += weights[s]
                unplaced += not placed[s]
    if ready == 0:
        return -1, False
    can_hold = last >= 0 and at[last] < begins[last + 1]
    hold = can_hold and (total == 0.0 or draw[0] < hold_after[previous if previous < 3 else 0])
    # Everyone in the cast speaks: the fewer segments are left, the likelier someone who has not spoken is next.
    if hold and unplaced and left <= unplaced:
        hold = False
    if hold:
        return last, True
    if total == 0.0:
        return -1, False
    share = draw[1]
    avoided = -1
    fresh = unplaced > 0 and share * left < unplaced
    if fresh:  # the draw is reused, rescaled from the interval that it fell into
        share = share * left / unplaced
    elif speakers > 2 and before >= 0 and before != last and at[before] < begins[before + 1]:
        if share < return_share or total == weights[before]:
            return before, False
        share = (share - return_share) / (1.0 - return_share)
        avoided = before
    pool = 0.0
    for s in range(speakers):
        if at[s] < begins[s + 1] and s != last and s != avoided and not (fresh and placed[s]):
            pool += weights[s]
    speaker = -1
    for s in range(speakers):
        if at[s] < begins[s + 1] and s != last and s != avoided and not (fresh and placed[s]):
            speaker = s
            share -= weights[s] / pool
            if share < 0:
                break
    return speaker, False


@_compiled
def start_after_hold(end, score, own_end, pace, normal, shares, pauses, min_pause):
    """Return start and pause in seconds of a segment by the speaker who has the floor.

    Args:
        end: end of the floor, in seconds.
        score: standard normal score of the length of the segment that holds it.
        own_end: end of the speaker's last segment, in seconds.
        pace: standard normal score of the conversation's pauses.
        normal: standard normal draw.
        shares: (5,) as in `floors`.
        pauses: (L,) quantiles, in seconds.
        min_pause: least silence between two segments of one speaker, in seconds.
    """
    z = sqrt(shares[3]) * pace + shares[4] * score
    z += sqrt(max(0.0, 1.0 - shares[3] - shares[4] ** 2)) * normal
    pause = max(min_pause, quantile_at(pauses, normal_cdf(z)))
    return max(end + pause, own_end + min_pause), pause


@_compiled
def floors(
    lengths, scores, begins, weights, draws, normals, tempo, pace, habits, hold_after, offset_after, return_share,
    shares, offsets, pauses, overlap, hazard, target, limit_s, min_pause,
):  # fmt: skip
    """Place segments on the floor, one after the other.

    The arguments are not grouped: unpacking tuples at every call costs 8 % of planning a conversation.

    Args:
        lengths: (P,) length of each piece in seconds, sorted by speaker.
        scores: (P,) standard normal score of each length among all.
        begins: (S + 1,) first piece of each speaker, then P.
        weights: (S,) how readily each speaker takes the floor.
        draws: (A, 3) uniform: hold or switch, who, and the first start.
        normals: (A, 2) standard normal: offsets and pauses.
        tempo: standard normal score of the conversation's offsets.
        pace: standard normal score of the conversation's pauses.
        habits: (S,) standard normal scores of the speakers' offsets.
        hold_after: (3,) probability of a hold after a hold, a gap, an overlap.
        offset_after: (2,) mean normal score of offsets after a hold, after a change of speaker.
        return_share: share of the switches that give the floor back, with three or more speakers.
        shares: (5,) shares of variance: conversation, speaker, serial correlation, conversation (pauses); and the
            correlation of a pause with the length of the segment before it.
        offsets: (L,) quantiles, in seconds.
        pauses: (L,) quantiles, in seconds.
        overlap: of `coupling`.
        hazard: of `coupling`.
        target: number of segments wanted.
        limit_s: no segment may end later, except the first.
        min_pause: least silence between two segments of one speaker, in seconds.

    Returns:
        Piece, speaker, kind, start and offset in seconds of each segment (T,); numbers of offsets clipped and of
        pieces dropped.
    """
    speakers = len(begins) - 1
    at = begins[:-1].copy()
    most = len(lengths)
    piece, who, kind = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int8)
    start, offset = np.empty(most), np.empty(most)
    own_end = np.full(speakers, -1e9)
    placed = np.zeros(speakers, np.bool_)
    number = clipped = dropped = 0
    last = before = -1
    serial = 0.0
    rest_sd = sqrt(max(0.0, 1.0 - shares[0] - shares[1]))
    for attempt in range(len(draws)):
        if number >= target:
            break
        previous = kind[number - 1] if number else START
        left, draw = target - number, draws[attempt]
        speaker, hold = choose_speaker(
            at, begins, weights, placed, last, before, previous, left, draw, hold_after, return_share
        )
        if speaker < 0:
            break
        index = at[speaker]
        length = lengths[index]
        if number == 0:
            begin, gap, transition = draws[attempt, 2] * 0.4, 0.0, START
        else:
            end = start[number - 1] + lengths[piece[number - 1]]
            if hold:
                transition = HOLD
                score = scores[piece[number - 1]]
                begin, gap = start_after_hold(
                    end, score, own_end[speaker], pace, normals[attempt, 1], shares, pauses, min_pause
                )
            else:
                serial = shares[2] * serial + sqrt(max(0.0, 1.0 - shares[2] ** 2)) * normals[attempt, 0]
                z = sqrt(shares[0]) * tempo + sqrt(shares[1]) * habits[speaker] + rest_sd * serial
                if previous < 3:
                    z += offset_after[0 if previous == HOLD else 1]
                room = min(end - start[number - 1], length) - 0.01
                room = min(room, end - own_end[speaker] - min_pause)
                wanted = coupled_offset(normal_cdf(z), room, offsets, overlap, hazard)
                begin = max(end + wanted, own_end[speaker] + min_pause)
                clipped += begin > end + wanted + 1e-9
                gap = begin - end
                transition = GAP if gap >= 0 else OVERLAP
        if begin + length > limit_s and number:
            dropped += begins[speaker + 1] - at[speaker]
            at[speaker] = begins[speaker + 1]  # the speaker's later pieces would not fit either
            continue
        piece[number], who[number], kind[number], start[number], offset[number] = index, speaker, transition, begin, gap
        own_end[speaker] = begin + length
        placed[speaker] = True
        if speaker != last:
            before, last = last, speaker
        at[speaker] += 1
        number += 1
    return piece[:number], who[:number], kind[:number], start[:number], offset[:number], clipped, dropped
