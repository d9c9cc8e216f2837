"""The judge: real utterances of test speakers at the times at which people started to speak in AMI's dev meetings.

No simulator decides who speaks when. A window starts where a turn starts in silence, and ends where a turn starts or
ends, 5 to 12 s later; exactly two people speak in it, and both at once for 20 to 40 % of its speech. Each of its turns
becomes an utterance, without the silence at its ends, of about the turn's length: starts are AMI's to the sample, ends
are the utterance's. A turn that the window's end cuts counts as long as its part in the window.

Utterances last 1.3 to 6.2 s, so that windows with shorter turns (backchannels above all) cannot be filled, and are left
out.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from operators.corpus.segments import Segment
from operators.rng import rng
from operators.simulate.converse import Converse
from operators.simulate.frozen import RATE_HZ, Spoken, share_of_overlap
from operators.simulate.turn_taking import merge_segments

LENGTHS_S = (5.0, 12.0)
SHARES = (0.2, 0.4)
"""Of overlapped time in the time with speech."""
TOLERANCE_S = 0.25
"""Most by which an utterance may be shorter or longer than its turn."""
REUSE_S = 0.05
"""What a repetition of an utterance costs in its choice."""
LARGEST_GAIN_DB = 6.0


@dataclass(frozen=True)
class Window:
    """A stretch of a meeting; times in samples from its start."""

    meeting: str
    start_s: float
    turns: tuple[tuple[int, int, str], ...]
    """Start, end and speaker of each, by start; what a turn lasts after the window's end is not counted."""
    is_whole: bool
    """Whether no turn is cut by the window's end."""

    @property
    def end_s(self) -> float:
        """In seconds of the meeting."""
        return self.start_s + max(end for _, end, _ in self.turns) / RATE_HZ

    @property
    def conversation_id(self) -> str:
        """Meeting, and start in hundredths of a second: the resolution of its RTTM."""
        return f"{self.meeting}-{round(100 * self.start_s):06d}"


@dataclass
class Judge:
    """The mixtures, and what the meetings offered."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of a list of given conversations."""
    num_windows: int = 0
    """Windows that do not overlap each other, whether they can be filled or not."""
    num_whole: int = 0
    """The same of windows that cut no turn."""


def is_within(value: float, bounds: tuple[float, float]) -> bool:
    """Tell whether a value is in a closed interval."""
    return bounds[0] <= value <= bounds[1]


def windows_of(meeting: str, segments: Sequence[Segment]) -> Iterator[list[Window]]:
    """Yield, for each start in silence, the windows that start there, the shortest first."""
    turns, end_s = merge_segments(segments), 0.0
    for number, first in enumerate(turns):
        in_silence, end_s = first.start_s >= end_s, max(end_s, first.end_s)
        if not in_silence:
            continue
        near = [turn for turn in turns[number:] if turn.start_s < first.start_s + LENGTHS_S[1]]
        edges = sorted({time for turn in near for time in (turn.start_s, turn.end_s)} - {first.start_s})
        found = dict.fromkeys(_cut(meeting, near, edge) for edge in edges)  # silence at the end makes no other window
        if kept := [window for window in found if _is_wanted(window)]:
            yield kept


def _cut(meeting: str, near: Sequence[Segment], edge_s: float) -> Window:
    start_s = near[0].start_s
    inside = [turn for turn in near if turn.start_s < edge_s]
    turns = tuple(
        (round((turn.start_s - start_s) * RATE_HZ), round((min(turn.end_s, edge_s) - start_s) * RATE_HZ), turn.speaker)
        for turn in inside
    )
    return Window(meeting, start_s, turns, all(turn.end_s <= edge_s for turn in inside))


def _is_wanted(window: Window) -> bool:
    return len({speaker for *_, speaker in window.turns}) == 2 and _is_in_bounds([turn[:2] for turn in window.turns])


def _is_in_bounds(spans: Sequence[tuple[int, int]]) -> bool:
    """Tell whether length and overlap are those wanted, of turns from start to end in samples."""
    return is_within(max(end for _, end in spans) / RATE_HZ, LENGTHS_S) and is_within(share_of_overlap(spans), SHARES)


def apart(found: Sequence[Sequence[Window]]) -> int:
    """Return how many windows fit beside each other in one meeting, the earliest and shortest first."""
    number, free_s = 0, 0.0
    for windows in found:
        if windows[0].start_s >= free_s:
            number, free_s = number + 1, windows[0].end_s
    return number


def closest(
    turns: Sequence[tuple[int, int, str]], spoken: Sequence[Spoken], uses: Counter[str]
) -> tuple[float, list[Spoken]] | None:
    """Return utterances whose lengths differ least from those of one person's turns, and by how many samples in all.

    An utterance counts as REUSE_S longer off for each time it was used (`uses`, by id). None where one differs by more
    than the tolerance, or lasts into the person's next turn.
    """
    if len(turns) > len(spoken):
        return None
    lengths = np.array([one.num_samples for one in spoken])
    difference = np.abs(lengths - np.array([[end - start] for start, end, _ in turns]))
    cost = difference + REUSE_S * RATE_HZ * np.array([uses[one.row["id"]] for one in spoken])
    which = linear_sum_assignment(cost)
    if difference[which].max() > TOLERANCE_S * RATE_HZ:
        return None
    said = [spoken[number] for number in which[1]]
    ends = [start + one.num_samples for (start, *_), one in zip(turns, said, strict=True)]
    if any(end > following[0] for end, following in zip(ends, turns[1:], strict=False)):
        return None
    return float(cost[which].sum()), said


