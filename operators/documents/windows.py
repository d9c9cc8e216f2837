"""Windows: pieces of a conversation, cut at silences, each of which becomes one document per task."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from operators.documents.split_turns import Turn, part_between, word_spans


@dataclass(frozen=True)
class Window:
    """A piece of a conversation: frames [start_frame, end_frame), turns carried over, and turns that are new."""

    start_frame: int
    end_frame: int
    carried: tuple[Turn, ...]
    """Turns of the window before that are in this one's audio again; their text is part of the prompt."""
    turns: tuple[Turn, ...]
    """Turns that are new in this window; their text is the target of a transcription."""
    voices: Mapping[str, tuple[int, int]] | None = None
    """Frames of each voice sample in the prompt, by speaker, where they are known otherwise than from the truth."""
    split: tuple[int, int] | None = None
    """Words and turns that the cut at the window's end goes through; None where it is in a silence."""


def windows(turns: Sequence[Turn], num_frames: int, length: int, overlap: int) -> list[Window]:
    """Cut a conversation into windows: where no one speaks, or through the fewest words where speech has no pause.

    Args:
        turns: by start, with start_frame, num_frames, text and words.
        num_frames: of the whole conversation.
        length: frames of a window at most.
        overlap: frames that a window may reach back before its first new turn. Turns that lie wholly within them are
            carried over: their audio is repeated and their text is given in the prompt, so that tags stay the same.

    >>> talk = [{"start_frame": s, "num_frames": 40} for s in (0, 50, 100)]
    >>> [(w.start_frame, w.end_frame, len(w.carried), len(w.turns)) for w in windows(talk, 150, 100, 60)]
    [(0, 95, 0, 2), (45, 145, 1, 1)]
    """
    if num_frames <= length:
        return [Window(0, num_frames, (), tuple(turns))]
    islands = [piece for island in _islands(turns) for piece in _pieces(island, length)]
    # Cut in the middle of the silence between two islands.
    cuts = [0, *((a.end + b.start) // 2 for a, b in itertools.pairwise(islands)), num_frames]
    found: list[Window] = []
    first = 0
    while first < len(islands):
        back = first
        while back > 0 and cuts[first] - cuts[back - 1] <= overlap:
            back -= 1
        while back < first and islands[first].end - cuts[back] > length:
            back += 1  # carry less where the new turns would not fit
        start = max(cuts[back], islands[first].end - length)  # drop silence rather than speech
        last = first
        while last + 1 < len(islands) and islands[last + 1].end - start <= length:
            last += 1
        end = min(cuts[last + 1], start + length)
        carried = tuple(turn for island in islands[back:first] for turn in island.turns)
        new = tuple(turn for island in islands[first : last + 1] for turn in island.turns)
        found.append(Window(start, end, carried, new, split=islands[last].split))
        first = last + 1
    return found


@dataclass(frozen=True)
class _Island:
    """A stretch throughout which at least one speaker speaks, or a piece of one that is longer than a window."""

    start: int
    end: int
    turns: list[Turn]
    split: tuple[int, int] | None = None
    """Words and turns that the cut at its end goes through; None at the end of the whole stretch."""


def _islands(turns: Sequence[Turn]) -> list[_Island]:
    islands: list[_Island] = []
    for turn in turns:
        start, end = turn["start_frame"], turn["start_frame"] + turn["num_frames"]
        if islands and start < islands[-1].end:
            islands[-1] = _Island(islands[-1].start, max(end, islands[-1].end), [*islands[-1].turns, turn])
        else:
            islands.append(_Island(start, end, [turn]))
    return islands


def _pieces(island: _Island, length: int) -> list[_Island]:
    """Cut an island that is longer than a window into pieces that are not.

    Lively meetings go on for minutes without a silence. Each cut is in the later half of what fits, where it goes
    through the fewest words, then the fewest turns, then as late as possible.
    """
    found: list[_Island] = []
    start = island.start
    while island.end - start > length:
        frame, split = _best_cut(island.turns, start + max(1, length // 2), start + length)
        found.append(_Island(start, frame, _between(island.turns, start, frame), split))
        start = frame
    return [*found, _Island(start, island.end, _between(island.turns, start, island.end))] if found else [island]


def _between(turns: Sequence[Turn], start: int, end: int) -> list[Turn]:
    parts = (part_between(turn, start, end) for turn in turns)
    return [part for part in parts if part is not None]


def _best_cut(turns: Sequence[Turn], first: int, last: int) -> tuple[int, tuple[int, int]]:
    """Return the frame in [first, last] at which to cut, and the words and turns that this goes through.

    The words of a turn without word times are where its letters would be, so a cut through it may tear one: it counts
    as going through a word everywhere.
    """
    words, whole = np.zeros(last - first + 2, np.int64), np.zeros(last - first + 2, np.int64)
    for turn in turns:
        span = (turn["start_frame"], turn["start_frame"] + turn["num_frames"])
        if span[1] <= first or span[0] >= last:
            continue
        timed = [(start, end) for _, start, end in word_spans(turn)] if turn["words"] else [span]
        for counts, spans in ((words, timed), (whole, [span])):
            for start, end in spans:
                # A cut at a word's first or last frame does not go through it.
                counts[min(max(start + 1, first), last + 1) - first] += 1
                counts[min(max(end, first), last + 1) - first] -= 1
    through = np.cumsum(words)[:-1], np.cumsum(whole)[:-1]
    frames = np.arange(first, last + 1)
    best = np.lexsort((-frames, through[1], through[0]))[0]
    return int(frames[best]), (int(through[0][best]), int(through[1][best]))
