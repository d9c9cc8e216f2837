"""Compiled loops that place backchannels inside the turns of others."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from operators.simulate.timing.quantile_kernels import quantile_at

_compiled: Callable[[Any], Any] = njit(cache=True, nogil=True)


@_compiled
def number_of_backchannels(u, rate, dispersion):
    """Return a negative binomial number (Poisson at a gamma rate), at most 24, by inversion of one uniform draw u."""
    share = rate / (rate + dispersion)
    chance = (1.0 - share) ** dispersion
    total, number = chance, 0
    while u > total and number < 24:
        chance *= (number + dispersion) / (number + 1) * share
        number += 1
        total += chance
    return number


@_compiled
def closest_in_length(want, picks, words, low, high, whole, whole_low, whole_high):
    """Find the words of a listener, or the utterance without word times, whose length is closest to one wanted.

    Args:
        want: length wanted, in seconds.
        picks: (8,) uniform: where to start among the words.
        words: (W, 3) utterance, start and end in seconds of each word.
        low: first word of the listener.
        high: word after the listener's last one.
        whole: (U, 2) utterance and length in seconds of those without word times.
        whole_low: first of the listener's rows in `whole`.
        whole_high: row after the last one.

    Returns:
        First word (or -1), word after the last (or the row of `whole`), length in seconds, and its distance from the
        length wanted, in seconds.
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
    """Return whether none of the speaker's segments (T,) comes within min_pause of begin..end, in seconds."""
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
    who, kind, start, length, num_speakers, draws, rates, after, dispersion, durations, onsets, words, word_begins,
    whole, whole_begins, min_pause, limit,
):  # fmt: skip
    """Place short segments of listeners inside those that hold the floor.

    Args:
        who: (T,) speaker of each segment that holds the floor.
        kind: (T,) how it began.
        start: (T,) seconds.
        length: (T,) seconds.
        num_speakers: number of speakers in the conversation.
        draws: (B, 12) uniform: number, length, onset, listener, and eight places to look for words.
        rates: (5,) mean number of backchannels by the bin of the host's length.
        after: (3,) factor on that number by how the host began.
        dispersion: shape of the gamma distribution of the hosts' rates.
        durations: (5, L) quantiles of their lengths in seconds, by that bin.
        onsets: (L,) quantiles of their onsets, as a share of the room in the host.
        words: (W, 3) utterance, start and end in seconds of each word, sorted by speaker.
        word_begins: (S + 1,) first word of each speaker, then W.
        whole: (U, 2) utterance and length in seconds of those without word times, sorted by speaker.
        whole_begins: (S + 1,) first row of `whole` of each speaker, then U.
        min_pause: least silence between two segments of one speaker, in seconds.
        limit: most backchannels that may be placed.

    Returns:
        First word (or -1), word after the last (or the row of `whole`), speaker, host, start and length in seconds of
        each backchannel (B,); and the number of backchannels that were not placed.
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
        recent = number  # of earlier backchannels only those of this host and the three before it can be near
        while recent > 0 and host_of[recent - 1] >= host - 3:
            recent -= 1
        for _ in range(wanted):
            if used >= len(draws) or number >= limit:
                break
            want = quantile_at(durations[bin_], draws[used, 1])
            where, choice = draws[used, 2], draws[used, 3]
            placed = False
            for attempt in range(4 * num_speakers):  # if a listener is busy: another listener, then another onset
                speaker = (int(choice * num_speakers) + attempt) % num_speakers
                if attempt and attempt % num_speakers == 0:
                    where = (where + 0.618) % 1.0
                if speaker == who[host]:
                    continue
                low, high = word_begins[speaker], word_begins[speaker + 1]
                whole_low, whole_high = whole_begins[speaker], whole_begins[speaker + 1]
                first, end, seconds, closest = closest_in_length(
                    want, draws[used, 4:], words, low, high, whole, whole_low, whole_high
                )
                room = length[host] - seconds
                if seconds <= 0.0 or room <= 0.02 or closest > 0.3 + 0.5 * want:
                    continue
                begin = start[host] + 0.01 + quantile_at(onsets, where) * (room - 0.02)
                stop = begin + seconds
                near = slice(recent, number)
                if is_free(speaker, begin, stop, who, start, length, min_pause) and is_free(
                    speaker, begin, stop, speaker_of[near], begin_of[near], length_of[near], min_pause
                ):
                    first_of[number], end_of[number] = first, end
                    speaker_of[number], host_of[number] = speaker, host
                    begin_of[number], length_of[number] = begin, seconds
                    number += 1
                    placed = True
                    break
            used += 1
            missed += not placed
    first_of, end_of, speaker_of = first_of[:number], end_of[:number], speaker_of[:number]
    return first_of, end_of, speaker_of, host_of[:number], begin_of[:number], length_of[:number], missed
