"""Compiled loops of turn-taking: who speaks when in one conversation, from draws that were made before."""

from collections.abc import Callable
from math import erfc, exp, log1p, sqrt
from typing import Any

import numpy as np
from numba import njit

_compiled: Callable[[Any], Any] = njit(cache=True, nogil=True)

LESS_LEFT = 1.3
"""Of pairs with room for an overlap, those with more room have less of it left: what `coupling` takes off for that.
Found by simulation; with 1 offsets are .010 (Kolmogorov-Smirnov) off, with 1.3 .005, for two and four speakers."""

HOLD, GAP, OVERLAP, BACKCHANNEL, START = 0, 1, 2, 3, 4


@_compiled
def at_level(table, level):
    """Read a table of quantiles at even levels from 0 to 1."""
    place = min(max(level, 0.0), 1.0) * (len(table) - 1)
    index = min(int(place), len(table) - 2)
    return table[index] + (place - index) * (table[index + 1] - table[index])


@_compiled
def level_of_zero(table):
    """Return the level at which a rising table of quantiles passes 0."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if at_level(table, middle) < 0:
            low = middle
        else:
            high = middle
    return low


@_compiled
def coupling(offsets, lengths, back, switches, min_pause, steps):
    """Tabulate how overlaps are shared out between pairs of segments, so that all fit and none is cut.

    An overlap must be shorter than both segments it joins. Let S_M(x) be the share of pairs with room for an overlap
    above x, S_X(x) the wanted share of such overlaps. Going down from the longest overlap, those still to be placed are
    given to the pairs with room in proportion to what is left of each: an overlap at hazard
    dS_X / (S_M - S_X). Then the offsets as a whole follow `offsets`, wherever S_M > S_X.

    Args:
        offsets: quantiles wanted.
        lengths: of segments, in seconds, rising.
        back: how often the floor goes back to who had it before.
        switches: share of segments that began with a change of speaker.
        min_pause: seconds between two segments of one speaker.
        steps: rows of the table.

    Returns:
        Overlaps in seconds, falling to 0, and the hazard summed up from 0 to each.
    """
    below = level_of_zero(offsets)
    overlap = np.empty(steps + 1)
    hazard = np.zeros(steps + 1)
    for step in range(steps + 1):
        overlap[step] = max(0.0, -at_level(offsets, below * step / steps))
    finest = max(1e-6, (2 * overlap[0] + min_pause) / 1000)
    longer = np.empty(1002)
    passed = 0
    for index in range(1002):  # share of lengths above each step, in one pass
        while passed < len(lengths) and lengths[passed] <= index * finest:
            passed += 1
        longer[index] = 1.0 - passed / len(lengths)
    short_gaps = 0.0  # share of gaps shorter than the least pause of a speaker
    for step in range(64):
        short_gaps += at_level(offsets, below + (1 - below) * (step + 0.5) / 64) < min_pause
    short_gaps *= (1 - below) / 64
    for step in range(steps - 1, -1, -1):
        x = (overlap[step] + overlap[step + 1]) / 2
        level = below * (step + 0.5) / steps
        alone = longer[int(x / finest)]
        # Where the floor goes back, its speaker's own last words bound the overlap: they end that much after the
        # segment now on the floor began, if that one began with an overlap itself (and so was long enough for it).
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
def offset_of(u, room, offsets, overlap, hazard):
    """Return the offset at a level, for a pair of segments with room for so long an overlap."""
    steps = len(overlap) - 1
    low, high = 0, steps  # overlap falls: find where it passes the room
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
    below = level_of_zero(offsets)
    level = (u - chance) / max(1e-12, 1.0 - chance)
    return max(0.0, at_level(offsets, below + level * (1.0 - below)))


@_compiled
def normal_level(z):
    """Return the share of a standard normal below z."""
    return 0.5 * erfc(-z / sqrt(2.0))


@_compiled
def choose_speaker(at, begins, weights, placed, last, before, previous, left, draw, hold_after, return_share):
    """Decide who takes the floor next.

    Args:
        at: next piece of each speaker.
        begins: where each speaker's pieces begin, and the end of the last.
        weights: how readily each speaker takes the floor.
        placed: whether each speaker has had the floor.
        last: who has the floor, or -1.
        before: who had it before, or -1.
        previous: kind of the last segment.
        left: segments that are still wanted.
        draw: (3,) uniform: hold or switch, and who.
        hold_after: chance of a hold after a hold, a gap, an overlap.
        return_share: how often the floor goes back, among three or more.

    Returns:
        The speaker, or -1 where no one can go on; and whether the floor is held.
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
    if fresh:  # the draw is used again, spread over the interval that it was found in
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
def floors(
    lengths, scores, begins, weights, draws, normals, tempo, pace, habits,
    hold_after, offset_after, return_share, shares, offsets, pauses, overlap, hazard, target, limit_s, min_pause,
):  # fmt: skip
    """Place segments on the floor, one after the other.

    Args:
        lengths: seconds of each piece, by speaker.
        scores: standard normal, of each length among all.
        begins: where each speaker's pieces begin, and the end of the last.
        weights: how readily each speaker takes the floor.
        draws: (A, 3) uniform: hold or switch, who, and a first offset.
        normals: (A, 2) standard normal: offsets and pauses.
        tempo: standard normal, the conversation's, of offsets.
        pace: standard normal, the conversation's, of pauses.
        habits: standard normal, each speaker's.
        hold_after: chance of a hold after a hold, a gap, an overlap.
        offset_after: mean standard normal of offsets after a hold, after a change of speaker.
        return_share: how often the floor goes back, among three or more.
        shares: of variance: conversation, speaker, serial correlation, pauses' conversation; and the correlation of a
            pause with the length of the segment before.
        offsets: quantiles.
        pauses: quantiles.
        overlap: of `coupling`.
        hazard: of `coupling`.
        target: segments wanted.
        limit_s: none may end later.
        min_pause: seconds between two segments of one speaker.

    Returns:
        Piece, speaker, kind, start in seconds and offset of each, and how many offsets were cut, pieces dropped.
    """
    speakers = len(begins) - 1
    at = begins[:-1].copy()
    most = len(lengths)
    piece, who, kind = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int8)
    start, offset = np.empty(most), np.empty(most)
    own_end = np.full(speakers, -1e9)
    placed = np.zeros(speakers, np.bool_)
    number = cut = dropped = 0
    last = before = -1
    serial = 0.0
    alone = sqrt(max(0.0, 1.0 - shares[0] - shares[1]))
    for attempt in range(len(draws)):
        if number >= target:
            break
        previous = kind[number - 1] if number else START
        speaker, hold = choose_speaker(
            at, begins, weights, placed, last, before, previous, target - number, draws[attempt], hold_after,
            return_share,
        )  # fmt: skip
        if speaker < 0:
            break
        index = at[speaker]
        length = lengths[index]
        if number == 0:
            begin, gap, sort = draws[attempt, 2] * 0.4, 0.0, START
        else:
            end = start[number - 1] + lengths[piece[number - 1]]
            if hold:
                z = sqrt(shares[3]) * pace + shares[4] * scores[piece[number - 1]]
                z += sqrt(max(0.0, 1.0 - shares[3] - shares[4] ** 2)) * normals[attempt, 1]
                gap = max(min_pause, at_level(pauses, normal_level(z)))
                sort = HOLD
                begin = max(end + gap, own_end[speaker] + min_pause)
            else:
                serial = shares[2] * serial + sqrt(max(0.0, 1.0 - shares[2] ** 2)) * normals[attempt, 0]
                z = sqrt(shares[0]) * tempo + sqrt(shares[1]) * habits[speaker] + alone * serial
                if previous < 3:
                    z += offset_after[0 if previous == HOLD else 1]
                room = min(end - start[number - 1], length) - 0.01
                room = min(room, end - own_end[speaker] - min_pause)
                wanted = offset_of(normal_level(z), room, offsets, overlap, hazard)
                begin = max(end + wanted, own_end[speaker] + min_pause)
                cut += begin > end + wanted + 1e-9
                gap = begin - end
                sort = GAP if gap >= 0 else OVERLAP
        if begin + length > limit_s and number:
            dropped += begins[speaker + 1] - at[speaker]
            at[speaker] = begins[speaker + 1]  # what follows in the story would not fit either
            continue
        piece[number], who[number], kind[number], start[number], offset[number] = index, speaker, sort, begin, gap
        own_end[speaker] = begin + length
        placed[speaker] = True
        if speaker != last:
            before, last = last, speaker
        at[speaker] += 1
        number += 1
    return piece[:number], who[:number], kind[:number], start[:number], offset[:number], cut, dropped