def filled(window: Window, corpus: Mapping[str, Sequence[Spoken]], uses: Counter[str]) -> dict[str, Any] | None:
    """Return a window as a row of a list of given conversations, or None where no two speakers fill it within bounds.

    Of the pairs of speakers who do, the one is taken that was used least so far (`uses`, by name, and by id for
    utterances), then that of the closest lengths.
    """
    people = list(dict.fromkeys(speaker for *_, speaker in window.turns))
    own = [[turn for turn in window.turns if turn[2] == person] for person in people]
    fits = [{name: fit for name in sorted(corpus) if (fit := closest(turns, corpus[name], uses))} for turns in own]
    best: tuple[tuple[float, float], tuple[str, ...], list[tuple[int, Spoken]]] | None = None
    for pair in itertools.permutations(sorted(corpus), 2):
        if any(name not in fit for name, fit in zip(pair, fits, strict=True)):
            continue
        both = [fit[name] for name, fit in zip(pair, fits, strict=True)]
        key = (float(sum(uses[name] for name in pair)), sum(cost for cost, _ in both))
        if best is not None and key >= best[0]:
            continue
        starts = [[start for start, *_ in turns] for turns in own]
        said = sorted(
            (
                (start, one)
                for some, (_, spoken) in zip(starts, both, strict=True)
                for start, one in zip(some, spoken, strict=True)
            ),
            key=lambda placed: placed[0],
        )
        spans = [(start, start + one.num_samples) for start, one in said]
        if _is_in_bounds(spans):
            best = key, pair, said
    if best is None:
        return None
    uses.update([*best[1], *(one.row["id"] for _, one in best[2])])
    columns = {"condition": "overlap", "meeting": window.meeting, "meeting_start_s": window.start_s}
    return given(window.conversation_id, "test", best[2], columns)


def given(
    conversation_id: str, split: str, said: Sequence[tuple[int, Spoken]], columns: Mapping[str, Any], tail: int = 0
) -> dict[str, Any]:
    """Return a row of a list of given conversations.

    Speakers have levels as in conversations that the program simulates: normally distributed, one for each speaker.

    Args:
        conversation_id: its name, which its levels are drawn by.
        split: train or test.
        said: start in samples of each utterance, by start.
        columns: to slice scores by; the share of overlap is added.
        tail: samples after the last utterance's end.
    """
    spans = [(start, start + one.num_samples) for start, one in said]
    names = list(dict.fromkeys(one.row["speaker"] for _, one in said))
    drawn_db = rng(0, "levels", conversation_id).normal(0.0, Converse().speaker_gain_sd_db, len(names))
    gain_db = dict(zip(names, np.clip(drawn_db, -LARGEST_GAIN_DB, LARGEST_GAIN_DB).round(3).tolist(), strict=True))
    turns = [
        {
            "utterance_id": one.row["id"],
            "audio": one.row["audio"],
            "speaker": one.row["speaker"],
            "gender": one.row["gender"],
            "text": one.row["text"],
            "start_sample": start,
            "source_start_sample": one.start,
            "source_num_samples": one.num_samples,
            "gain_db": gain_db[one.row["speaker"]],
        }
        for start, one in said
    ]
    return {
        "conversation_id": conversation_id,
        "split": split,
        "sample_rate_hz": RATE_HZ,
        "num_samples": max(end for _, end in spans) + tail,
        "columns": {**columns, "overlap_share": round(share_of_overlap(spans), 4)},
        "turns": turns,
    }


def overlaps(meetings: Mapping[str, Sequence[Segment]], corpus: Mapping[str, Sequence[Spoken]]) -> Judge:
    """Fill every window that can be filled, one beside the other in each meeting.

    Args:
        meetings: who speaks when in each.
        corpus: utterances by speaker.
    """
    judge, uses = Judge(), Counter[str]()
    for meeting, segments in sorted(meetings.items()):
        found = list(windows_of(meeting, segments))
        whole = [[window for window in windows if window.is_whole] for windows in found]
        judge.num_windows += apart(found)
        judge.num_whole += apart([windows for windows in whole if windows])
        free_s = 0.0
        for windows in found:
            if windows[0].start_s < free_s:
                continue
            for window in windows:
                row = filled(window, corpus, uses)
                if row is not None:
                    judge.rows.append(row)
                    free_s = window.end_s
                    break
    return judge


def singles(corpus: Mapping[str, Sequence[Spoken]]) -> list[dict[str, Any]]:
    """Return every utterance as a mixture of its own."""
    return [
        given(f"single-{one.row['id']}", "test", [(0, one)], {"condition": "single"})
        for name in sorted(corpus)
        for one in corpus[name]
    ]


def reference(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns of mixtures as entries of SegLST, which `hubbub score` and `hubbub compare` read."""
    return [
        {
            "session_id": row["conversation_id"],
            "speaker": turn["speaker"],
            "start_time": turn["start_sample"] / RATE_HZ,
            "end_time": (turn["start_sample"] + turn["source_num_samples"]) / RATE_HZ,
            "words": turn["text"],
        }
        for row in rows
        for turn in row["turns"]
    ]
