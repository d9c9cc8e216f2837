"""LibriSpeechMix: one utterance per speaker, each starting while the one before it lasts."""

import numpy as np

from operators.simulate.timing.timing import GAP, OVERLAP, START, Pool, Timeline, Timing, Traits, timeline_of

LEAST_DELAY_S = 0.5
"""Shortest delay after the start of the previous utterance, in seconds."""


class LibriSpeechMix(Timing):
    """One utterance per speaker, each starting a uniform delay after the start of the previous one."""

    name = "librispeechmix"
    source = (
        'Kanda et al. 2020, "Serialized output training for end-to-end overlapped speech recognition", '
        "arXiv:2003.12687, section 4.1 (LibriSpeechMix)"
    )

    def __call__(self, pool: Pool, traits: Traits, draw: np.random.Generator) -> Timeline:
        """Return the timeline of one conversation; neither its traits nor the prior are used."""
        del traits
        begins = pool.begins
        speakers = draw.permutation(len(begins) - 1)
        order = [(int(begins[s]), int(s)) for s in speakers if begins[s] < begins[s + 1]][: pool.target]
        piece: list[int] = []
        who: list[int] = []
        kind: list[int] = []
        start: list[float] = []
        begin, end, dropped = 0.0, 0.0, 0
        for number, (index, speaker) in enumerate(order):
            if number:
                previous_s = float(pool.seconds[order[number - 1][0]])
                begin += float(draw.uniform(min(LEAST_DELAY_S, previous_s), previous_s))
            if begin + pool.seconds[index] > pool.limit_s and piece:
                dropped += 1
                continue
            piece.append(index)
            who.append(speaker)
            kind.append(START if not piece[:-1] else GAP if begin >= end else OVERLAP)
            start.append(begin)
            end = max(end, begin + float(pool.seconds[index]))
        return timeline_of(piece, who, kind, start, dropped)