@_compiled
def number_of_backchannels(u, rate, dispersion):
    """Return a negative binomial number (Poisson at a gamma rate) by inversion of one uniform draw."""
    share = rate / (rate + dispersion)
    chance = (1.0 - share) ** dispersion
    total, number = chance, 0
    while u > total and number < 24:
        chance *= (number + dispersion) / (number + 1) * share
        number += 1
        total += chance
    return number


@_compiled
def closest_stretch(want, picks, words, low, high, whole, whole_low, whole_high):
    """Find the stretch of a listener's words, or the utterance without word times, whose length is closest to one.

    Args:
        want: seconds.
        picks: (8,) uniform: where to look among the words.
        words: (W, 3) utterance, start and end in seconds of each word.
        low: first word of the listener.
        high: end of the listener's words.
        whole: (U, 2) utterance and length in seconds of those without word times.
        whole_low: first of the listener's.
        whole_high: end of the listener's.

    Returns:
        First word (or -1), end word (or the utterance), seconds, and by how much they differ.
    """
    first = end = -1
    closest = np.inf
    seconds = 0.0
    for pick in range(8):
        if low == high:
            break
        begin_word = low + int(picks[pick] * (high - low))
        for word in range(begin_word, high):
            if words[word, 0] != words[begin_word, 0]:
                break
            lasts = words[word, 2] - words[begin_word, 1]
            if abs(lasts - want) < closest:
                closest, first, end, seconds = abs(lasts - want), begin_word, word + 1, lasts
            if lasts > want:
                break
    for index in range(whole_low, whole_high):
        if abs(whole[index, 1] - want) < min(closest, 0.3 + 0.5 * want):
            closest, first, end, seconds = abs(whole[index, 1] - want), -1, index, whole[index, 1]
    return first, end, seconds, closest


@_compiled
def is_free(speaker, begin, end, who, start, length, min_pause):
    """Return whether a speaker says nothing else from min_pause before a stretch to min_pause after it."""
    for other in range(len(who)):
        if (
            who[other] == speaker
            and start[other] < end + min_pause
            and start[other] + length[other] > begin - min_pause
        ):
            return False
    return True


@_compiled
def backchannels(
    who, kind, start, length, num_speakers, draws, rates, after, dispersion, durations, onsets,
    words, word_begins, whole, whole_begins, min_pause, limit,
):  # fmt: skip
    """Place short segments of listeners inside those that hold the floor.

    Args:
        who: speaker of each floor segment.
        kind: how it began.
        start: seconds.
        length: seconds.
        num_speakers: in the conversation.
        draws: (B, 12) uniform: how many, how long, where, who, and which, eight times.
        rates: mean number by the bin of the host's length.
        after: how many times that, by how the host began.
        dispersion: shape of the gamma distribution that hosts' rates follow.
        durations: quantiles of lengths by that bin.
        onsets: quantiles of onsets, as a share of the room there is.
        words: (W, 3) utterance, start and end in seconds of each word, by speaker.
        word_begins: where each speaker's begin.
        whole: (U, 2) utterance and length of those without word times, by speaker.
        whole_begins: where each speaker's begin.
        min_pause: seconds between two segments of one speaker.
        limit: most that may be placed.

    Returns:
        First and end word (or -1 and an utterance), speaker, host, start and length in seconds, and how many found
        no place.
    """
    edges = (0.0, 2.0, 5.0, 10.0, 20.0)
    first_of, end_of = np.empty(limit, np.int64), np.empty(limit, np.int64)
    speaker_of, host_of = np.empty(limit, np.int64), np.empty(limit, np.int64)
    begin_of, length_of = np.empty(limit), np.empty(limit)
    number = missed = used = 0
    for host in range(len(who)):
        bin_ = 0
        for edge in range(1, 5):
            if length[host] >= edges[edge]:
                bin_ = edge
        if used >= len(draws):
            break
        rate = rates[bin_] * (after[kind[host]] if kind[host] < 3 else 1.0)
        wanted = number_of_backchannels(draws[used, 0], rate, dispersion)
        if wanted == 0:
            used += 1
            continue
        recent = number  # backchannels of this host and the three before it may still be heard
        while recent > 0 and host_of[recent - 1] >= host - 3:
            recent -= 1
        for _ in range(wanted):
            if used >= len(draws) or number >= limit:
                break
            want = at_level(durations[bin_], draws[used, 1])
            where, choice = draws[used, 2], draws[used, 3]
            placed = False
            for attempt in range(4 * num_speakers):  # where one listener is busy, another place or another listener
                speaker = (int(choice * num_speakers) + attempt) % num_speakers
                if attempt and attempt % num_speakers == 0:
                    where = (where + 0.618) % 1.0
                if speaker == who[host]:
                    continue
                first, end, seconds, closest = closest_stretch(
                    want, draws[used, 4:], words, word_begins[speaker], word_begins[speaker + 1],
                    whole, whole_begins[speaker], whole_begins[speaker + 1],
                )  # fmt: skip
                room = length[host] - seconds
                if seconds <= 0.0 or room <= 0.02 or closest > 0.3 + 0.5 * want:
                    continue
                begin = start[host] + 0.01 + at_level(onsets, where) * (room - 0.02)
                if is_free(speaker, begin, begin + seconds, who, start, length, min_pause) and is_free(
                    speaker, begin, begin + seconds, speaker_of[recent:number], begin_of[recent:number],
                    length_of[recent:number], min_pause,
                ):  # fmt: skip
                    first_of[number], end_of[number] = first, end
                    speaker_of[number], host_of[number] = speaker, host
                    begin_of[number], length_of[number] = begin, seconds
                    number += 1
                    placed = True
                    break
            used += 1
            missed += not placed
    return (
        first_of[:number], end_of[:number], speaker_of[:number], host_of[:number], begin_of[:number],
        length_of[:number], missed,
    )  # fmt: skip
